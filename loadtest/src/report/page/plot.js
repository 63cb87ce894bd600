// Plots as SVG. A chart: { lines: [{ name, color, points: [[x, y or null], …], area }], logX, logY,
// formatX, formatY, ticksX, phases, from, whole }; without logX, x begins at `from` or 0.
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 230, LEFT = 54, RIGHT = 14, TOP = 20, BOTTOM = 22;

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function html(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  // As text: what a hub or a device says is no markup.
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

// 1, 2 or 5 times a power of ten, at least `value`.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map(times => times * power).find(step => step >= value * 0.999999);
}

function linear(most, pieces, whole) {
  const step = Math.max(nice((most || 1) / pieces), whole ? 1 : 0);
  const end = Math.ceil((most || 1) / step - 1e-9) * step;
  const ticks = Array.from({ length: Math.round(end / step) + 1 }, (_, index) => index * step);
  return { end, ticks };
}

// Powers of ten, and 2 and 5 times of them where there are few.
function logarithmic(least, most) {
  const from = Math.floor(Math.log10(least) + 1e-9), to = Math.max(from + 1, Math.ceil(Math.log10(most) - 1e-9));
  const ticks = [];
  for (let power = from; power <= to; power++) {
    for (const times of to - from < 3 ? [1, 2, 5] : [1]) {
      const tick = times * 10 ** power;
      if (tick <= 10 ** to * 1.001) ticks.push(tick);
    }
  }
  return { start: 10 ** from, end: 10 ** to, ticks };
}

function scaleY(chart) {
  const values = chart.lines.flatMap(line => line.points.map(point => point[1])).filter(value => value !== null);
  const most = Math.max(0, ...values);
  if (!chart.logY || most <= 0) {
    const { end, ticks } = linear(most, 4, chart.whole);
    return { ticks, at: value => HEIGHT - BOTTOM - value / end * (HEIGHT - TOP - BOTTOM) };
  }
  const least = Math.min(...values.filter(value => value > 0));
  const { start, end, ticks } = logarithmic(least, most);
  const part = value => Math.log10(Math.max(value, start) / start) / Math.log10(end / start);
  return { ticks, at: value => HEIGHT - BOTTOM - part(value) * (HEIGHT - TOP - BOTTOM) };
}

function scaleX(chart, width) {
  const xs = chart.lines.flatMap(line => line.points.map(point => point[0]));
  const first = chart.logX ? 1 : chart.from ?? 0, last = Math.max(chart.logX ? 10 : first + 1, ...xs);
  const part = chart.logX ? x => Math.log10(x) / Math.log10(last) : x => (x - first) / (last - first);
  const at = x => LEFT + part(Math.min(last, Math.max(first, x))) * (width - LEFT - RIGHT);
  return { at, ticks: chart.ticksX(first, last, width) };
}

// A line between gaps; a point that stands alone is a dot.
function path(points, at) {
  const dot = "m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0";
  const there = index => (points[index]?.[1] ?? null) !== null;
  return points.map(([x, y], index) => {
    if (!there(index)) return "";
    const place = `${there(index - 1) ? "L" : "M"}${at.x(x).toFixed(1)} ${at.y(y).toFixed(1)}`;
    return there(index - 1) || there(index + 1) ? place : place + dot;
  }).join("");
}

function drawn(chart, width) {
  const x = scaleX(chart, width), y = scaleY(chart), at = { x: x.at, y: y.at };
  const bottom = HEIGHT - BOTTOM;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": chart.title });
  const spans = (chart.phases ?? []).map(({ name, from, until }, index) => ({ name, index, from: at.x(from), to: at.x(until) }));
  for (const { index, from, to } of spans) {
    if (index % 2 && to > from) plot.append(svg("rect", { class: "phase", x: from, y: TOP, width: to - from, height: bottom - TOP }));
  }
  // The longest have their names first; where two would meet, the shorter goes without.
  const named = [];
  for (const { name, from, to } of spans.sort((one, other) => (other.to - other.from) - (one.to - one.from))) {
    const end = from + name.length * 6.2 + 4;
    if (to <= from || end > width || named.some(other => from < other.end && other.from < end)) continue;
    named.push({ from, end });
    plot.append(svg("text", { x: from, y: TOP - 6 }, name));
  }
  for (const tick of y.ticks) {
    plot.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at.y(tick), y2: at.y(tick) }));
    plot.append(svg("text", { x: LEFT - 6, y: at.y(tick) + 4, "text-anchor": "end" }, chart.formatY(tick)));
  }
  let labelled = 0;
  for (const tick of x.ticks) {
    plot.append(svg("line", { class: "grid", x1: at.x(tick), x2: at.x(tick), y1: bottom, y2: bottom + 4 }));
    const text = chart.formatX(tick), half = text.length * 3.1 + 3;
    if (at.x(tick) - half < labelled) continue;
    labelled = at.x(tick) + half;
    plot.append(svg("text", { x: Math.min(at.x(tick), width - half + 3), y: HEIGHT - 5, "text-anchor": "middle" }, text));
  }
  for (const line of chart.lines) {
    const d = path(line.points, at);
    if (line.area && d) {
      const last = line.points[line.points.length - 1][0], first = line.points[0][0];
      const area = `${d}L${at.x(last)} ${bottom}L${at.x(first)} ${bottom}Z`;
      plot.append(svg("path", { class: "area", d: area, fill: line.color }));
    }
    plot.append(svg("path", { class: "curve", d, stroke: line.color }));
  }
  return { plot, at, bottom };
}

function nearest(points, distance) {
  let best = null;
  for (const point of points) if (!best || distance(point) < distance(best)) best = point;
  return best;
}

// What draws each card, once it is in the page and has a width.
const undrawn = [];

// A card with a legend; under the pointer, the legend says the values.
function card(chart) {
  const legend = html("div", { class: "legend" });
  const box = html("div", { class: "plot" });
  const told = (x, values) => legend.replaceChildren(
    ...chart.lines.map((line, index) => html("span", {},
      html("i", { style: `background:${line.color}` }), line.name,
      values && html("b", {}, values[index] === null ? "–" : chart.formatY(values[index])))),
    ...(values ? [html("span", {}, "at", html("b", {}, chart.formatX(x)))] : []),
  );
  let width;
  const draw = () => {
    if (width === box.clientWidth) return;
    width = box.clientWidth;
    const { plot, at, bottom } = drawn(chart, Math.max(260, width));
    const rule = svg("line", { class: "rule", y1: TOP, y2: bottom, visibility: "hidden" });
    plot.append(rule);
    plot.addEventListener("pointermove", event => {
      const distance = point => Math.abs(at.x(point[0]) - event.offsetX);
      const points = chart.lines.map(line => nearest(line.points, distance));
      const one = nearest(points.filter(point => point), distance);
      if (!one) return;
      rule.setAttribute("x1", at.x(one[0]));
      rule.setAttribute("x2", at.x(one[0]));
      rule.setAttribute("visibility", "visible");
      told(one[0], points.map(point => point && point[0] === one[0] ? point[1] : null));
    });
    plot.addEventListener("pointerleave", () => {
      rule.setAttribute("visibility", "hidden");
      told();
    });
    box.replaceChildren(plot);
  };
  told();
  undrawn.push(draw);
  new ResizeObserver(draw).observe(box);
  const title = html("h3", {}, chart.title, html("span", { class: "faint" }, ` ${chart.note ?? ""}`));
  return html("section", { class: "card", "data-plot": chart.title }, title, legend, box);
}
