"use strict";
// Draws a run's report from the document in the page. Text from the report reaches the page as text only.

const report = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const PALETTE = ["#2f6fd6", "#c2571a", "#2e8b57", "#8a4fbf", "#b8860b", "#c03a68", "#1f8a99", "#6b7280", "#4a5fc1", "#7d8c1f", "#a0522d", "#d06fb0"];
const color = (number) => PALETTE[number % PALETTE.length];
const seconds = (value) => (value === null || value === undefined ? "" : value >= 100 ? value.toFixed(0) : value.toFixed(2));
const micro = (value) => (value === null || value === undefined ? "" : value >= 1e-3 ? (value * 1e6).toFixed(0) : (value * 1e6).toPrecision(4));
const charts = [];

function add(parent, tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
}

function hideSection(id) {
  byId(id).hidden = true;
}

function showOutcome() {
  const outcome = byId("outcome");
  outcome.textContent = report.ready ? "READY" : "FAILED";
  outcome.className = report.ready ? "good" : "bad";
  byId("subtitle").textContent = report.subtitle;
  if (report.error) {
    byId("error").hidden = false;
    byId("error").textContent = report.error;
  }
  for (const warning of report.warnings) add(byId("warnings"), "li", warning);
  for (const [name, value] of report.facts) {
    const box = add(byId("facts"), "div");
    add(box, "dt", name);
    add(box, "dd", value);
  }
  for (const section of document.querySelectorAll("main section:not([hidden])")) {
    const link = add(byId("contents"), "a", section.querySelector("h2").textContent);
    link.href = "#" + section.id;
  }
}

function showClasses() {
  if (!report.class_rows.rows.length) return hideSection("classes");
  grid("classes-table", report.class_rows);
}

function showCluster() {
  if (!report.nodes.length) return hideSection("cluster");
  report.classes.forEach((name, number) => {
    const entry = add(byId("class-legend"), "span");
    add(entry, "i").style.background = color(number);
    entry.append("class " + name);
  });
  if (report.nodes.some((node) => node.ranks.some((rank) => rank.role === "leader"))) {
    add(byId("class-legend"), "span", "outlined: leader · w: writer of its node");
  }
  for (const node of report.nodes) {
    const card = add(byId("nodes"), "div", undefined, "node");
    add(card, "b", node.name);
    add(card, "small", node.detail);
    for (const rank of node.ranks) {
      const mark = add(card, "span", rank.rank + (rank.role === "writer" ? " w" : ""), "rank");
      mark.style.background = rank.class < 0 ? "#6b7280" : color(rank.class);
      mark.classList.toggle("leader", rank.role === "leader");
      mark.classList.toggle("lost", ["lost", "failed", "removed"].includes(rank.state));
      mark.title = `rank ${rank.rank}: ${rank.role}, ${rank.state}`;
    }
  }
}

const NARROW = 500;

function chart(id, config) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text");
  const line = style.getPropertyValue("--line");
  config.options = { responsive: true, maintainAspectRatio: false, animation: false, ...config.options };
  for (const scale of Object.values(config.options.scales)) {
    scale.ticks = { ...scale.ticks, color: text };
    scale.grid = { color: line };
    if (scale.title) scale.title.color = text;
  }
  config.options.plugins = { ...config.options.plugins };
  const legend = config.options.plugins.legend || {};
  const isNarrow = document.documentElement.clientWidth < NARROW;
  config.options.plugins.legend = { ...legend, labels: { color: text, boxWidth: isNarrow ? 10 : 24 } };
  later(() => charts.push(new Chart(byId(id), config)));
}

const waiting = [];

// Plots and small tables of a large run take longer than the table of tasks, which a reader wants to use at once.
function later(work) {
  waiting.push(work);
}

function drawNext() {
  const work = waiting.shift();
  if (work) work();
  if (waiting.length) setTimeout(drawNext);
  else document.body.dataset.drawn = "yes";
}

