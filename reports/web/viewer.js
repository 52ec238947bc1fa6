"use strict";
const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const MISSING = -32768, DETAIL_S = 600, MOST_LISTED = 2000;
const NAMES = {hit: "true", false: "false", missed: "missed", plain: "found", fault: "signal lost", desaturation: "desaturation"};
const words = (kind) => kind.replaceAll("_", " ");

// ---- signals: 16 bits or floats to numbers, NaN = missing

const bytes = Uint8Array.from(atob(JSON.parse($("signals").textContent)), (letter) => letter.charCodeAt(0)).buffer;
$("signals").remove();
const segments = [];
let steps = 0;
for (const [start, length] of facts.segments) {
  segments.push({start, length, first: steps});
  steps += length;
}

function unpack(array) {
  if (array.kind === "constant") return new Float32Array(steps).fill(array.value ?? NaN);
  if (array.kind === "float") return new Float32Array(bytes.slice(array.at, array.at + 4 * steps));
  const codes = new Int16Array(bytes.slice(array.at, array.at + 2 * steps)), y = new Float32Array(steps);
  for (let k = 0; k < steps; k++) y[k] = codes[k] === MISSING ? NaN : array.low + (codes[k] + 32767) * array.step;
  return y;
}

const channels = facts.channels.map((c) => ({...c, values: unpack(c.values), forecast: unpack(c.forecast)}));
const score = unpack(facts.score).map((y) => Math.sqrt(Math.max(y, 0)));
const threshold = unpack(facts.threshold).map((y) => Math.sqrt(Math.max(y, 0)));
const row = 1 / facts.rate;

// ---- times as people read them

