const state = {hidden: new Set(), size: "", outcome: "", seed: "", sort: "place", falling: false, all: false, open: new Set()};
const ROWS = {wide: 20, narrow: 8};
const make = (tag, more = {}) => Object.assign(document.createElement(tag), more);
let data, shown = {};

// ---- what is shown ----
const isShown = run => !state.hidden.has(run.arm) && (!state.size || run.size === state.size)
  && (!state.outcome || run.outcome === state.outcome) && (!state.seed || String(run.seed) === state.seed);

// A trace without what the filters hide; null where nothing is left. Means and intervals are of all seeds, whatever is hidden.
function filtered(trace) {
  const meta = trace.meta || {};
  if (state.hidden.has(meta.arm) || (meta.outcome && state.outcome && meta.outcome !== state.outcome)) return null;
  if (meta.run !== undefined) return isShown(data.runs[meta.run]) ? trace : null;
  if (!meta.runs) return trace;
  const kept = meta.runs.map((run, k) => isShown(data.runs[run]) ? k : -1).filter(k => k >= 0);
  const take = values => Array.isArray(values) ? kept.map(k => values[k]) : values;
  const marker = {...trace.marker, size: take(trace.marker.size), symbol: take(trace.marker.symbol)};
  return {...trace, x: take(trace.x), y: take(trace.y), hovertext: take(trace.hovertext), marker};
}

function plot(place, figure) {
  const own = recoloured(figure, data.colours);
  return Plotly.react(place, own.data.map(filtered).filter(trace => trace), layoutOf(own, here()), CONFIG);
}

// ---- charts ----
const values = (chart, k) => [...new Set(chart.panels.map(panel => panel.place[k]))];

// The panel of a place; where a combination does not exist, the nearest that does, later controls giving way first.
function panelAt(chart, place) {
  const agree = panel => { let k = 0; while (k < place.length && panel.place[k] === place[k]) k++; return k; };
  return chart.panels.reduce((best, panel) => agree(panel) > agree(best) ? panel : best);
}

function panelsOf(id) {
  const chart = data.charts[id];
  if (!chart.together || narrow.matches) return [panelAt(chart, shown[id])];
  const some = chart.panels.filter(panel => !state.size || panel.place[0] === state.size);
  return some.length ? some : chart.panels;
}

function drawControls(id) {
  const chart = data.charts[id], place = document.getElementById("controls-" + id);
  place.replaceChildren();
  if (!chart.together || narrow.matches) chart.controls.forEach((name, k) => {
    const choices = values(chart, k), label = make("label", {textContent: name + " "});
    if (choices.length < 2) return;
    const slides = chart.slides && k === chart.controls.length - 1;
    const control = slides ? make("input", {type: "range", min: 0, max: choices.length - 1, step: 1, value: Math.max(0, choices.indexOf(shown[id][k]))}) : make("select");
    if (slides) control.setAttribute("aria-valuetext", shown[id][k]);
    else control.append(...choices.map(value => make("option", {textContent: value, selected: value === shown[id][k]})));
    const told = make("span", {textContent: slides ? " " + shown[id][k] : ""});
    control.addEventListener("input", () => {
      const wanted = [...shown[id]];
      wanted[k] = slides ? choices[control.value] : control.value;
      shown[id] = panelAt(chart, wanted).place;
      if (slides) { told.textContent = " " + shown[id][k]; control.setAttribute("aria-valuetext", shown[id][k]); } else drawControls(id);
      drawPanels(id);
    });
    label.append(control, told);
    place.append(label);
  });
  const buttons = make("span", {className: "export"});
  for (const format of ["svg", "png"]) {
    const button = make("button", {type: "button", textContent: format.toUpperCase(), title: "save at paper size"});
    button.addEventListener("click", () => save(id, format));
    buttons.append(button, " ");
  }
  place.append(buttons);
}

function drawPanels(id) {
  const place = document.getElementById("panels-" + id), panels = panelsOf(id), chart = data.charts[id];
  while (place.children.length > panels.length) { Plotly.purge(place.lastChild.lastChild); place.lastChild.remove(); }
  while (place.children.length < panels.length) {
    const outer = make("div");
    outer.append(make("div", {className: "faint"}), make("div", {className: "plot"}));
    place.append(outer);
  }
  panels.forEach((panel, k) => {
    place.children[k].firstChild.textContent = chart.together && !narrow.matches ? panel.place[0] : "";
    plot(place.children[k].lastChild, panel);
  });
}

// At the width of a page of paper, in black on white, with a legend.
function save(id, format) {
  const ends = {ink: "#000", line: "#ddd", paper: "#fff"};
  for (const panel of panelsOf(id)) {
    const traces = structuredClone(panel.figure || panel).data.map(filtered).filter(trace => trace), named = new Set();
    for (const trace of traces) {
      const arm = (trace.meta || {}).arm;
      Object.assign(trace, {name: arm, legendgroup: arm, showlegend: !!arm && !named.has(arm)});
      named.add(arm);
    }
    const layout = {...layoutOf(panel, ends), showlegend: true, legend: {orientation: "h", y: -0.25}, width: 504, height: 380};
    Plotly.downloadImage({data: traces, layout}, {format, width: 504, height: 380, scale: format === "png" ? 4 : 1, filename: [id, ...panel.place].join(" ")});
  }
}

