"use strict";
// Polls the status, draws the chart and the figures, and sends what the buttons and keys ask for.
const POLL_MS = 500;
const KEPT = 240; // points of the chart: two minutes
const OLD_S = 2; // a run that has said nothing for so long is not live
const KEYS = { " ": "pause", o: "overlay", c: "contour", m: "mask", r: "record", "+": "threshold_up", "=": "threshold_up",
  "-": "threshold_down", _: "threshold_down", x: "region_reset" };
const element = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("button[data-action]")];
const history = [];
let lost = false;
let size = [0, 0]; // height and width of the picture, by the last status
let from; // where a drag began, in pixels of the picture
let failures; // pictures that could not be encoded, by the last status: each ended the stream

const ms = (value) => (value === undefined || value === null ? "–" : `${value.toFixed(0)} ms`);

function setState(state, message) {
  element("state").textContent = state;
  element("state").dataset.state = state;
  element("message").textContent = message;
}

function figures(status) {
  const rows = [
    ["pictures", `${status.fps.toFixed(1)} fps`],
    ["source", `${status.source_fps.toFixed(1)} fps`],
    ["latency p50 / p95", `${ms(status.latency_ms.p50)} / ${ms(status.latency_ms.p95)}`],
    ["inference p50 / p95", `${ms(status.infer_ms.p50)} / ${ms(status.infer_ms.p95)}`],
    ["mask age", ms(status.mask_age_ms)],
    ["clip every", `${status.hop} frames`],
    ["sees", status.regions.length ? `${status.regions.map((region) => region.join(",")).join("; ")} (${status.region})` : "the whole picture"],
    ["scale", status.scale],
    ["from", status.source],
    ["model", `${status.model} (${status.precision})`],
    ["on", `${status.backend}, ${status.device}`],
    ["running", `${status.seconds.toFixed(0)} s`],
    ["viewers", `${status.viewers}`],
    ...Object.entries(status.counts).map(([fate, count]) => [`frames ${fate}`, `${count}`]),
  ];
  element("figures").replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("tr");
    for (const text of [name, value]) row.insertCell().textContent = text;
    return row;
  }));
}

function lesions(found) {
  const pair = (values) => `${values[0].toFixed(1)} ± ${values[1].toFixed(1)}`;
  element("lesions").replaceChildren(...found.map((lesion) => {
    const row = document.createElement("tr");
    const text = lesion.longest_mm ? `${pair(lesion.longest_mm)} × ${pair(lesion.across_mm)} mm, ${pair(lesion.area_mm2)} mm²`
      : `${lesion.longest_px.toFixed(0)} × ${lesion.across_px.toFixed(0)} px`;
    for (const part of [`lesion ${lesion.lesion}`, text]) row.insertCell().textContent = part;
    return row;
  }));
}

// Where the picture lies on the page: its shape is kept within the element.
function placed() {
  const box = element("picture").getBoundingClientRect(), frame = element("picture").parentElement.getBoundingClientRect();
  const scale = Math.min(box.width / size[1], box.height / size[0]);
  return { scale, left: box.left + (box.width - size[1] * scale) / 2, top: box.top + (box.height - size[0] * scale) / 2, frame };
}

// The place of a pointer in pixels of the picture, within it.
function inPicture(event) {
  const place = placed();
  const within = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
  return [within((event.clientX - place.left) / place.scale, size[1]), within((event.clientY - place.top) / place.scale, size[0])];
}

function between(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])];
}

function drag(event) {
  if (!from) return;
  const [x, y, width, height] = between(from, inPicture(event)), { scale, left, top, frame } = placed();
  const style = element("drawn").style;
  style.left = `${left - frame.left + x * scale}px`;
  style.top = `${top - frame.top + y * scale}px`;
  style.width = `${width * scale}px`;
  style.height = `${height * scale}px`;
  element("drawn").hidden = false;
}

function drop(event) {
  if (!from) return;
  const region = between(from, inPicture(event));
  from = undefined;
  element("drawn").hidden = true;
  if (Math.min(region[2], region[3]) >= 8) send({ action: "region", region }); // less is a click
}

