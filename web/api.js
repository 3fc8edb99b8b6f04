// Requests to the server that served this page, and the server-sent events that come back.

// Reads "event:"/"data:" blocks from a fetch response: yields {event, data} until the stream ends.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      let end;
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const block = { event: "message", data: "" };
        for (const line of buffer.slice(0, end).split("\n")) {
          if (line.startsWith("event:")) block.event = line.slice(6).trim();
          if (line.startsWith("data:")) block.data += line.slice(5).trimStart();
        }
        buffer = buffer.slice(end + 2);
        if (block.data) yield block;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// fetch with the key; a refusal becomes an Error that says what the server said.
export async function request(path, { key, signal, body } = {}) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message ?? message;
  } catch { /* not JSON: the status says enough */ }
  const fault = new Error(message);
  fault.status = response.status;
  throw fault;
}
