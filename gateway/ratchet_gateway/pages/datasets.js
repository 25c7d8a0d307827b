// What data sets made of the feedback: how many rows each kept, which rule removed how many, and how its classes are
// balanced. The numbers are those of the data set's status; a snapshot itself is never read here.

import { bars, boxes } from "./plots.js";

const SPLITS = ["train", "validation", "test"];
const $ = (id) => document.getElementById(id);
let seen = { datasets: [], problem: "" };

// told: the answer to GET /v1/review/POLICY/datasets
export function showDatasets(told) {
  seen = told;
  const names = told.datasets.map((each) => each.name);
  const before = $("dataset").value;
  $("dataset").replaceChildren(...names.map((name) => new Option(name, name)));
  $("dataset").value = names.includes(before) ? before : (names[0] ?? "");
  $("dataset").onchange = draw;
  $("dataset-choice").hidden = names.length === 0;
  draw();
}

function draw() {
  const shown = seen.datasets.find((each) => each.name === $("dataset").value);
  const snapshot = shown?.snapshot;
  $("dataset-state").textContent = shown ? `${shown.type}${shown.state ? ` · ${shown.state}` : ""}` : "";
  $("dataset-empty").hidden = Boolean(snapshot);
  $("dataset-card").hidden = !snapshot;
  if (!snapshot) {
    $("dataset-empty").textContent = seen.problem || (shown ? "No snapshot was taken of it yet." : "No data set is made of this policy's feedback yet.");
    return;
  }
  const { counts, removed = [], smallestLabels = [] } = snapshot;
  boxes($("dataset-facts"), facts(shown, snapshot));
  const kinds = [...SPLITS, "removed"];
  const rules = [...removed].sort((one, other) => other.count - one.count);
  const rows = [
    { name: "kept", parts: kinds.map((kind) => ({ kind, value: counts[kind] ?? 0 })), note: number(counts.kept) },
    ...rules.map(({ rule, count }) => ({
      name: spaced(rule),
      parts: kinds.map((kind) => ({ kind, value: kind === "removed" ? count : 0 })),
      note: number(count),
    })),
  ];
  bars($("plot-rows"), rows, "Rows kept in train, validation and test, and rows removed by each rule");
  const classes = smallestLabels.map((each) => ({
    name: each.label,
    parts: SPLITS.map((kind) => ({ kind, value: each[kind] })),
    note: number(SPLITS.reduce((sum, kind) => sum + each[kind], 0)),
  }));
  $("figure-classes").hidden = classes.length === 0;
  $("classes-which").textContent = snapshot.classes > classes.length ? `the ${classes.length} smallest of ${number(snapshot.classes)}` : "";
  if (classes.length) bars($("plot-classes"), classes, "Rows of each class in train, validation and test");
}

function facts(shown, { counts, classes, disputed, scoreMean }) {
  const found = [
    ["Events read", number(counts.read)],
    ["Rows kept", number(counts.kept)],
  ];
  if (classes) found.push(["Classes", number(classes)]);
  if (scoreMean !== undefined && scoreMean !== null) found.push(["Mean score of rows", scoreMean.toFixed(2)]);
  if (disputed) found.push(["Disputed, kept", `${number(disputed.kept)} of ${number(disputed.found)}`]);
  if (shown.taken) found.push(["Taken", new Date(shown.taken).toLocaleString(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" })]);
  return found;
}

const number = (value) => (value ?? 0).toLocaleString();
const spaced = (rule) => rule.replace(/(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase(); // BelowMinRating, as people write it
