// Elements, and line charts as SVG: a name and a description for those who do not see them; dashes repeat what colours say.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 440, HEIGHT = 220, LEFT = 50, RIGHT = 14, TOP = 10, BOTTOM = 36;
const COLOURS = 7;

/// An element of `namespace` with attributes and children; text is only ever text.
function make(namespace, tag, attributes, children) {
  const element = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const html = (tag, attributes = {}, ...children) => make(null, tag, attributes, children);
export const svg = (tag, attributes = {}, ...children) => make(SVG, tag, attributes, children);
const colour = (index) => `s${index % COLOURS}`;
/// How the line of an index looks, to stand beside its name.
export const key = (index) => svg("svg", { class: `key ${colour(index)}`, viewBox: "0 0 28 12", "aria-hidden": "true" },
  svg("path", { class: `line dash${index % 3}`, d: "M1 6H27" }));

/// Makes the children of `parent` equal to `wanted` (elements and text), and touches only what differs: a selection, the focus and
/// a screen reader's place stay. Children with a `data-key` are told apart by it where others come and go.
export function update(parent, wanted) {
  const named = (node) => node.dataset?.key;
  const names = new Set(wanted.map(named));
  for (const old of [...parent.childNodes]) if (!names.has(named(old))) old.remove();
  let at = parent.firstChild;
  for (const item of wanted) {
    const node = typeof item === "string" ? new Text(item) : item;
    if (at?.nodeName === node.nodeName && named(at) === named(node)) {
      become(at, node);
      at = at.nextSibling;
    } else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function become(old, node) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== node.data) old.data = node.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!node.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of node.attributes) {
    if (old.getAttribute(name) === value) continue;
    // The page's policy refuses the attribute to scripts.
    if (name === "style") old.style.cssText = value;
    else old.setAttribute(name, value);
  }
  update(old, [...node.childNodes]);
}

/// 12345 as "12.3k": at most four characters and a unit.
export function short(value) {
  const units = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [size, unit] = units.find(([size]) => Math.abs(value) >= size) ?? [1, ""];
  const scaled = value / size;
  const digits = Math.abs(scaled) >= 100 || Number.isInteger(scaled) ? 0 : Math.abs(scaled) >= 10 ? 1 : 2;
  return scaled.toFixed(digits) + unit;
}

/// Round steps, about `count` of them, over the values.
function scale(values, [from, to], count) {
  let low = Math.min(...values), high = Math.max(...values);
  if (!(low < high)) {
    low = Number.isFinite(low) ? Math.min(low, 0) : 0;
    high = Number.isFinite(high) && high > low ? high : low + 1;
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  low = Math.floor(low / step) * step;
  high = Math.ceil(high / step) * step;
  const ticks = [];
  for (let i = 0; low + i * step <= high + step / 2; i++) ticks.push(low + i * step);
  return { ticks, at: (value) => from + ((value - low) / (high - low)) * (to - from) };
}

function axes(x, y, unit, along) {
  const rows = y.ticks.flatMap((tick) => [
    svg("path", { class: "grid", d: `M${LEFT} ${y.at(tick).toFixed(1)}H${WIDTH - RIGHT}` }),
    svg("text", { class: "end", x: LEFT - 6, y: (y.at(tick) + 4).toFixed(1) }, unit(tick)),
  ]);
  const columns = x.ticks.map((tick) =>
    svg("text", { class: "middle", x: x.at(tick).toFixed(1), y: HEIGHT - BOTTOM + 15 }, short(tick)));
  const label = svg("text", { class: "end", x: WIDTH - RIGHT, y: HEIGHT - BOTTOM + 31 }, along);
  return [...rows, ...columns, label];
}

function curve(line, x, y) {
  const places = line.points.map(([a, b]) => [x.at(a).toFixed(1), y.at(b).toFixed(1)]);
  const [first, ...others] = places;
  if (!others.length) return svg("circle", { class: `dot ${colour(line.index)}`, cx: first[0], cy: first[1], r: 3 });
  const path = others.map(([a, b]) => (line.stepped ? `H${a}V${b}` : `L${a} ${b}`)).join("");
  return svg("path", { class: `line ${colour(line.index)} dash${line.index % 3}`, d: `M${first[0]} ${first[1]}${path}` });
}

/// A line in words.
function tell({ label, points }, unit) {
  const values = points.map(([, value]) => value);
  const [first, last] = [values[0], values.at(-1)];
  const [least, greatest] = [Math.min(...values), Math.max(...values)];
  return `${label}: from ${unit(first)} to ${unit(last)}, least ${unit(least)}, greatest ${unit(greatest)}`;
}

/// A figure: title, legend, lines of `{ label, index, points: [[x, y]], stepped }` over what `along` says.
export function figure(title, note, lines, unit, along = "samples trained") {
  const drawn = lines.filter((line) => line.points.length);
  const all = drawn.flatMap((line) => line.points);
  const x = scale([0, ...all.map((p) => p[0])], [LEFT, WIDTH - RIGHT], 5);
  const y = scale(all.map((p) => p[1]), [HEIGHT - BOTTOM, TOP], 4);
  const told = drawn.map((line) => tell(line, unit)).join("; ");
  const keys = drawn.map((line) => html("li", {}, key(line.index), line.label));
  const chart = svg("svg", { class: "chart", role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-label": `${title}. ${told}` },
    ...axes(x, y, unit, along), ...drawn.map((line) => curve(line, x, y)));
  return html("figure", { "data-key": title },
    html("figcaption", {}, html("strong", {}, title), note), html("ul", { class: "legend" }, ...keys), chart);
}