function timeText(t, digits = 0) {
  if (facts.isSeries) return `row ${Math.round(t / row)}`;
  const unit = 10 ** digits, shift = facts.zero ?? 0;
  let whole = Math.round((t + shift) * unit);
  if (facts.zero !== null) whole = ((whole % (86400 * unit)) + 86400 * unit) % (86400 * unit);
  const s = Math.floor(Math.abs(whole) / unit), two = (n) => String(n).padStart(2, "0");
  const text = `${facts.zero !== null ? two(Math.floor(s / 3600)) : Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return (whole < 0 ? "−" : "") + text + (digits ? "." + String(Math.abs(whole) % unit).padStart(digits, "0") : "");
}

function timeOf(text) {
  text = text.trim().replace(",", ".");
  if (facts.isSeries) {
    const number = /^(?:row\s*)?(\d+)$/.exec(text);
    return number ? number[1] * row : NaN;
  }
  const parts = /^(\d+):(\d{1,2})(?::(\d{1,2}(?:\.\d+)?))?$/.exec(text);
  if (!parts) return NaN;
  const seconds = 3600 * parts[1] + 60 * parts[2] + Number(parts[3] ?? 0);
  if (facts.zero === null) return seconds;
  return seconds - facts.zero + 86400 * Math.max(0, Math.ceil((facts.start - 1 - seconds + facts.zero) / 86400));
}

// ---- what is drawn of a view: every step, or the least and greatest value of each pixel

const view = {start: facts.start, end: facts.end};
const placeIn = (t, {start, end}) => (t - start) / (end - start);

function bucketsOf(width) {
  const places = [], size = Math.max(1, Math.ceil((view.end - view.start) * facts.rate / width));
  for (const {start, length, first} of segments) {
    const a = Math.max(0, Math.floor((view.start - start) * facts.rate) - size);
    const b = Math.min(length, Math.ceil((view.end - start) * facts.rate) + size + 1);
    if (a >= b) continue;
    if (places.length) places.push(null);
    for (let k = a - a % size; k < b; k += size) places.push([first + k, first + Math.min(k + size, length), start + k * row]);
  }
  return {places, size};
}

function times({places, size}) {
  const x = [];
  for (const place of places) {
    if (!place) x.push(x.at(-1) + row / 4);
    else if (size === 1) x.push(place[2]);
    else x.push(place[2], place[2] + size * row / 2);
  }
  return x;
}

function extremes(y, first = 0, last = y.length) {              // infinite where there is no value
  let low = Infinity, high = -Infinity;
  for (let k = first; k < last; k++) {
    if (y[k] < low) low = y[k];
    if (y[k] > high) high = y[k];
  }
  return [low, high];
}

function thinned(y, {places, size}) {
  const line = [];
  for (const place of places) {
    if (!place) { line.push(null); continue; }
    const [low, high] = extremes(y, place[0], place[1]), known = low <= high;
    if (size > 1) line.push(known ? low : null);
    line.push(known ? high : null);
  }
  return line;
}

// ---- heights: of breathing they fit the usual range, so that a cough does not flatten it

function quantiles(y, first, last, ...shares) {
  const picked = [], stride = Math.max(1, Math.floor((last - first) / 3000));
  for (let k = first; k < last; k += stride) if (!Number.isNaN(y[k])) picked.push(y[k]);
  picked.sort((a, b) => a - b);
  return shares.map((share) => picked[Math.round(share * (picked.length - 1))] ?? NaN);
}

function usualRange(y) {
  const length = Math.max(2, Math.round(60 * facts.rate)), ranges = [];
  const stride = Math.max(length, Math.floor(steps / 200));
  for (let k = 0; k + length <= steps; k += stride) {
    const [low, high] = quantiles(y, k, k + length, 0.02, 0.98);
    if (high > low) ranges.push(high - low);
  }
  ranges.sort((a, b) => a - b);
  return ranges[Math.floor(ranges.length / 2)] ?? 0;
}

let full = facts.isSeries;
for (const c of channels) c.usual = usualRange(c.values);

function heights(c, observed, expected, {places}) {
  let [low, high] = extremes(observed.filter((y) => y !== null));
  if (low > high) return [0, 1];
  const half = (high - low) / 2;
  if (!full && c.measures !== "oximetry") {
    const known = places.filter(Boolean), [a, b] = quantiles(c.values, known[0][0], known.at(-1)[1], 0.02, 0.98);
    const reach = Math.max(0.75 * (b - a), 0.6 * c.usual) || half;
    [low, high] = [(a + b) / 2 - reach, (a + b) / 2 + reach];
  } else {                                                       // what was expected too, unless it lies far off
    const [least, most] = extremes(expected.filter((y) => y !== null));
    [low, high] = [Math.min(low, Math.max(least, low - half)), Math.max(high, Math.min(most, high + half))];
  }
  const margin = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

// ---- panels

const panels = [];
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = (y) => String(Number(y.toPrecision(5))).replace("-", "−");

function timeSteps(u, axis, low, high, least) {
  const all = facts.isSeries ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 2e4, 5e4].map((n) => n * row)
    : [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const wide = Math.max(2, u.bbox.width / devicePixelRatio / 90), step = all.find((s) => (high - low) / s <= wide) ?? all.at(-1) * 2;
  const shift = facts.zero ?? 0, ticks = [];
  for (let t = Math.ceil((low + shift) / step) * step; t <= high + shift; t += step) ticks.push(t - shift);
  return ticks;
}

function scoreSteps(u, axis, low, high, step) {                  // heights are square roots; their squares are round
  const ticks = [];
  for (let k = 0; k * step <= high; k++) ticks.push(Math.sqrt(Number(((k * step) ** 2).toPrecision(1))));
  return [...new Set(ticks)];
}

function panel(name, unit, series, isLast, kind) {
  const holder = document.createElement("div");
  holder.className = "panel";
  holder.innerHTML = "<p></p>";
  holder.firstChild.textContent = unit ? `${name} [${unit}]` : name;
  $("panels").append(holder);
  const line = () => style("--ink"), grid = {stroke: () => style("--line"), width: 1};
  const made = {name, kind, holder, range: [0, 1], cache: null};
  made.plot = new uPlot({
    width: 600, height: 100, padding: [6, 28, 2, 0], legend: {show: false},
    cursor: {y: false, points: {show: false}, drag: {x: false, y: false, setScale: false}, sync: {key: "time"}},
    scales: {x: {time: false, range: () => [view.start, view.end]}, y: {range: () => made.range}},
    axes: [
      {stroke: line, grid, size: isLast ? 26 : 0, ticks: {show: isLast, size: 4}, splits: timeSteps, gap: 2,
       values: (u, ticks) => ticks.map((t) => isLast ? timeText(t) : "")},
      {stroke: line, grid, size: 58, space: 26, gap: 3, ticks: {size: 4}, ...(kind === "score" && {splits: scoreSteps}),
       values: (u, ticks) => ticks.map((y) => number(kind === "score" ? y * y : y))},
    ],
    series: [{}, ...series.map(([color, width, dash]) => ({stroke: () => style(color), width, dash, points: {show: false}}))],
    hooks: {drawClear: [(u) => shade(u, made)]},
  }, [[0], ...series.map(() => [null])], holder);
  panels.push(made);
  return made;
}

for (const c of channels) panel(c.name, c.unit, [["--observed", 1.1], ["--expected", 1.4, [5, 3]]], false, "channel").channel = c;
panel("score", "", [["--score", 1.1], ["--alarm", 2.2], ["--threshold", 1.3, [7, 4]]], true, "score");

function draw() {
  const width = $("panels").clientWidth, buckets = bucketsOf(Math.max(200, width - 86)), x = times(buckets);
  for (const one of panels) {
    let lines;
    if (one.kind === "score") {
      const y = thinned(score, buckets), limit = thinned(threshold, buckets);
      lines = [y, y.map((s, k) => s !== null && limit[k] !== null && s > limit[k] ? s : null), limit];
      one.range = [0, 1.1 * Math.max(1e-3, ...[y, limit].map((line) => line.reduce((a, b) => Math.max(a, b ?? 0), 0)))];
    } else {
      const c = one.channel, y = thinned(c.values, buckets);
      const expected = view.end - view.start <= DETAIL_S || facts.isSeries ? thinned(c.forecast, buckets) : y.map(() => null);
      lines = [y, expected];
      one.range = heights(c, y, expected, buckets);
    }
    one.plot.setData([x, ...lines]);
  }
  drawOverview();
}

function resize() {
  const width = $("panels").clientWidth, top = $("panels").getBoundingClientRect().top + scrollY;
  const wanted = Math.floor((innerHeight - top - 16 - 6 * panels.length) / (panels.length + 0.3));
  const height = Math.min(260, Math.max(64, wanted));
  panels.forEach(({plot, kind}) => plot.setSize({width, height: height + (kind === "score" ? 24 : 0)}));
  draw();
}

let waiting = false;
function show(start, end) {
  const most = Math.max(facts.end - facts.start, 10 * row), least = Math.min(most, facts.isSeries ? 20 * row : 5);
  const length = Math.min(most, Math.max(least, end - start)), middle = (start + end) / 2;
  view.start = Math.min(Math.max(middle - length / 2, facts.start), facts.start + most - length);
  view.end = view.start + length;
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

// ---- events

const events = facts.findings.map((f) => ({...f, judged: null, now: null}));
let selected = null;
const isEvent = (e) => e.verdict !== "fault" && e.verdict !== "desaturation";
const spanOf = (e) => e.now ?? {start: e.start, end: e.end, kind: e.kind};
const truthOf = (e) => e.now ?? e.label ?? spanOf(e);            // what it is taken for once it is judged true
const verdictOf = (e) => e.judged === null ? e.verdict : e.judged ? "hit" : "false";
const byTime = (a, b) => spanOf(a).start - spanOf(b).start;
const FILTERS = {
  events: ["all events", isEvent], false: ["false", (e) => e.verdict === "false"], missed: ["missed", (e) => e.verdict === "missed"],
  hit: ["found as labelled", (e) => e.verdict === "hit"], open: ["not judged", (e) => isEvent(e) && e.judged === null],
  judged: ["judged", (e) => e.judged !== null], desaturation: ["desaturations", (e) => e.verdict === "desaturation"],
  fault: ["signal lost", (e) => e.verdict === "fault"],
};
const shown = () => events.filter((e) => FILTERS[$("verdict").value][1](e) && ["", spanOf(e).kind].includes($("kind").value)).sort(byTime);

function shade(u, panel) {
  const {ctx} = u, {left, top, width, height} = u.bbox, ratio = devicePixelRatio;
  const x = (t) => left + placeIn(t, view) * width;
  ctx.save();
  ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
  for (const e of events) {
    const {start, end} = spanOf(e), a = x(start), w = Math.max(x(end) - a, 2 * ratio);
    const mine = panel.kind === "score" || !e.channel || e.channel === panel.name;
    if (e.label) {
      const from = x(e.label.start);
      ctx.fillStyle = style(e.verdict === "missed" ? "--missed-soft" : "--label");
      ctx.fillRect(from, top, Math.max(x(e.label.end) - from, ratio), height);
    }
    if (e.verdict === "fault" && mine) { ctx.fillStyle = style("--fault-soft"); ctx.fillRect(a, top, w, height); }
    if (e.verdict !== "missed" && mine) {
      ctx.fillStyle = style(`--${verdictOf(e)}`);
      ctx.fillRect(a, top, w, 4 * ratio);
    }
    if (e === selected) {
      ctx.strokeStyle = style("--link"); ctx.lineWidth = 1.5 * ratio; ctx.setLineDash([4 * ratio, 3 * ratio]);
      ctx.strokeRect(a, top - 9, w, height + 18); ctx.setLineDash([]);
    }
  }
  ctx.restore();
}

function fillList() {
  const list = shown();
  $("list").replaceChildren(...list.slice(0, MOST_LISTED).map((e) => {
    const item = document.createElement("li"), button = document.createElement("button"), {start, end, kind} = spanOf(e);
    button.innerHTML = "<b></b> <span></span> <em></em>";
    button.children[0].textContent = timeText(start);
    button.children[1].textContent = words(kind) + (facts.isSeries ? "" : `, ${Math.round(end - start)} s`);
    button.children[2].textContent = (e.judged === null ? "" : "✓ ") + NAMES[verdictOf(e)];
    button.children[2].className = verdictOf(e);
    button.onclick = () => select(e);
    if (e === selected) button.setAttribute("aria-current", "true");
    item.append(button);
    return item;
  }));
  const text = `${list.length} of ${events.length} shown`;
  $("told").textContent = selected ? `${text}; selected: ${words(spanOf(selected).kind)} at ${timeText(spanOf(selected).start)}` : text;
  $("list").querySelector("[aria-current]")?.scrollIntoView({block: "nearest"});
}

function select(e, move = true) {
  selected = e;
  $("event").hidden = !e;
  if (e) {
    const {start, end, kind} = spanOf(e), length = end - start;
    if (move) {
      const wide = Math.min(view.end - view.start, Math.max(facts.isSeries ? 300 * row : 120, 3 * length));
      show((start + end - wide) / 2, (start + end + wide) / 2);
    }
    $("what").textContent = `${words(kind)}, ${timeText(start)}`;
    const told = [["verdict", (e.judged === null ? "" : "judged ") + NAMES[verdictOf(e)]],
      ["duration", facts.isSeries ? `${Math.round(length / row) + 1} rows` : `${length.toFixed(1)} s`], ["channel", e.channel],
      ["found by", words(e.foundBy ?? "")], ["label", e.label ? `${words(e.label.kind)}, ${timeText(e.label.start)} to ${timeText(e.label.end)}` : ""],
      ...(e.evidence ?? [])];
    $("evidence").replaceChildren(...told.filter(([, text]) => text).flatMap(([name, text]) => {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name; dd.textContent = text;
      return [dt, dd];
    }));
    history.replaceState(null, "", `#${e.key}`);
    if (!facts.isSeries) fillReview(e);
  }
  fillList();
  draw();
}

