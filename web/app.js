// Views, keys and the model's name.
import { request } from "/static/api.js";
import { newChat, stopAnswer } from "/static/chat.js";
import * as engine from "/static/engine.js";
import { settings } from "/static/settings.js";

const $ = (id) => document.getElementById(id);
const views = ["chat", "engine"];

function select(name) {
  for (const view of views) {
    const on = view === name;
    $(`view-${view}`).hidden = !on;
    $(`tab-${view}`).setAttribute("aria-selected", String(on));
    $(`tab-${view}`).tabIndex = on ? 0 : -1;
  }
  name === "engine" ? engine.show() : engine.hide();
  if (name === "chat") $("input").focus({ preventScroll: true });
  history.replaceState(null, "", name === "chat" ? "#" : `#${name}`);
}

async function nameModel() {
  try {
    const { data } = await (await request("/v1/models", { key: settings.key })).json();
    $("model").textContent = data[0].id;
  } catch (fault) {
    $("model").textContent = "";
    if (fault.status === 401) settings.focusKey();
  }
}

for (const view of views) $(`tab-${view}`).addEventListener("click", () => select(view));
document.querySelector(".tabs").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const other = views.find((v) => $(`tab-${v}`).getAttribute("aria-selected") === "false");
  select(other);
  $(`tab-${other}`).focus();
});
$("new-chat").addEventListener("click", () => { select("chat"); newChat(); });
$("open-settings").addEventListener("click", settings.open);
settings.onSaved(() => { nameModel(); if (!$("view-engine").hidden) engine.show(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("settings").open) stopAnswer();
  if (event.key === "/" && !/INPUT|TEXTAREA|SELECT/.test(document.activeElement.tagName)) { event.preventDefault(); select("chat"); }
  if (!event.altKey) return;
  const act = { n: () => { select("chat"); newChat(); }, s: settings.open, 1: () => select("chat"), 2: () => select("engine") }[event.key];
  if (act) { event.preventDefault(); act(); }
});

select(location.hash === "#engine" ? "engine" : "chat");
nameModel();
