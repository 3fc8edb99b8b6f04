// The engine, live: /v1/engine/events drawn at the rate it comes (10 Hz), only while this view is shown.
import { events, request } from "/static/api.js";
import { element } from "/static/render.js";
import { settings } from "/static/settings.js";

const $ = (id) => document.getElementById(id);
const kPoints = 600;  // a minute
const series = { gen: [], prompt: [], run: [], kv: [], ttft: [], itl: [] };
let hello = {};
let heat = null;       // decayed counts, [layers * experts]
let shape = [0, 0];
let stream = null;

// Viridis (van der Walt and Smith, 2015): even to the eye and safe for colour-blind readers; nine stops.
const stops = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const palette = new Uint32Array(256);
for (let i = 0; i < 256; i++) {
  const at = (i / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2), part = at - low;
  const [r, g, b] = stops[low].map((v, c) => Math.round(v + (stops[low + 1][c] - v) * part));
  palette[i] = 0xff000000 | (b << 16) | (g << 8) | r;
}

const short = (n) => n >= 1e6 ? `${(n / 1e6).toFixed(2)}M` : n >= 1e4 ? `${(n / 1e3).toFixed(1)}k` : n >= 100 ? Math.round(n).toString() : n.toFixed(n >= 10 || n === Math.floor(n) ? 0 : 1);

function spark(id, values) {
  const canvas = $(`s-${id}`), ratio = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (!width) return;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const draw = canvas.getContext("2d");
  draw.clearRect(0, 0, width, height);
  const top = Math.max(...values.map((v) => v ?? 0), 1e-9);
  const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  draw.strokeStyle = accent;
  draw.fillStyle = accent;
  draw.lineWidth = 1.5 * ratio;
  draw.lineJoin = "round";
  const x = (i) => width - ((values.length - 1 - i) * width) / (kPoints - 1), y = (v) => height - ratio - (v / top) * (height - 3 * ratio);
  for (let begin = 0; begin < values.length;) {  // one line for each run without gaps
    if (values[begin] === null) { begin++; continue; }
    let end = begin;
    draw.beginPath();
    for (; end < values.length && values[end] !== null; end++) draw.lineTo(x(end), y(values[end]));
    draw.stroke();
    draw.lineTo(x(end - 1), height);
    draw.lineTo(x(begin), height);
    draw.globalAlpha = 0.12;
    draw.fill();
    draw.globalAlpha = 1;
    begin = end;
  }
}

function push(name, value) {
  series[name].push(value);
  if (series[name].length > kPoints) series[name].shift();
}

function onStats(s) {
  push("gen", s.generation_tokens_per_second);
  push("prompt", s.prompt_tokens_per_second);
  push("run", s.running);
  push("kv", s.kv_usage * 100);
  push("ttft", s.ttft_ms.p50);
  push("itl", s.itl_ms.p50);
  $("t-gen").textContent = short(s.generation_tokens_per_second);
  $("t-prompt").textContent = short(s.prompt_tokens_per_second);
  $("t-run").textContent = s.running;
  $("t-wait").textContent = `${s.waiting} waiting`;
  $("t-kv").textContent = (s.kv_usage * 100).toFixed(s.kv_usage < 0.1 ? 1 : 0);
  $("t-kvcap").textContent = `% of ${short(hello.kv_capacity_tokens ?? 0)} tokens`;
  for (const name of ["ttft", "itl"]) {
    const { p50, p99 } = s[`${name}_ms`];
    $(`t-${name}`).textContent = p50 === null ? "–" : short(p50);
    $(`t-${name}99`).textContent = p99 === null ? "ms" : `ms, p99 ${short(p99)}`;
  }
  for (const name of Object.keys(series)) spark(name, series[name]);
  const hit = s.prefix_queries ? `${((100 * s.prefix_hits) / s.prefix_queries).toFixed(0)} %` : "–";
  const totals = { "Prompt tokens": short(s.prompt_tokens), "Output tokens": short(s.generation_tokens), Steps: short(s.steps), "Prefix cache hits": hit, Preemptions: short(s.preemptions), "Last step": `${short(s.last_step_us / 1000)} ms, ${s.last_step_tokens} tokens` };
  const list = $("totals");
  Object.entries(totals).forEach(([name, value], i) => {
    let row = list.children[i];
    if (!row) {
      row = element("div");
      row.append(element("dt", "", name), element("dd"));
      list.append(row);
    }
    if (row.lastChild.textContent !== value) row.lastChild.textContent = value;
  });
  drawHeat();
}

