// The conversation: one request at a time, streamed; reasoning folded, tool calls shown, stop and retry.
import { events, request } from "/static/api.js";
import { element, pretty, showText } from "/static/render.js";
import { settings } from "/static/settings.js";

const log = document.getElementById("log");
const turns = document.getElementById("turns");
const empty = document.getElementById("empty");
const input = document.getElementById("input");
const send = document.getElementById("send");
const stop = document.getElementById("stop");

let messages = [];  // as the API takes them
let running = null; // AbortController of the answer in the making

const nearEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
const toEnd = () => { log.scrollTop = log.scrollHeight; };

function busy(is) {
  send.hidden = is;
  stop.hidden = !is;
  log.setAttribute("aria-busy", String(is));
}

function addTurn(role, name) {
  empty.hidden = true;
  const turn = element("article", `turn ${role}`);
  turn.append(element("h3", "", name));
  turns.append(turn);
  return turn;
}

// One answer on the page: grows as deltas come.
class Answer {
  constructor() {
    this.message = { role: "assistant", content: "" };
    this.reasoning = "";
    this.calls = [];
    this.turn = addTurn("assistant", "Model");
    this.began = performance.now();
    this.first = 0;
    this.text = element("div", "text caret");
    this.foot = element("div", "foot");
    this.turn.append(this.text, this.foot);
    this.frame = 0;
  }