function neighbour(step) {
  const list = shown(), at = list.indexOf(selected), middle = (view.start + view.end) / 2;
  if (at >= 0) return list[at + step] ?? list[at];
  return step > 0 ? list.find((e) => spanOf(e).start >= middle) : list.findLast((e) => spanOf(e).start < middle);
}

// ---- review: what is saved is the truth about this recording, one row an event

const KEY = `review ${location.pathname} ${facts.made}`;
let unsaved = false;

function keep() {
  unsaved = true;
  picture.width = 0;
  const changed = events.filter((e) => e.judged !== null).map(({key, judged, now}) => ({key, judged, now}));
  try { localStorage.setItem(KEY, JSON.stringify(changed)); } catch { /* private windows have none: Save still works */ }
}

function restore() {
  try {
    for (const {key, judged, now} of JSON.parse(localStorage.getItem(KEY) ?? "[]")) {
      const known = events.find((e) => e.key === key);
      if (known) Object.assign(known, {judged, now});
      else if (now) events.push({key, verdict: "plain", ...now, channel: "", judged, now, added: true});
    }
  } catch { /* nothing kept, or nothing that can be read */ }
}

function fillReview(e) {
  const {start, end, kind} = spanOf(e), by = $("review");
  by.hidden = !isEvent(e);
  $("true").setAttribute("aria-pressed", e.judged === true);
  $("false").setAttribute("aria-pressed", e.judged === false);
  $("as").replaceChildren(...[...new Set([...facts.kinds, kind])].map((k) => new Option(words(k), k, false, k === kind)));
  $("from").value = timeText(start, 1);
  $("to").value = timeText(end, 1);
}

