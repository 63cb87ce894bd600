// The document: built from the report that the page holds.
const report = JSON.parse(document.getElementById("report").textContent);
const { series, phases } = report;
const COLORS = [1, 2, 3, 4, 5, 6, 7, 8].map(number => `var(--c${number})`);
const PERCENTILES = [["p50", 1], ["p90", 6], ["p99", 2], ["p999", 7], ["max", 8]];
const LABELS = { p50: "p50", p90: "p90", p99: "p99", p999: "p99.9", max: "max" };

function whole(value) {
  return Math.round(value).toLocaleString("en");
}
// To three digits, without zeros that say nothing.
function short(value) {
  return value >= 100 ? whole(value) : String(Number(value.toPrecision(value >= 1 ? 3 : 2)));
}
function many(value) {
  if (value >= 1e6) return `${short(value / 1e6)}M`;
  return value >= 1e4 ? `${short(value / 1e3)}k` : short(value);
}
function ms(value) {
  return value >= 1000 ? `${short(value / 1000)} s` : `${short(value)} ms`;
}
function clock(seconds) {
  const all = Math.round(seconds), two = value => String(value).padStart(2, "0");
  const minutes = `${Math.floor(all / 60) % 60}`;
  return all >= 3600 ? `${Math.floor(all / 3600)}:${two(minutes)}:${two(all % 60)}` : `${minutes}:${two(all % 60)}`;
}
function duration(seconds) {
  return seconds < 120 ? `${Math.round(seconds)} s` : seconds < 3600 ? `${clock(seconds)} min` : `${clock(seconds)} h`;
}
function mebibytes(value) {
  return value >= 10240 ? `${short(value / 1024)} GiB` : `${short(value)} MiB`;
}
function percent(value) {
  return `${short(value)} %`;
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800];
function timeTicks(first, last, width) {
  const step = STEPS.find(step => (last - first) / step <= width / 70) ?? STEPS[STEPS.length - 1];
  const from = Math.ceil(first / step);
  return Array.from({ length: Math.floor(last / step) - from + 1 }, (_, index) => (from + index) * step);
}
const overTime = { formatX: clock, ticksX: timeTicks, phases };
const known = value => value !== null;
const points = values => series.until.map((until, index) => [until, values[index]]);
const ops = Object.entries(series.ops).map(([op, curve], index) => ({
  curve, color: COLORS[index % COLORS.length], total: report.ops[op], name: report.ops[op].name,
}));

function connections() {
  const lines = [{ name: "open", color: COLORS[0], area: true, points: points(series.connections) }];
  return card({ ...overTime, title: "Connections", lines, formatY: many });
}

function rates() {
  const lines = ops.map(op => ({ name: op.name, color: op.color, area: ops.length < 3, points: points(op.curve.done_per_second) }));
  return card({ ...overTime, title: "Operations per second", note: "that were done", lines, formatY: many });
}

function latencies() {
  // The most frequent first; connecting is what comes before.
  const rank = op => (op.curve === series.ops.connect ? 0 : op.total.done);
  const timed = ops.filter(op => op.total.ms).sort((one, other) => rank(other) - rank(one));
  return timed.map(op => {
    // What is done only for a short while is shown for that while, and a little more.
    const [from, until] = [op.curve.max.findIndex(known) - 3, op.curve.max.findLastIndex(known) + 4];
    const [start, end] = until - from < series.until.length / 3 ? [Math.max(0, from), until] : [0, series.until.length];
    const lines = PERCENTILES.map(([key, color]) => (
      { name: LABELS[key], color: COLORS[color - 1], points: points(op.curve[key]).slice(start, end) }));
    const chart = { ...overTime, from: start ? series.until[start] : 0, lines, logY: true, formatY: ms };
    return card({ ...chart, title: `Latency over time: ${op.name}`, note: "log scale" });
  });
}

// x is how many operations it takes to see one so slow: 1 / (1 - p).
function percentiles() {
  const lines = ops.filter(op => op.total.ms).map(op => ({
    name: op.name, color: op.color, points: op.total.percentiles.map(([at, value]) => [100 / (100 - at), value]),
  }));
  const formatX = x => `${Number((100 - 100 / x).toPrecision(8))} %`.replace(/(\.\d*?9*[0-8]?)\d* %/, "$1 %");
  const ticksX = (first, last) => [2, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].filter(tick => tick <= last * 1.01);
  return card({
    title: "Latency by percentile", note: "both scales logarithmic", lines, logX: true, logY: true, formatX, formatY: ms, ticksX,
  });
}

function errors() {
  const failed = ops.filter(op => op.curve.failed.some(count => count > 0))
    .map(op => ({ name: `${op.name} failed`, color: op.color, points: points(op.curve.failed) }));
  const lines = [{ name: "connections lost", color: COLORS[7], points: points(series.lost) }, ...failed];
  const none = lines.length === 1 && series.lost.every(count => count === 0);
  return card({ ...overTime, title: "Errors", note: none ? "there were none" : series.width > 1 ? `in each ${series.width} s` : "in each second", lines, formatY: many, whole: true });
}

function processes(title, note, values, formatY, ...more) {
  const lines = series.processes.map((process, index) => ({
    name: process.name, color: index ? COLORS[index % COLORS.length] : COLORS[7], points: points(values(process)),
  }));
  return card({ ...overTime, title, note, lines: [...more, ...lines.slice(1), lines[0]], formatY });
}

function tile(value, name, more, mood) {
  return html("div", { class: `tile ${mood ?? ""}` }, html("b", {}, value), html("span", {}, name), more && html("span", { class: "more" }, more));
}

