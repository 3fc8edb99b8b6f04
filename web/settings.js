// The settings dialog; kept in this browser. The API key stays in this tab alone.
const dialog = document.getElementById("settings");
const form = dialog.querySelector("form");
const fault = document.getElementById("tools-fault");
const numbers = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const kept = ["system", "thinking", "tools", ...numbers];

function load() {
  const saved = JSON.parse(localStorage.getItem("minimo.settings") ?? "{}");
  for (const name of kept) form.elements[name].value = saved[name] ?? "";
  form.elements.key.value = sessionStorage.getItem("minimo.key") ?? "";
}

function save() {
  localStorage.setItem("minimo.settings", JSON.stringify(Object.fromEntries(kept.map((n) => [n, form.elements[n].value]))));
  sessionStorage.setItem("minimo.key", form.elements.key.value.trim());
}

function parsedTools() {
  const text = form.elements.tools.value.trim();
  if (!text) return undefined;
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new Error("expected a JSON list of tools");
  return tools;
}

form.addEventListener("submit", (event) => {
  try {
    parsedTools();
    fault.hidden = true;
    save();
    dialog.dispatchEvent(new Event("saved"));
  } catch (problem) {
    event.preventDefault();
    fault.textContent = `Tools: ${problem.message}`;
    fault.hidden = false;
  }
});
document.getElementById("reset-settings").addEventListener("click", () => {
  for (const name of kept) form.elements[name].value = "";
  fault.hidden = true;
});
dialog.addEventListener("close", load);  // Esc leaves things as they were
load();

export const settings = {
  open: () => dialog.showModal(),
  onSaved: (fn) => dialog.addEventListener("saved", fn),
  focusKey: () => { dialog.showModal(); form.elements.key.focus(); },
  get key() { return sessionStorage.getItem("minimo.key") ?? ""; },
  get system() { return form.elements.system.value; },
  // What a request carries beside its messages.
  fields() {
    const body = {};
    for (const name of numbers) {
      const value = form.elements[name].value;
      if (value !== "") body[name] = Number(value);
    }
    if (form.elements.thinking.value) body.enable_thinking = form.elements.thinking.value === "on";
    const tools = parsedTools();
    if (tools) body.tools = tools;
    return body;
  },
};
