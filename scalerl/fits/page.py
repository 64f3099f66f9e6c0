"""The report's page: plain HTML, CSS and JavaScript, nothing loaded from elsewhere."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{title}}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:14px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1200px;padding:0 1rem;color:#1f2328}
h1{font-size:1.3rem;margin:0 0 .6rem}
#plot{width:100%;height:auto;border:1px solid #d8dee4;border-radius:6px}
#tip{position:fixed;display:none;background:#1f2328;color:#fff;padding:.3rem .5rem;border-radius:4px;
 font-size:12px;pointer-events:none;white-space:pre}
table{border-collapse:collapse;font-size:12px;margin:.4rem 0}
.wide{overflow-x:auto}
th,td{padding:.2rem .5rem;border-bottom:1px solid #eaeef2;text-align:left;white-space:nowrap}
td.reason{white-space:normal;min-width:18rem}
th{cursor:pointer;position:sticky;top:0;background:#f6f8fa}
th[data-order="1"]::after{content:" \\25b2"} th[data-order="-1"]::after{content:" \\25bc"}
td.number{text-align:right;font-variant-numeric:tabular-nums}
tbody tr.off{opacity:.4} tbody tr:hover{background:#f0f6ff}
summary{font-weight:600;margin-top:1rem;cursor:pointer}
.hint{color:#59636e;font-size:12px}
#filter{padding:.25rem .4rem;width:16rem}
</style></head><body>
<h1>{{title}}</h1>
<p class="hint">Solid: fit window. Dashed: extrapolation with its 90 % band (of the run under the pointer).
Open points were not fitted. Click a row to hide or show its curve, a heading to sort.</p>
<svg id="plot" viewBox="0 0 1100 460" role="img" aria-label="pass rate against compute"></svg>
<p><input id="filter" placeholder="filter runs"></p>
<div class="wide"><table id="fits" class="sortable"><thead></thead><tbody></tbody></table></div>
{{sections}}
<div id="tip"></div>
<script type="application/json" id="data">{{data}}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const svg = document.getElementById("plot"), tip = document.getElementById("tip");
const frame = {left: 60, right: 1085, top: 15, bottom: 415}, most = 40;
const shown = new Set(data.runs.slice(0, most).map((_, i) => i));
const colour = i => data.colours[i % data.colours.length];
const number = v => v === null || v === undefined || v === "" ? "" :
  typeof v === "number" ? String(+v.toPrecision(4)) : String(v);

function add(parent, name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

function scales() {
  const runs = [...shown].map(i => data.runs[i]);
  const x = runs.flatMap(r => [...r.points.compute, r.band.compute.at(-1)]);
  const y = runs.flatMap(r => [...r.points.pass_rate, ...r.band.curve]);
  const least = values => values.reduce((a, b) => Math.min(a, b));  // a call cannot take 100,000 arguments
  const most = values => values.reduce((a, b) => Math.max(a, b));
  const x0 = Math.log(least(x)), x1 = Math.log(most(x));
  const y0 = least(y), y1 = most(y) + 0.01;
  return {
    x: v => frame.left + (Math.log(v) - x0) / (x1 - x0) * (frame.right - frame.left),
    y: v => frame.bottom - (v - y0) / (y1 - y0) * (frame.bottom - frame.top),
    x0: Math.exp(x0), x1: Math.exp(x1), y0, y1,
  };
}

function path(s, compute, values, keep) {
  let text = "";
  compute.forEach((c, i) => {
    if (!keep(c) || c < s.x0) return;
    text += (text ? "L" : "M") + s.x(c).toFixed(1) + "," + s.y(values[i]).toFixed(1);
  });
  return text;
}

function grid(s) {
  for (let e = Math.floor(Math.log10(s.x0)); e <= Math.log10(s.x1); e++) for (const m of [1, 2, 5]) {
    const v = m * 10 ** e;
    if (v < s.x0 || v > s.x1) continue;
    add(svg, "line", {x1: s.x(v), x2: s.x(v), y1: frame.top, y2: frame.bottom, stroke: "#eaeef2"});
    const place = {x: s.x(v), y: frame.bottom + 16, "text-anchor": "middle", "font-size": 11};
    add(svg, "text", place, v.toPrecision(1) * 1);
  }
  const step = [0.01, 0.02, 0.05, 0.1, 0.2].find(d => (s.y1 - s.y0) / d < 9) || 0.2;
  for (let v = Math.ceil(s.y0 / step) * step; v <= s.y1; v += step) {
    add(svg, "line", {x1: frame.left, x2: frame.right, y1: s.y(v), y2: s.y(v), stroke: "#eaeef2"});
    add(svg, "text", {x: frame.left - 6, y: s.y(v) + 4, "text-anchor": "end", "font-size": 11}, v.toFixed(2));
  }
  const middle = (frame.left + frame.right) / 2;
  add(svg, "text", {x: middle, y: 452, "text-anchor": "middle", "font-size": 12}, data.axis);
  add(svg, "text", {x: 14, y: 215, transform: "rotate(-90 14 215)", "text-anchor": "middle", "font-size": 12},
      "held-out pass rate");
}

function draw() {
  svg.replaceChildren();
  if (!shown.size) return;
  const s = scales();
  grid(s);
  for (const i of shown) {
    const run = data.runs[i], band = run.band, group = add(svg, "g", {"data-run": i});
    const ahead = c => c >= run.window[1];
    const back = path(s, [...band.compute].reverse(), [...band.lo90].reverse(), ahead).replace("M", "L");
    const edge = path(s, band.compute, band.hi90, ahead) + back + "Z";
    add(group, "path", {class: "band", d: edge, fill: colour(i), opacity: 0, stroke: "none"});
    const style = {fill: "none", stroke: colour(i), "stroke-width": 2};
    const inside = c => c >= run.window[0] && c <= run.window[1];
    add(group, "path", {...style, d: path(s, band.compute, band.curve, inside)});
    add(group, "path", {...style, d: path(s, band.compute, band.curve, ahead), "stroke-dasharray": "6 4"});
    run.points.compute.forEach((c, j) => add(group, "circle", {
      cx: s.x(c), cy: s.y(run.points.pass_rate[j]), r: 3, stroke: colour(i),
      fill: run.points.fitted[j] ? colour(i) : "#fff"}));
    const hoverable = {"stroke-width": 14, opacity: 0, "pointer-events": "stroke"};
    add(group, "path", {...style, ...hoverable, d: path(s, band.compute, band.curve, () => true)});
    group.addEventListener("mousemove", event => hover(event, run, group, s));
    group.addEventListener("mouseleave", () => leave(group));
  }
}

function hover(event, run, group, s) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const at = run.band.compute.reduce((best, c, i) =>
    Math.abs(s.x(c) - point.x) < Math.abs(s.x(run.band.compute[best]) - point.x) ? i : best, 0);
  const b = run.band;
  tip.textContent = run.key + "\\n" + number(b.compute[at]) + ": " + b.curve[at].toFixed(4) +
    "  (" + b.lo90[at].toFixed(4) + " to " + b.hi90[at].toFixed(4) + ")";
  tip.style.display = "block";
  tip.style.left = event.clientX + 14 + "px";
  tip.style.top = event.clientY + 14 + "px";
  group.querySelector(".band").setAttribute("opacity", 0.15);
}

function leave(group) {
  tip.style.display = "none";
  group.querySelector(".band").setAttribute("opacity", 0);
}

function table() {
  const columns = data.rows.length ? Object.keys(data.rows[0]) : [];
  const head = document.querySelector("#fits thead").insertRow();
  for (const name of columns) {
    const cell = document.createElement("th");
    cell.textContent = name;
    head.appendChild(cell);
  }
  const body = document.querySelector("#fits tbody");
  data.rows.forEach((row, i) => {
    const line = body.insertRow();
    line.classList.toggle("off", !shown.has(i));
    for (const name of columns) {
      const cell = line.insertCell(), value = row[name];
      cell.textContent = number(value);
      cell.className = name === "reason" ? "reason" : typeof value === "number" ? "number" : "";
      if (name === "run") cell.style.color = colour(i);
    }
    line.addEventListener("click", () => {
      shown.has(i) ? shown.delete(i) : shown.add(i);
      line.classList.toggle("off", !shown.has(i));
      draw();
    });
  });
}

function sortable(sorted) {
  sorted.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const order = head.dataset.order === "1" ? -1 : 1;
    sorted.querySelectorAll("th").forEach(other => delete other.dataset.order);
    head.dataset.order = order;
    const value = row => {
      const cell = row.cells[column], text = cell.dataset.value || cell.textContent;
      return text === "" ? null : isNaN(text) ? text : Number(text);
    };
    const rows = [...sorted.tBodies[0].rows];
    rows.sort((one, other) => {
      const a = value(one), b = value(other);
      if (a === null || b === null) return (a === null) - (b === null);
      const numbers = typeof a === "number" && typeof b === "number";
      return order * (numbers ? a - b : String(a).localeCompare(String(b)));
    });
    sorted.tBodies[0].append(...rows);
  }));
}

document.getElementById("filter").addEventListener("input", event => {
  const text = event.target.value.toLowerCase();
  for (const row of document.querySelector("#fits tbody").rows)
    row.style.display = row.textContent.toLowerCase().includes(text) ? "" : "none";
});
table();
document.querySelectorAll("table.sortable").forEach(sortable);
draw();
</script></body></html>
"""