// ---- the table of runs ----
const COLUMNS = [["arm", "arm"], ["size", "size"], ["lr", "learning rate"], ["seed", "seed"], ["outcome", "outcome"], ["loss", "loss"], ["params", "parameters"], ["seconds", "seconds"]];
const NUMBERS = new Set(["lr", "seed", "loss", "params", "seconds"]);

function drawHead() {
  document.querySelector("#table thead tr").replaceChildren(...COLUMNS.filter(([key]) => key !== "size" || data.sized).map(([key, name]) => {
    const cell = make("th", {className: NUMBERS.has(key) ? "number" : ""}), button = make("button", {type: "button", textContent: name});
    if (state.sort === key) cell.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
    button.addEventListener("click", () => { state.falling = state.sort === key && !state.falling; state.sort = key; drawTable(); });
    cell.append(button);
    return cell;
  }));
}

function drawTable() {
  drawHead();
  const rows = data.runs.filter(isShown), key = state.sort, sign = state.falling ? -1 : 1;
  if (key !== "place") rows.sort((a, b) => sign * (a[key] === null ? 1 : b[key] === null ? -1 : typeof a[key] === "number" ? a[key] - b[key] : String(a[key]).localeCompare(b[key], undefined, {numeric: true})));
  const few = state.all ? rows : rows.slice(0, narrow.matches ? ROWS.narrow : ROWS.wide);
  document.getElementById("count").textContent = `${rows.length} of ${data.runs.length} shown`;
  document.getElementById("more").hidden = few.length === rows.length;
  document.querySelector("#table tbody").replaceChildren(...few.flatMap(run => state.open.has(run.key) ? [row(run), unfolded(run)] : [row(run)]));
  for (const place of document.querySelectorAll("#table .plot")) plotRun(place);
}

function row(run) {
  const line = make("tr");
  COLUMNS.filter(([key]) => key !== "size" || data.sized).forEach(([key], k) => {
    const value = run[key], cell = make("td", {className: NUMBERS.has(key) ? "number" : ""});
    const text = value === null ? "none" : key === "params" ? value.toLocaleString("en") : key === "loss" ? value.toFixed(4) : key === "seconds" ? value.toFixed(1) : String(value);
    if (k === 0) {
      const button = make("button", {type: "button", textContent: (state.open.has(run.key) ? "▾ " : "▸ ") + text});
      button.setAttribute("aria-expanded", state.open.has(run.key));
      button.addEventListener("click", () => { state.open.has(run.key) ? state.open.delete(run.key) : state.open.add(run.key); drawTable(); });
      cell.append(button);
    } else cell.textContent = text;
    line.append(cell);
  });
  return line;
}

function unfolded(run) {
  const line = make("tr"), cell = make("td", {colSpan: COLUMNS.length}), told = make("p", {className: "faint"});
  told.append(`run ${run.key}, ${run.ended}; look at its end: `, make("code", {textContent: `${data.replay} --cell ${run.key}`}));
  cell.append(told, make("div", {className: "plot"}));
  cell.lastChild.dataset.place = run.place;
  line.append(cell);
  return line;
}

function plotRun(place) {
  const run = Number(place.dataset.place), curves = (data.charts.curves || {panels: []}).panels;
  const panel = curves.find(each => each.data.some(trace => trace.meta.run === run));
  if (!panel) { place.textContent = "There is no loss curve in its record."; place.style.height = "auto"; return; }
  const traces = panel.data.filter(trace => trace.meta.run === run).map(trace => trace.mode === "lines" ? {...trace, line: {...trace.line, width: 2}} : trace);
  plot(place, {data: traces, layout: panel.layout});
}

// ---- the page ----
function draw() {
  for (const id of Object.keys(data.charts)) {
    const section = document.getElementById(id);
    if (section.tagName === "DETAILS" && !section.open) continue;
    drawControls(id);
    drawPanels(id);
  }
  drawTable();
}

function listen() {
  for (const button of document.querySelectorAll("[data-arm]")) button.addEventListener("click", () => {
    const arm = button.dataset.arm, hide = !state.hidden.has(arm);
    hide ? state.hidden.add(arm) : state.hidden.delete(arm);
    button.setAttribute("aria-pressed", !hide);
    draw();
  });
  for (const select of document.querySelectorAll("[data-filter]")) select.addEventListener("change", () => { state[select.dataset.filter] = select.value; draw(); });
  document.getElementById("reset").addEventListener("click", () => {
    state.hidden.clear();
    for (const button of document.querySelectorAll("[data-arm]")) button.setAttribute("aria-pressed", "true");
    for (const select of document.querySelectorAll("[data-filter]")) { select.value = ""; state[select.dataset.filter] = ""; }
    draw();
  });
  document.getElementById("more").addEventListener("click", () => { state.all = true; drawTable(); });
  for (const section of document.querySelectorAll("details.section")) section.addEventListener("toggle", () => section.open && draw());
  narrow.addEventListener("change", draw);
  dark.addEventListener("change", draw);
}

async function begin() {
  if (narrow.matches) for (const section of document.querySelectorAll("details.section")) section.open = false;
  data = JSON.parse(await inflate("data"));
  await loadPlotly();
  for (const [id, chart] of Object.entries(data.charts)) shown[id] = chart.start.length ? chart.start : chart.panels[0].place;
  listen();
  draw();
  document.documentElement.dataset.drawn = "true";
}
begin();
