// Bars as SVG, drawn by hand: five plots need no library. Each is an image with its numbers in a table beside it.

const SVG = "http://www.w3.org/2000/svg";

export function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// rows: [{ name, parts: [{ kind, value }], note }], each drawn as one bar from left to right
export function bars(place, rows, title) {
  place.replaceChildren();
  if (rows.length === 0 || rows.every((row) => row.parts.every((part) => part.value === 0))) {
    const none = document.createElement("p");
    none.className = "empty";
    none.textContent = "nothing yet";
    place.append(none);
    return;
  }
  const [left, width, line] = [108, 250, 24];
  const most = Math.max(...rows.map((row) => row.parts.reduce((sum, part) => sum + part.value, 0)));
  const picture = shape("svg", { viewBox: `0 0 440 ${rows.length * line + 4}`, role: "img", "aria-label": title });
  rows.forEach((row, index) => {
    const y = index * line;
    const name = row.name.length > 16 ? `${row.name.slice(0, 15)}…` : row.name;
    picture.append(shape("text", { x: left - 8, y: y + 16, class: "name" }, name));
    let x = left;
    for (const part of row.parts) {
      const length = (part.value / most) * width;
      picture.append(shape("rect", { x, y: y + 3, width: length, height: line - 7, class: part.kind }));
      x += length;
    }
    picture.append(shape("text", { x: x + 6, y: y + 16, class: "value" }, row.note));
  });
  if (rows[0].parts.length > 1) place.append(legend(rows[0].parts.map((part) => part.kind)));
  place.append(picture, table(rows, title));
}

// facts: [[name, value]], each shown in a box of its own
export function boxes(list, facts) {
  list.replaceChildren(
    ...facts.map(([name, value]) => {
      const box = document.createElement("div");
      const [term, number] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, number.textContent] = [name, String(value)];
      box.append(term, number);
      return box;
    }),
  );
}

function legend(kinds) {
  const list = document.createElement("p");
  list.className = "legend";
  for (const kind of kinds) {
    const square = shape("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    square.append(shape("rect", { width: 10, height: 10, class: kind }));
    const entry = document.createElement("span");
    entry.append(square, kind);
    list.append(entry);
  }
  return list;
}

// The same numbers for screen readers and for whoever wants them exact.
function table(rows, title) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "as a table";
  const made = document.createElement("table");
  const caption = document.createElement("caption");
  caption.className = "unseen";
  caption.textContent = title;
  made.append(caption);
  const head = made.createTHead().insertRow();
  for (const word of ["", ...rows[0].parts.map((part) => part.kind)]) {
    const cell = document.createElement(word ? "th" : "td");
    if (word) cell.scope = "col";
    cell.textContent = word;
    head.append(cell);
  }
  for (const row of rows) {
    const line = made.insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = row.name;
    line.append(name);
    for (const part of row.parts) line.insertCell().textContent = part.value;
  }
  details.append(summary, made);
  return details;
}