function showTimeline() {
  const { phases, ranks } = report.timeline;
  if (!phases.length || !ranks.length) return hideSection("timeline");
  byId("timeline-box").style.height = Math.max(150, ranks.length * 18 + 90) + "px";
  const datasets = phases.map((phase, number) => ({
    label: phase.name,
    backgroundColor: color(number),
    grouped: false,
    barThickness: 12,
    minBarLength: 1,
    data: ranks.map((rank) => (rank.phases[phase.name] ? [phase.begin, phase.begin + rank.phases[phase.name]] : null)),
  }));
  chart("timeline-plot", {
    type: "bar",
    data: { labels: ranks.map((rank) => rank.name), datasets },
    options: {
      indexAxis: "y",
      scales: { x: { min: 0, position: "top", title: { display: true, text: "s" } }, y: { ticks: { autoSkip: false } } },
      plugins: {
        tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${seconds(item.raw[1] - item.raw[0])} s` } },
      },
    },
  });
}

function showStarts() {
  if (!report.starts.bars.length) return hideSection("starts");
  const { bars, parts, note } = report.starts;
  byId("starts-note").textContent = note;
  byId("starts-box").style.height = bars.length * 44 + 110 + "px";
  chart("starts-plot", {
    type: "bar",
    data: {
      labels: bars.map((bar) => bar.name),
      datasets: parts.map((part, number) => ({
        label: part,
        backgroundColor: color(number),
        data: bars.map((bar) => bar.seconds[number]),
      })),
    },
    options: {
      indexAxis: "y",
      scales: { x: { stacked: true, title: { display: true, text: "s" } }, y: { stacked: true } },
      plugins: { tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${seconds(item.raw)} s` } } },
    },
  });
}

function table(id, columns, rows, options) {
  return new Tabulator("#" + id, {
    data: rows,
    columns,
    layout: "fitDataTable",
    columnDefaults: { headerTooltip: true, tooltip: (event, cell) => String(cell.getValue() ?? "") },
    placeholder: "nothing to show",
    ...options,
  });
}

const number = (title, field, format) => ({
  title,
  field,
  hozAlign: "right",
  sorter: "number",
  formatter: format ? (cell) => format(cell.getValue()) : undefined,
});

function grid(id, source) {
  const columns = source.columns.map((title, index) => {
    const isNumeric = source.rows.every((row) => row[index] === null || typeof row[index] === "number");
    return isNumeric ? number(title, "c" + index) : { title, field: "c" + index, sorter: "string" };
  });
  const rows = source.rows.map((row) => Object.fromEntries(row.map((value, index) => ["c" + index, value])));
  later(() => table(id, columns, rows, rows.length > 14 ? { height: "420px" } : {}));
}

function showKinds() {
  if (!report.kinds.rows.length) return hideSection("kinds");
  byId("kinds-note").textContent = report.kinds.note;
  grid("kinds-table", report.kinds);
}

function showRanks() {
  if (!report.rank_rows.length) return hideSection("ranks");
  const columns = [
    number("rank", "rank"),
    { title: "node", field: "node" },
    { title: "device", field: "device" },
    { title: "role", field: "role" },
    { title: "state", field: "state" },
    number("entries", "entries"),
    number("hits", "hits"),
    ...report.timeline.phases.filter((phase) => report.rank_rows.some((row) => phase.name in row.phases)).map((phase) => number(phase.name.toLowerCase() + " s", "p_" + phase.name, seconds)),
    { title: "error", field: "error" },
  ];
  const rows = report.rank_rows.map((row) => ({
    ...row,
    ...Object.fromEntries(Object.entries(row.phases).map(([name, value]) => ["p_" + name, value])),
  }));
  later(() => table("ranks-table", columns, rows, rows.length > 14 ? { height: "420px" } : {}));
}

const TASK_COLUMNS = [
  { title: "task", field: "task", width: 330 },
  number("tokens", "bucket"),
  number("default µs", "default_s", micro),
  number("table µs", "tuned_s", micro),
  number("ratio", "ratio", (value) => (value === null ? "" : value.toFixed(3))),
  { title: "decision", field: "decision" },
  { title: "reason", field: "reason", width: 260 },
  { title: "runner", field: "runner" },
  { title: "tactic", field: "tactic" },
  { title: "class", field: "class" },
  number("rank", "rank"),
];

let tasksTable = null;

function taskRows() {
  const names = report.tasks.columns;
  return report.tasks.rows.map((row) => {
    const made = Object.fromEntries(names.map((name, index) => [name, row[index]]));
    made.ratio = made.default_s && made.tuned_s ? made.default_s / made.tuned_s : null;
    return made;
  });
}

function choices(id, values) {
  for (const value of [...new Set(values)].sort()) add(byId(id), "option", value).value = value;
}

function wanted(row) {
  const find = byId("find").value.toLowerCase();
  if (byId("decision").value && row.decision !== byId("decision").value) return false;
  if (byId("class").value && row.class !== byId("class").value) return false;
  return !find || [row.task, row.op, row.runner, row.tactic, row.reason].some((text) => String(text).toLowerCase().includes(find));
}