function legend(classes) {
  const list = element("classes");
  if (list.childElementCount === classes.length) return;
  list.replaceChildren(...classes.map(({ name, color }) => {
    const item = document.createElement("li");
    const patch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    patch.setAttribute("viewBox", "0 0 1 1");
    const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const side of ["width", "height"]) square.setAttribute(side, "1");
    square.setAttribute("fill", `rgb(${color.join(",")})`);
    patch.append(square);
    item.append(patch, name);
    return item;
  }));
}

function chart() {
  const canvas = element("chart"), area = canvas.getContext("2d");
  const { width, height } = canvas, left = 70, bottom = height - 10;
  const values = history.flatMap((point) => [point.p50, point.p95, point.age]).filter((value) => value !== undefined);
  const most = Math.max(50, ...values) * 1.1;
  area.clearRect(0, 0, width, height);
  area.font = "20px system-ui, sans-serif";
  area.fillStyle = "#9aa7b4";
  area.strokeStyle = "#2a343f";
  area.lineWidth = 1;
  for (const share of [0, 0.5, 1]) {
    const y = bottom - share * (bottom - 20);
    area.fillText(`${(most * share).toFixed(0)}${share === 1 ? " ms" : ""}`, 4, y + 6);
    area.beginPath(); area.moveTo(left, y); area.lineTo(width, y); area.stroke();
  }
  for (const [name, color] of [["p50", "#4da3ff"], ["p95", "#ffb74d"], ["age", "#66bb6a"]]) {
    area.strokeStyle = color;
    area.lineWidth = 3;
    area.beginPath();
    let drawing = false;
    history.forEach((point, index) => {
      const value = point[name];
      if (value === undefined) { drawing = false; return; }
      const x = left + ((index + KEPT - history.length) / (KEPT - 1)) * (width - left);
      const y = bottom - (value / most) * (bottom - 20);
      if (drawing) area.lineTo(x, y); else area.moveTo(x, y);
      drawing = true;
    });
    area.stroke();
  }
}

function take(status) {
  if (failures !== undefined && status.stream_failures !== failures) openStream();
  failures = status.stream_failures;
  const silent = status.age_s > OLD_S;
  setState(silent ? "no signal" : status.state, silent ? `the run has said nothing for ${status.age_s.toFixed(0)} s` : status.message);
  element("threshold").textContent = status.threshold.toFixed(2);
  const on = { pause: status.paused, record: status.recording, overlay: status.layers.includes("overlay"),
    region_reset: status.region_drawn, contour: status.layers.includes("contour"), mask: status.layers.includes("mask") };
  for (const button of buttons) {
    if (button.dataset.action in on) button.setAttribute("aria-pressed", String(on[button.dataset.action]));
  }
  size = status.size;
  legend(status.classes);
  lesions(status.lesions);
  figures(status);
}

function openStream() {
  element("picture").src = `stream?again=${Date.now()}`;
}

function setLost(now) {
  if (lost && !now) openStream();
  lost = now;
  element("lost").hidden = !now;
  if (now) setState("connection lost", "");
}

async function ask(path, options) {
  const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(3000) });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}

const act = (action) => send({ action });

async function send(asked) {
  try {
    const body = JSON.stringify(asked);
    take(await ask("controls", { method: "POST", headers: { "Content-Type": "application/json" }, body }));
  } catch {
    setLost(true);
  }
}

async function poll() {
  try {
    const status = await ask("status");
    setLost(false);
    take(status);
    history.push({ p50: status.latency_ms.p50, p95: status.latency_ms.p95, age: status.mask_age_ms ?? undefined });
  } catch {
    setLost(true);
    history.push({});
  }
  history.splice(0, history.length - KEPT);
  chart();
  setTimeout(poll, POLL_MS);
}

for (const button of buttons) button.addEventListener("click", () => act(button.dataset.action));
element("picture").addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !size[0]) return;
  event.preventDefault();
  element("picture").setPointerCapture(event.pointerId);
  from = inPicture(event);
});
element("picture").addEventListener("pointermove", drag);
element("picture").addEventListener("pointerup", drop);
element("picture").addEventListener("pointercancel", () => { from = undefined; element("drawn").hidden = true; });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("button, a")) return;
  const action = KEYS[event.key.toLowerCase()];
  if (action) { event.preventDefault(); act(action); }
  if (event.key.toLowerCase() === "s") element("snapshot").click();
});
poll();