  take(delta) {
    if (!this.first) this.first = performance.now();
    if (delta.reasoning_content) this.reasoning += delta.reasoning_content;
    if (delta.content) this.message.content += delta.content;
    for (const part of delta.tool_calls ?? []) {
      const call = (this.calls[part.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
      if (part.id) call.id = part.id;
      if (part.function?.name) call.function.name += part.function.name;
      if (part.function?.arguments) call.function.arguments += part.function.arguments;
    }
    this.frame ||= requestAnimationFrame(() => this.show());
  }

  show() {
    this.frame = 0;
    const follow = nearEnd();
    if (this.reasoning && !this.thought) {
      const details = element("details", "thinking");
      this.thinkingLabel = element("summary", "", "Thinking…");
      this.thought = element("div", "thought");
      details.append(this.thinkingLabel, this.thought);
      this.turn.insertBefore(details, this.text);
    }
    if (this.thought && this.thought.textContent !== this.reasoning) this.thought.textContent = this.reasoning.trim();
    showText(this.text, this.message.content.trimStart());
    if (this.thinkingLabel && (this.message.content.trim() || this.calls.length)) this.thinkingLabel.textContent = "Thoughts";
    this.calls.forEach((call, i) => {
      this.cards ??= [];
      if (!this.cards[i]) {
        const card = element("section", "call");
        const title = element("h4", "", "Calls ");
        title.append(element("b"));
        card.append(title, element("pre"));
        this.turn.insertBefore(card, this.foot);
        this.cards[i] = card;
      }
      this.cards[i].querySelector("b").textContent = call.function.name;
      this.cards[i].querySelector("pre").textContent = pretty(call.function.arguments);
    });
    if (follow) toEnd();
  }

  end(usage, finish) {
    cancelAnimationFrame(this.frame);
    this.show();
    this.text.classList.remove("caret");
    if (!this.message.content.trim()) this.text.hidden = true;
    if (this.thinkingLabel) this.thinkingLabel.textContent = "Thoughts";
    if (this.reasoning) this.message.reasoning_content = this.reasoning;
    if (this.calls.length) this.message.tool_calls = this.calls;
    const seconds = (performance.now() - this.first) / 1000;
    const tokens = usage?.completion_tokens;
    const parts = [];
    if (finish === "length") parts.push("cut at the length limit");
    if (finish === "stopped") parts.push("stopped");
    if (this.first) parts.push(`first token ${Math.round(this.first - this.began)} ms`);
    if (tokens > 1) parts.push(`${tokens} tokens`, `${((tokens - 1) / seconds).toFixed(1)} tok/s`);
    this.foot.append(element("span", "", parts.join(" · ")));
    const retry = element("button", "", "Retry");
    retry.addEventListener("click", () => retryFrom(this.turn));
    this.foot.append(retry);
    if (this.calls.length) this.askForResults();
  }

  // The page runs no tools: the reader plays them.
  askForResults() {
    this.calls.forEach((call, i) => {
      const row = element("form", "result");
      const field = element("input");
      field.placeholder = "Result of the call";
      field.setAttribute("aria-label", `Result of ${call.function.name}`);
      const give = element("button", "quiet", "Give");
      row.append(field, give);
      row.addEventListener("submit", (event) => {
        event.preventDefault();
        call.result = field.value;
        row.replaceWith(element("p", "hint", `Result: ${field.value}`));
        if (this.calls.every((c) => c.result !== undefined)) {
          for (const c of this.calls) messages.push({ role: "tool", tool_call_id: c.id, content: c.result });
          answer();
        }
      });
      this.cards[i].append(row);
    });
  }
}

function showFault(turn, fault) {
  const box = element("p", "fault", fault.message);
  box.setAttribute("role", "alert");
  const foot = element("div", "foot");
  const retry = element("button", "", "Retry");
  retry.addEventListener("click", () => retryFrom(turn));
  foot.append(retry);
  turn.append(box, foot);
  toEnd();
  if (fault.status === 401) settings.focusKey();
}

// Everything from this turn on goes; the request that led to it is made again.
function retryFrom(turn) {
  if (running) return;
  while (turns.lastElementChild !== turn) turns.lastElementChild.remove();
  turn.remove();
  messages.length = turn.before;
  answer();
}

async function answer() {
  running = new AbortController();
  busy(true);
  const before = messages.length;
  const made = new Answer();
  made.turn.before = before;
  toEnd();
  let usage, finish;
  try {
    const all = settings.system ? [{ role: "system", content: settings.system }, ...messages] : messages;
    const clean = all.map(({ tool_calls, ...rest }) => tool_calls
      ? { ...rest, tool_calls: tool_calls.map(({ id, type, function: f }) => ({ id, type, function: f })) } : rest);
    const body = { messages: clean, stream: true, stream_options: { include_usage: true }, ...settings.fields() };
    const response = await request("/v1/chat/completions", { key: settings.key, signal: running.signal, body });
    for await (const { data } of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) usage = chunk.usage;
      const choice = chunk.choices?.[0];
      if (choice?.delta) made.take(choice.delta);
      if (choice?.finish_reason) finish = choice.finish_reason;
    }
    made.end(usage, finish);
    messages.push(made.message);
  } catch (fault) {
    if (fault.name === "AbortError") {
      made.end(usage, "stopped");
      messages.push(made.message);
    } else if (made.first) {
      made.end(usage, "stopped");
      messages.push(made.message);
      showFault(made.turn, fault);
    } else {
      made.text.remove();
      made.foot.remove();
      showFault(made.turn, fault);
    }
  }
  running = null;
  busy(false);
  input.focus({ preventScroll: true });
}

export function say(text) {
  if (running || !text.trim()) return;
  const turn = addTurn("user", "You");
  turn.append(element("div", "text", text.trim()));
  messages.push({ role: "user", content: text.trim() });
  answer();
}

export function newChat() {
  running?.abort();
  messages = [];
  for (const turn of turns.querySelectorAll(".turn")) turn.remove();
  empty.hidden = false;
  input.focus();
}

export const stopAnswer = () => running?.abort();

function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}
input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  document.getElementById("composer").requestSubmit();
});
document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  say(input.value);
  input.value = "";
  grow();
});
stop.addEventListener("click", stopAnswer);
document.getElementById("samples").addEventListener("click", (event) => {
  if (event.target.tagName === "BUTTON") say(event.target.textContent);
});