// Op, shape and bucket, which tell a task from its neighbours. A node, because a text would be read as markup.
function shortTask(cell) {
  const words = String(cell.getValue()).split(":");
  const last = words[words.length - 1];
  return document.createTextNode(words.length < 3 || !last.includes("@") ? words.join(":") : `${words[0]} ${last}`);
}

function showTasks() {
  if (document.documentElement.clientWidth < NARROW) Object.assign(TASK_COLUMNS[0], { width: 225, formatter: shortTask });
  const rows = taskRows();
  if (!rows.length) {
    hideSection("tasks");
    return hideSection("speedup");
  }
  choices("decision", rows.map((row) => row.decision));
  choices("class", rows.map((row) => row.class));
  const asked = new URLSearchParams(location.hash.startsWith("#tasks?") ? location.hash.slice(7) : "");
  for (const id of ["find", "decision", "class"]) byId(id).value = asked.get(id) || "";
  const [field, dir] = (asked.get("sort") || "").split(":");
  const known = TASK_COLUMNS.some((column) => column.field === field);
  const initialSort = known ? [{ column: field, dir: dir === "desc" ? "desc" : "asc" }] : [];
  const tall = rows.length > 16 ? { height: "520px" } : {};
  tasksTable = table("tasks-table", TASK_COLUMNS, rows, { ...tall, initialSort, layout: "fitData" });
  tasksTable.on("tableBuilt", () => {
    filterTasks();
    if (location.hash.startsWith("#tasks?")) byId("tasks").scrollIntoView();
    document.body.dataset.interactive = performance.now();
    setTimeout(drawNext);
  });
  tasksTable.on("dataSorted", remember);
  for (const id of ["find", "decision", "class"]) byId(id).addEventListener("input", filterTasks);
  byId("share").addEventListener("click", share);
  showSpeedup(rows);
}

function filterTasks() {
  const isFiltered = ["find", "decision", "class"].some((id) => byId(id).value);
  // Without a filter there is nothing to draw again, which is what most readers begin with.
  if (isFiltered || tasksTable.getFilters().length) tasksTable.setFilter(wanted);
  const shown = tasksTable.getDataCount("active");
  byId("shown").textContent = `${shown} of ${report.tasks.rows.length} tasks`;
  remember();
}

function stateOfTasks() {
  const state = new URLSearchParams();
  for (const id of ["find", "decision", "class"]) if (byId(id).value) state.set(id, byId(id).value);
  const sorted = tasksTable && tasksTable.initialized ? tasksTable.getSorters()[0] : null;
  if (sorted) state.set("sort", sorted.field + ":" + sorted.dir);
  return state.toString();
}

function remember() {
  const state = stateOfTasks();
  if (state) history.replaceState(null, "", "#tasks?" + state);
  else if (location.hash.startsWith("#tasks?")) history.replaceState(null, "", location.pathname + location.search);
}

function share() {
  remember();
  const done = () => (byId("share").textContent = "Copied");
  // Without a secure context, as with file://, the address bar has the link.
  if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(done, () => window.prompt("Link", location.href));
  else window.prompt("Link", location.href);
}

function showSpeedup(rows) {
  const measured = rows.filter((row) => row.ratio !== null);
  if (!measured.length) return hideSection("speedup");
  const ops = [...new Set(measured.map((row) => row.op))].sort();
  chart("speedup-plot", {
    type: "scatter",
    data: {
      datasets: ops.map((op, index) => ({
        label: op,
        backgroundColor: color(index),
        pointRadius: measured.length > 1000 ? 2 : 4,
        data: measured.filter((row) => row.op === op).map((row) => ({ x: row.bucket, y: row.ratio, task: row.task })),
      })),
    },
    options: {
      scales: {
        x: { type: "logarithmic", title: { display: true, text: "tokens" }, ticks: { maxTicksLimit: 8 } },
        y: { title: { display: true, text: "default / table" } },
      },
      plugins: { tooltip: { callbacks: { label: (item) => `${item.raw.task}: ${item.raw.y.toFixed(3)}` } } },
    },
  });
}

function draw() {
  showClasses();
  showCluster();
  showTimeline();
  showStarts();
  showKinds();
  showRanks();
  showTasks();
  showOutcome();
  if (!tasksTable) drawNext();
}

draw();
// Charts hold the colours of the scheme in which they were drawn.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const drawn of charts.splice(0)) drawn.destroy();
  showTimeline();
  showStarts();
  if (report.tasks.rows.length) showSpeedup(taskRows());
  drawNext();
});
