// Curves over time as SVG, drawn by hand: a line, its band, and rules to hold it against. As wide as its place, so that
// words are as large on a phone as on a laptop. Each is an image with its numbers in a table below it.

import { shape } from "./plots.js";

const [HEIGHT, TOP, BOTTOM, LEFT, RIGHT] = [190, 10, 24, 52, 12];

// place: the element that holds it. curve: {
//   title, x: [from, to] in milliseconds, y: [low, high] of what is drawn; what is beyond is drawn at the edge and stands
//   in the table, form: number -> text, steps: true = it jumps,
//   line: [{ x, y }], band: [{ x, low, high }], rules: [{ y, name, kind }],
//   table: { head: [word], rows: [[word]] } }
export function curve(place, { title, x, y, form, steps, line, band = [], rules = [], table }) {
  const width = Math.max(240, Math.round(place.clientWidth));
  const marks = ticks(...y);
  const [low, high] = [marks[0], marks.at(-1)];
  const across = (at) => LEFT + ((at - x[0]) / Math.max(1, x[1] - x[0])) * (width - LEFT - RIGHT);
  const up = (value) => TOP + ((high - Math.min(high, Math.max(low, value))) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const point = (at, value) => `${across(at).toFixed(1)},${up(value).toFixed(1)}`;

  const picture = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const mark of marks) {
    picture.append(shape("path", { class: "grid", d: `M${LEFT},${up(mark)}H${width - RIGHT}` }));
    picture.append(shape("text", { class: "name", x: LEFT - 6, y: up(mark) + 4 }, form(mark)));
  }
  for (const [index, at] of times(x, width < 380 ? 2 : 3).entries()) {
    const anchor = index === 0 ? "start" : at === x[1] ? "end" : "middle";
    picture.append(shape("text", { class: `time ${anchor}`, x: across(at), y: HEIGHT - 6 }, moment(at, x)));
  }
  if (band.length > 1) {
    const back = [...band].reverse();
    const edge = [...band.map((at) => point(at.x, at.high)), ...back.map((at) => point(at.x, at.low))];
    picture.append(shape("polygon", { class: "band", points: edge.join(" ") }));
  }
  for (const rule of rules) {
    picture.append(shape("path", { class: `rule ${rule.kind}`, d: `M${LEFT},${up(rule.y)}H${width - RIGHT}` }));
    const off = rule.kind === "bad" ? 14 : -5; // what is worse stands below its line
    picture.append(shape("text", { class: `ruled ${rule.kind}`, x: LEFT + 4, y: up(rule.y) + off }, rule.name));
  }
  const corners = line.flatMap((at, index) => [...(steps && index ? [point(at.x, line[index - 1].y)] : []), point(at.x, at.y)]);
  if (corners.length > 0) picture.append(shape("polyline", { class: "curve", points: corners.join(" ") }));
  if (line.length > 0) picture.append(shape("circle", { class: "last", cx: across(line.at(-1).x), cy: up(line.at(-1).y), r: 4 }));
  show(place, picture, table, title);
}

// Draws anew and leaves what the reader opened, and where the reader is, alone.
function show(place, picture, { head, rows }, title) {
  let details = place.querySelector("details");
  if (!details) {
    details = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = "as a table";
    details.append(summary);
    place.replaceChildren(details);
  }
  place.querySelector("svg")?.remove();
  place.querySelector(".scroll")?.remove();
  place.prepend(picture);
  details.append(scrolled(tableOf(title, head, rows), title));
}

// A table that is wider or longer than the page moves in a frame that the keyboard reaches.
export function scrolled(table, title) {
  const frame = document.createElement("div");
  frame.className = "scroll";
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", `${title}, as a table`);
  frame.append(table);
  return frame;
}

// Words are shown as text, never as markup; a cell may be an element that somebody made. On a phone each row becomes a
// block and each cell says its column, so the roles are spelt out, which a browser would forget then.
export function tableOf(title, head, rows) {
  const made = role(document.createElement("table"), "table");
  const caption = document.createElement("caption");
  caption.className = "unseen";
  caption.textContent = title;
  made.append(caption);
  const top = role(role(made.createTHead(), "rowgroup").insertRow(), "row");
  for (const word of head) top.append(role(cell("th", word), "columnheader"));
  const body = role(made.createTBody(), "rowgroup");
  for (const cells of rows) {
    const row = role(body.insertRow(), "row");
    cells.forEach((content, index) => {
      const one = role(cell(index ? "td" : "th", content), index ? "cell" : "rowheader");
      if (head[index]) one.dataset.head = head[index];
      row.append(one);
    });
  }
  return made;
}

function role(element, name) {
  element.setAttribute("role", name);
  return element;
}

function cell(name, content) {
  const made = document.createElement(name);
  made.append(content);
  return made;
}

// Three to six round numbers of which the first and the last enclose what is drawn.
function ticks(low, high) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / 3));
  const step = power * [1, 2, 5, 10].find((factor) => span / (power * factor) <= 4.5);
  const first = Math.floor(low / step + 1e-9);
  const count = Math.max(1, Math.ceil(high / step - 1e-9) - first);
  return Array.from({ length: count + 1 }, (_, index) => (first + index) * step);
}

function times([from, to], parts) {
  return Array.from({ length: parts + 1 }, (_, index) => from + ((to - from) * index) / parts);
}

function moment(at, [from, to]) {
  const day = { day: "numeric", month: "short" };
  const clock = { hour: "2-digit", minute: "2-digit" };
  return new Date(at).toLocaleString(undefined, to - from > 4 * 86_400_000 ? day : to - from > 86_400_000 ? { ...day, hour: "2-digit" } : clock);
}
