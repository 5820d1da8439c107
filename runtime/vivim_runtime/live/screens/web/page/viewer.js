"use strict";
// Polls the status, draws the chart and the figures, and sends what the buttons and keys ask for.
const POLL_MS = 500;
const REPLAY_MS = 10500;
const KEPT = 240; // points of the chart: two minutes
const OLD_S = 2; // a run that has said nothing for so long is not live
const KEYS = { " ": "pause", o: "overlay", c: "contour", m: "mask", r: "record", n: "forget", "+": "threshold_up", "=": "threshold_up",
  "-": "threshold_down", _: "threshold_down", "]": "opacity_up", "[": "opacity_down", d: "side", p: "probability", i: "hud",
  k: "move_hud", x: "region_reset" };
// What the figures mean, in words.
const WORDS = {
  "frames captured": "frames that came from the source",
  "frames shown": "frames that were drawn and given to the screens",
  "frames replaced": "frames that were never drawn, because a newer one had arrived; drawing the newest keeps the delay short",
  "frames paused": "frames that arrived while the picture was paused",
  "frames damaged": "frames that the decoder could not restore completely; they are neither drawn nor given to the model",
  "frames unseen": "frames that had arrived when the run ended, and were no longer drawn",
  "frames waiting": "frames that have arrived and are not drawn yet",
  "pictures": "pictures drawn per second",
  "source": "frames per second that came from the source",
  "latency p50 / p95": "from the camera's time stamp to the finished picture: half of the pictures, and 95 of 100, took no longer",
  "inference p50 / p95": "time that the model needs for one clip: half of the clips, and 95 of 100, took no longer",
  "mask age": "how much older than the picture the mask on it is",
  "clip every": "frames from one clip of the model to the next: as few as this machine can keep up with",
  "model sees": "the part of the picture that the model is given; drag on the picture to choose another part",
  "scale": "the size of a pixel, or why it is not known",
  "viewers": "browsers that are watching now",
};
const element = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("button[data-action]")];
const history = [];
let lost = false;
let size = [0, 0]; // height and width of the frame, by the last status
let panels = 1; // frames beside each other in the picture
let from; // where a drag began, in pixels of the frame
let replaying; // the timer that ends what is shown again
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
    ["clip every", `${status.hop} frame${status.hop === 1 ? "" : "s"}`],
    ["model sees", status.regions.length ? `${status.regions.map((region) => region.join(",")).join("; ")} (${status.region})` : "the whole picture"],
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
    if (WORDS[name]) row.title = WORDS[name];
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
  const width = size[1] * panels, scale = Math.min(box.width / width, box.height / size[0]);
  return { scale, left: box.left + (box.width - width * scale) / 2, top: box.top + (box.height - size[0] * scale) / 2, frame };
}

// The place of a pointer in pixels of the frame, within it; a drag stays in the panel in which it began.
function inPicture(event) {
  const place = placed();
  const x = (event.clientX - place.left) / place.scale, y = (event.clientY - place.top) / place.scale;
  const panel = from ? from[2] : Math.min(Math.max(Math.floor(x / size[1]), 0), panels - 1);
  const within = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
  return [within(x - panel * size[1], size[1]), within(y, size[0]), panel];
}

function between(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])];
}

function drag(event) {
  if (!from) return;
  const [x, y, width, height] = between(from, inPicture(event)), { scale, left, top, frame } = placed();
  const style = element("drawn").style;
  style.left = `${left - frame.left + (x + from[2] * size[1]) * scale}px`;
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
  if (replaying !== undefined) setState("again", "the last ten seconds, not live");
  else setState(silent ? "no signal" : status.state, silent ? `the run has said nothing for ${status.age_s.toFixed(0)} s` : status.message);
  element("threshold").textContent = status.threshold.toFixed(2);
  const on = { pause: status.paused, record: status.recording, overlay: status.layers.includes("overlay"),
    contour: status.layers.includes("contour"), mask: status.layers.includes("mask"), region_reset: status.region_drawn,
    side: status.view === "side by side", probability: status.view === "probability" };
  for (const button of buttons) {
    if (button.dataset.action in on) button.setAttribute("aria-pressed", String(on[button.dataset.action]));
  }
  if (document.activeElement !== element("opacity")) element("opacity").value = status.opacity;
  element("opacity-value").textContent = status.opacity.toFixed(2);
  element("notice").textContent = status.notice;
  element("notice").hidden = !status.notice;
  size = status.size;
  panels = status.view === "side by side" ? 2 : 1;
  legend(status.classes);
  lesions(status.lesions);
  figures(status);
}

function openStream() {
  clearTimeout(replaying);
  replaying = undefined;
  element("again").hidden = true;
  element("picture").src = `stream?again=${Date.now()}`;
}

// The stream ends after ten seconds at most; browsers do not say so of a multipart picture.
function replay() {
  if (replaying !== undefined) { openStream(); return; }
  element("again").hidden = false;
  element("picture").src = `again?now=${Date.now()}`;
  replaying = setTimeout(openStream, REPLAY_MS);
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

async function act(action) {
  await send({ action });
}

async function send(what) {
  try {
    const body = JSON.stringify(what);
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

element("opacity").addEventListener("input", (event) => send({ set: "opacity", value: Number(event.target.value) }));
element("opacity").addEventListener("change", (event) => event.target.blur());
element("replay").addEventListener("click", replay);
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
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("button, a, input")) return;
  const action = KEYS[event.key.toLowerCase()];
  if (action) { event.preventDefault(); act(action); }
  if (event.key.toLowerCase() === "l") replay();
  if (event.key.toLowerCase() === "s") element("snapshot").click();
});
poll();