function onExperts(e) {
  if (!heat || shape[0] !== e.layers || shape[1] !== e.experts) {
    shape = [e.layers, e.experts];
    heat = new Float32Array(e.layers * e.experts);
  }
  e.tokens.forEach((row, layer) => row.forEach((n, expert) => { heat[layer * e.experts + expert] += n; }));
}

function drawHeat() {
  if (!heat) return;
  const [layers, experts] = shape, canvas = $("heat");
  if (canvas.width !== experts || canvas.height !== layers) {
    Object.assign(canvas, { width: experts, height: layers });
    const cell = layers <= 8 ? 22 : layers <= 24 ? 14 : 8;
    canvas.style.height = `${layers * cell}px`;
  }
  let top = 0, sum = 0;
  for (let i = 0; i < heat.length; i++) {
    heat[i] *= 0.985;  // forgets half in 4.6 s
    sum += heat[i];
    if (heat[i] > top) top = heat[i];
  }
  const image = canvas.getContext("2d").createImageData(experts, layers);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < heat.length; i++) pixels[i] = palette[top > 0 ? Math.round((heat[i] / top) * 255) : 0];
  canvas.getContext("2d").putImageData(image, 0, 0);
  const mean = sum / heat.length;
  $("experts-hint").textContent = sum < 0.5 ? "No tokens lately." : `${layers} layers, ${experts} experts; the busiest has ${(top / mean).toFixed(1)} times the mean.`;
  $("legend-max").textContent = sum < 0.5 ? "most" : `${short(top)}`;
}

$("heat").addEventListener("pointermove", (event) => {
  if (!heat) return;
  const box = $("heat").getBoundingClientRect();
  const layer = Math.min(shape[0] - 1, Math.floor(((event.clientY - box.top) / box.height) * shape[0]));
  const expert = Math.min(shape[1] - 1, Math.floor(((event.clientX - box.left) / box.width) * shape[1]));
  if (layer < 0 || expert < 0) return;
  $("heat-at").textContent = `MoE layer ${layer}, expert ${expert}: ${heat[layer * shape[1] + expert].toFixed(1)} tokens lately`;
});

const legend = $("legend").getContext("2d"), ramp = legend.createImageData(128, 8), rampPixels = new Uint32Array(ramp.data.buffer);
for (let i = 0; i < rampPixels.length; i++) rampPixels[i] = palette[(i % 128) * 2];
legend.putImageData(ramp, 0, 0);

async function watch(signal) {
  while (!signal.aborted) {
    try {
      const response = await request("/v1/engine/events", { key: settings.key, signal });
      $("engine-notice").textContent = "Live, ten times a second.";
      for await (const { event, data } of events(response)) {
        const value = JSON.parse(data);
        if (event === "hello") {
          hello = value;
          $("engine-notice").textContent = `Live: ${value.model}, context ${short(value.max_model_len)} tokens, KV cache ${short(value.kv_capacity_tokens)} tokens, up to ${value.max_num_seqs} sequences a step.`;
        }
        if (event === "experts") onExperts(value);
        if (event === "stats") onStats(value);
      }
      $("engine-notice").textContent = "The stream has ended; trying again.";
    } catch (fault) {
      if (signal.aborted) return;
      $("engine-notice").textContent = `${fault.message} Trying again.`;
      if (fault.status === 401) { settings.focusKey(); return; }
    }
    await new Promise((resume) => setTimeout(resume, 1000));
  }
}

export function show() {
  stream?.abort();
  stream = new AbortController();
  watch(stream.signal);
}

export function hide() {
  stream?.abort();
  stream = null;
}