function tiles() {
  const failed = Object.values(report.ops).reduce((sum, op) => sum + sumOf(op.failed), 0);
  const lost = sumOf(report.lost);
  const all = [tile(whole(report.connected), "devices connected", `of ${whole(report.devices)}`, report.connected < report.devices ? "bad" : "")];
  if (report.publishing) all.push(tile(`${many(report.publishing.messages_per_s)}/s`, "operations", `for ${duration(report.publishing.measured_seconds)}`));
  const latency = report.publish_ms ?? report.connect_ms, what = report.publish_ms ? busiest().name : "connect";
  if (latency) {
    all.push(tile(ms(latency.p50), "p50", what), tile(ms(latency.p99), "p99", what), tile(ms(latency.max), "max", what));
  }
  all.push(tile(whole(failed + lost), failed + lost === 1 ? "error" : "errors", `${whole(lost)} connections lost`, failed + lost ? "bad" : "good"));
  for (const process of series.processes.slice(1)) {
    all.push(tile(mebibytes(Math.max(0, ...process.rss_kib) / 1024), process.name, `RSS at most, CPU to ${percent(Math.max(0, ...process.cpu_percent))}`));
  }
  return html("div", { class: "tiles" }, ...all);
}

function sumOf(reasons) {
  return Object.values(reasons).reduce((sum, count) => sum + count, 0);
}

function busiest() {
  const worked = Object.entries(report.ops).filter(([op]) => op !== "connect" && op !== "burst").map(([, op]) => op);
  return worked.reduce((best, op) => (op.done > best.done ? op : best));
}

function table(head, rows, wide = -1) {
  const cell = (value, index) => html("td", index === wide ? { class: "wide" } : {}, value ?? "–");
  return html("div", { class: "scroll" }, html("table", {},
    html("thead", {}, html("tr", {}, ...head.map((name, index) => html("th", index === wide ? { class: "wide" } : {}, name)))),
    html("tbody", {}, ...rows.map(row => html("tr", {}, ...row.map(cell))))));
}

function latencyCells(latency) {
  return PERCENTILES.map(([key]) => latency && ms(latency[key]));
}

function tables() {
  const names = PERCENTILES.map(([key]) => LABELS[key]);
  const parts = [html("h2", {}, "Operations"), table(
    ["operation", "started", "done", "failed", ...names],
    Object.values(report.ops).map(op => [op.name, whole(op.started), whole(op.done), whole(sumOf(op.failed)), ...latencyCells(op.ms)]),
  ), html("h2", {}, "Phases"), table(
    ["phase", "from", "to", "operation", "per second", ...names, "lost", "simulator", "server"],
    phases.flatMap(phase => {
      const rows = Object.entries(phase.ops);
      return (rows.length ? rows : [[null, null]]).map(([op, did], index) => [
        index ? "" : phase.name, index ? "" : clock(phase.from), index ? "" : clock(phase.until),
        op && (report.ops[op]?.name ?? op), did && many(did.per_second), ...latencyCells(did?.ms), index ? "" : whole(phase.lost),
        index ? "" : `${phase.client_cores.toFixed(2)} CPU`, index || phase.server_cores === null ? "" : `${phase.server_cores.toFixed(2)} CPU`,
      ]);
    }),
  )];
  const wrong = [
    ...Object.values(report.ops).flatMap(op => Object.entries(op.failed).map(([reason, count]) => [`${op.name} failed`, count, reason])),
    ...Object.entries(report.lost).map(([reason, count]) => ["connection lost", count, reason]),
  ].sort((one, other) => other[1] - one[1]);
  if (wrong.length) {
    parts.push(html("h2", {}, "Errors"), table(["what", "times", "why"], wrong.map(([what, count, why]) => [what, whole(count), why]), 2));
  }
  if (report.memory.length) {
    parts.push(html("h2", {}, "Memory of the server"), table(
      ["at", "RSS", "anonymous", "slab of the machine", "RSS a connection"],
      report.memory.map(sample => [
        sample.at, ...[sample.rss, sample.anonymous, sample.slab].map(kib => mebibytes(kib / 1024)),
        sample.rss_per_connection === null ? null : `${whole(sample.rss_per_connection)} B`,
      ]),
    ));
  }
  return parts;
}

function head() {
  const place = `${report.started.replace("T", " ").replace("Z", " UTC")}, ${duration(report.seconds)}`;
  const workers = report.workers > 1 ? `${report.workers} processes` : "one process";
  return html("header", {},
    html("h1", {}, document.title),
    html("p", {}, `${report.target} ${report.server} · ${place}`),
    html("ul", {}, ...report.groups.map(group => html("li", {}, group))),
    html("p", {}, `dunlin-loadtest ${report.version}, ${workers} on ${report.machine}`),
    html("pre", {}, report.command));
}

document.title = `Load test: ${report.name}`;
const [busy, ...others] = latencies();
document.getElementById("main").replaceChildren(
  head(), tiles(),
  html("div", { class: "plots" }, ...[rates(), connections(), busy, percentiles(),
    processes("Processor time", "100 % is one processor", process => process.cpu_percent, percent,
      { name: "whole machine", color: COLORS[0], area: true, points: points(series.machine_percent) }),
    processes("Memory", "resident set size", process => process.rss_kib.map(kib => kib && kib / 1024), mebibytes),
    errors(), ...others].filter(plot => plot)),
  ...tables(),
  html("h2", {}, "How to read this"), html("ul", {}, ...report.notes.map(note => html("li", {}, note))),
);
// At once, for now they have a width: a browser that shows nothing may never tell of it.
undrawn.forEach(draw => draw());