function judge(e, judged, change = {}) {
  if (!e || !isEvent(e) || facts.isSeries) return;
  const now = {...truthOf(e), ...change};
  now.start = Math.max(now.start, facts.start); now.end = Math.min(now.end, facts.end);
  if (!(now.end > now.start)) { $("told").textContent = "The end has to be later than the start."; return; }
  Object.assign(e, {judged, now: judged ? now : null});
  keep();
  select(e, false);
}

function add(start, end) {
  const numbers = events.filter((e) => e.added).map((e) => Number(e.key.slice(1)));      // one may have been undone
  const e = {key: `a${Math.max(0, ...numbers) + 1}`, verdict: "plain", channel: "", judged: null, now: null, added: true};
  const kind = selected && spanOf(selected).kind;
  Object.assign(e, {start, end, kind: facts.kinds.includes(kind) ? kind : facts.kinds[0]});
  events.push(e);
  judge(e, true);
}

function truth() {
  const rows = [];
  for (const e of events) {
    if (!isEvent(e) || e.judged === false) continue;
    if (e.judged) rows.push(e.now);
    else if (e.label) rows.push(e.label);
    else if (!facts.isLabelled && $("rest").value === "keep") rows.push(spanOf(e));
  }
  return rows.sort((a, b) => a.start - b.start);
}

function save() {
  const rows = truth(), text = rows.map(({start, end, kind}) => `${start.toFixed(2)},${end.toFixed(2)},${kind}\n`).join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`start_s,end_s,label\n${text}`], {type: "text/csv"}));
  link.download = `${facts.recording.replace(/[/\\]/g, "_")}.events.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  unsaved = false;
  $("saved").textContent = `${rows.length} events from ${timeText(facts.start)} to ${timeText(facts.end)}, as ${link.download}; put it beside the recording.`;
}

// ---- overview: the size of breaths (or the score), events below it; apneas are notches

const overview = (() => {
  const c = channels.find((one) => one.measures === "airflow") ?? channels.find((one) => one.measures === "effort");
  const size = Math.max(2, Math.round(5 * facts.rate)), parts = [];
  for (const {start, length, first} of segments) {
    if (!c || facts.isSeries) { for (let k = 0; k < length; k++) parts.push([start + k * row, score[first + k]]); continue; }
    for (let k = first; k + size <= first + length; k += size) {
      const [low, high] = extremes(c.values, k, k + size), isLost = c.values.subarray(k, k + size).some(Number.isNaN);
      parts.push([start + (k - first) * row, isLost ? NaN : high - low]);
    }
  }
  const known = parts.map(([, y]) => y).filter((y) => Number.isFinite(y)).sort((a, b) => a - b);
  return {parts, most: known[Math.floor(0.97 * (known.length - 1))] || 1, isSize: Boolean(c) && !facts.isSeries};
})();
const picture = document.createElement("canvas");

function paintOverview() {
  const canvas = $("overview"), ratio = devicePixelRatio, w = Math.round(canvas.clientWidth * ratio), h = Math.round(canvas.clientHeight * ratio);
  [picture.width, picture.height, canvas.width, canvas.height] = [w, h, w, h];
  const ctx = picture.getContext("2d"), tall = h - 22 * ratio, x = (t) => placeIn(t, facts) * w;
  const low = new Float32Array(w).fill(Infinity), high = new Float32Array(w).fill(-Infinity);
  const wide = Math.max(1, Math.ceil(w / Math.max(1, overview.parts.length)));
  for (const [t, y] of overview.parts) {
    if (!Number.isFinite(y)) continue;
    for (let px = Math.floor(x(t)); px < Math.min(w, Math.floor(x(t)) + wide); px++) { low[px] = Math.min(low[px], y); high[px] = Math.max(high[px], y); }
  }
  for (let px = 0; px < w; px++) {
    for (const [y, color] of [[high[px], "--overview-high"], [low[px], "--overview"]]) {
      if (!Number.isFinite(y)) continue;
      const up = tall * Math.min(1, y / overview.most);
      ctx.fillStyle = style(overview.isSize ? color : "--score"); ctx.fillRect(px, tall - up, 1, up);
    }
  }
  for (const e of events) {
    const {start, end} = spanOf(e), at = x(start), span = Math.max(x(end) - at, 2 * ratio);
    if (e.label) { ctx.fillStyle = style(e.verdict === "missed" ? "--missed" : "--label-mark"); ctx.fillRect(at, tall + 13 * ratio, span, 8 * ratio); }
    if (e.verdict === "missed" || e.verdict === "desaturation") continue;
    ctx.fillStyle = style(`--${verdictOf(e)}`);
    ctx.fillRect(at, tall + 3 * ratio, span, 8 * ratio);
  }
}

function drawOverview() {
  const canvas = $("overview"), ctx = canvas.getContext("2d"), x = (t) => placeIn(t, facts) * canvas.width;
  if (!canvas.clientWidth) return;                               // a page that is not shown has no size
  if (!picture.width || canvas.width !== Math.round(canvas.clientWidth * devicePixelRatio)) paintOverview();
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  ctx.drawImage(picture, 0, 0);
  const a = x(view.start), w = Math.max(x(view.end) - a, 3 * devicePixelRatio);
  ctx.fillStyle = style("--window"); ctx.fillRect(a, 0, w, canvas.height);
  ctx.strokeStyle = style("--link"); ctx.lineWidth = 2; ctx.strokeRect(a + 1, 1, w - 2, canvas.height - 2);
}

// ---- pointer, wheel, keys

const area = () => { const box = panels[0].plot.over.getBoundingClientRect(); return [box.left, box.width]; };
const timeAt = (px) => { const [left, width] = area(); return view.start + (px - left) / width * (view.end - view.start); };
function zoom(factor, t = (view.start + view.end) / 2) {
  show(t - (t - view.start) * factor, t + (view.end - t) * factor);
}
const pan = (seconds) => show(view.start + seconds, view.end + seconds);

const touches = new Map();
let adding = null, pointer = null;
$("panels").addEventListener("pointerdown", (e) => {
  touches.set(e.pointerId, e.clientX);
  if (e.shiftKey && !facts.isSeries) adding = timeAt(e.clientX);
});
addEventListener("pointermove", (e) => {
  if ($("panels").contains(e.target)) pointer = timeAt(e.clientX);
  if (!touches.has(e.pointerId) || adding !== null) return;
  const before = [...touches.values()];
  touches.set(e.pointerId, e.clientX);
  const after = [...touches.values()], [left, width] = area(), perPixel = (view.end - view.start) / width;
  if (after.length === 1) return pan((before[0] - after[0]) * perPixel);
  const gap = (xs) => Math.max(8, Math.abs(xs[0] - xs[1])), middle = (xs) => (xs[0] + xs[1]) / 2, held = timeAt(middle(before));
  const length = (view.end - view.start) * gap(before) / gap(after), start = held - (middle(after) - left) / width * length;
  show(start, start + length);
});
for (const name of ["pointerup", "pointercancel"]) addEventListener(name, (e) => {
  touches.delete(e.pointerId);
  if (adding === null) return;
  const [start, end] = [adding, timeAt(e.clientX)].sort((a, b) => a - b);
  adding = null;
  if (name === "pointerup" && end - start >= 1) add(start, end);
});
$("panels").addEventListener("wheel", (e) => {
  e.preventDefault();
  const along = e.shiftKey ? e.deltaY : e.deltaX;
  if (Math.abs(along) > Math.abs(e.shiftKey ? 0 : e.deltaY)) pan(along / 800 * (view.end - view.start));
  else zoom(Math.exp(Math.max(-150, Math.min(150, e.deltaY)) / 500), timeAt(e.clientX));
}, {passive: false});

let dragging = false;
function toPointer(e) {
  const box = $("overview").getBoundingClientRect(), half = (view.end - view.start) / 2;
  const wide = 2 * half > 0.9 * (facts.end - facts.start) ? (facts.isSeries ? half / 5 : 150) : half;
  const t = facts.start + (e.clientX - box.left) / box.width * (facts.end - facts.start);
  show(t - wide, t + wide);
}
$("overview").addEventListener("pointerdown", (e) => { dragging = true; $("overview").setPointerCapture(e.pointerId); toPointer(e); });
$("overview").addEventListener("pointermove", (e) => dragging && toPointer(e));
$("overview").addEventListener("pointerup", () => { dragging = false; });

function edge(side) {
  if (selected && pointer !== null) judge(selected, true, {[side]: pointer});
}
const center = () => pointer !== null && pointer >= view.start && pointer <= view.end ? pointer : (view.start + view.end) / 2;
const wholeView = () => show(facts.start, facts.end);
function heightsOf() { full = !full; $("range").setAttribute("aria-pressed", full); draw(); }
const go = (step) => { const e = neighbour(step); if (e) select(e); };
const KEYS = {
  ArrowLeft: () => pan(-0.2 * (view.end - view.start)), ArrowRight: () => pan(0.2 * (view.end - view.start)),
  "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: wholeView, y: heightsOf, n: () => go(1), p: () => go(-1),
  Home: () => pan(facts.start - view.start), End: () => pan(facts.end - view.end), "[": () => edge("start"), "]": () => edge("end"),
  t: () => judge(selected, true), f: () => judge(selected, false), a: () => facts.isSeries || add(center() - 5, center() + 5),
};
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, select") || !KEYS[e.key]) return;
  e.preventDefault();
  KEYS[e.key]();
});

// ---- start

const kinds = [...new Set(events.map((e) => e.kind))].sort();
$("kind").replaceChildren(new Option("all", ""), ...kinds.map((kind) => new Option(words(kind), kind)));
const offered = Object.entries(FILTERS).filter(([name, [, test]]) => ["events", "open", "judged"].includes(name) && !facts.isSeries || name === "events" || events.some(test));
$("verdict").replaceChildren(...offered.map(([name, [text]]) => new Option(text, name)));
const actions = {previous: () => go(-1), next: () => go(1), in: () => zoom(0.5), out: () => zoom(2), whole: wholeView, range: heightsOf,
  true: () => judge(selected, true), false: () => judge(selected, false), add: () => add(center() - 5, center() + 5), save};
for (const [id, action] of Object.entries(actions)) $(id)?.addEventListener("click", action);
$("undo")?.addEventListener("click", () => {
  if (selected.added) { events.splice(events.indexOf(selected), 1); selected = null; } else Object.assign(selected, {judged: null, now: null});
  keep();
  select(selected, false);
});
$("as")?.addEventListener("change", () => judge(selected, true, {kind: $("as").value}));
for (const [id, side] of [["from", "start"], ["to", "end"]]) $(id)?.addEventListener("change", () => {
  const t = timeOf($(id).value), {start, end} = truthOf(selected), length = end - start;
  const moved = side === "start" && t >= end ? {start: t, end: t + length} : side === "end" && t <= start ? {start: t - length, end: t} : {[side]: t};
  if (Number.isFinite(t)) judge(selected, true, moved);          // beyond the other end, the whole event moves
  else $("told").textContent = `${$(id).value} is no time; expected such as ${timeText(facts.start)}`;
});
for (const id of ["verdict", "kind"]) $(id).addEventListener("change", fillList);
$("time").placeholder = timeText((facts.start + facts.end) / 2);
$("go").addEventListener("submit", (e) => {
  e.preventDefault();
  const t = timeOf($("time").value), half = Math.min(view.end - view.start, facts.isSeries ? 300 * row : 300) / 2;
  if (t >= facts.start - 1 && t <= facts.end + 1) show(t - half, t + half);
  else $("told").textContent = `${$("time").value} is not in this recording; expected ${timeText(facts.start)} to ${timeText(facts.end)}`;
});
addEventListener("beforeunload", (e) => { if (unsaved) e.preventDefault(); });
const repaint = () => { picture.width = 0; resize(); };
new ResizeObserver(repaint).observe($("panels"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("hashchange", () => { const e = events.find((one) => `#${one.key}` === location.hash); if (e && e !== selected) select(e); });
restore();
const asked = events.find((e) => `#${e.key}` === location.hash), first = asked ?? events.find(isEvent);
if (!facts.isSeries) show(...(first ? [spanOf(first).start - 120, spanOf(first).start + 180] : [facts.start, facts.start + 300]));
resize();
if (asked) select(asked); else fillList();
