// The experiment view: who gets what, what is known of the version on trial, and how it came about. It shows; whoever
// wants to take part does so by `ratchet pause`, `abort`, `promote`. Every text is shown as text, never as markup.

import { rollout } from "./api.js";
import { curve, scrolled, tableOf } from "./curves.js";
import { boxes } from "./plots.js";

const NAMES = { feedback: "Feedback", errors: "Failed answers", abstentions: "Abstentions", feedbackRate: "Gave feedback", slow: "Slow answers" };
const STANDINGS = {
  worse: ["bad", "shown to be worse"],
  better: ["good", "shown to be better"],
  safe: ["good", "shown to be no worse"],
  open: ["idle", "not shown yet"],
  tooFew: ["idle", "too few yet"],
};
const OUTCOMES = { Successful: "good", Failed: "bad", Error: "bad", Inconclusive: "idle" };

const $ = (id) => document.getElementById(id);
let drawn = ""; // what is on the page, so that it is drawn again only when something changed
let seen = null; // the same, to draw it in another width
let told = ""; // what was said of it

// Draws what is new of a policy's rollout; returns a sentence for screen readers when something important changed.
export async function showExperiment(policy) {
  const found = await rollout(policy);
  const text = JSON.stringify(found);
  if (text !== drawn) {
    [drawn, seen] = [text, found];
    draw(found);
  }
  const status = found.rollout ?? {};
  const now = JSON.stringify([policy, status.candidate, status.percent, status.serving, status.verdict?.outcome, status.abTest?.result, status.abTest?.arms.map((arm) => arm.out)]);
  const news = told && told !== now && JSON.parse(told)[0] === policy;
  told = now;
  return news ? `${stands(found)} ${said(status)}` : "";
}

export function redrawExperiment() {
  if (seen) draw(seen);
}

function draw(found) {
  const { rollout: status, trial, problem } = found;
  $("experiment-problem").hidden = !problem;
  $("experiment-problem").textContent = problem ?? "";
  const nothing = !status || !status.serving;
  $("experiment-empty").hidden = !nothing;
  $("experiment-card").hidden = nothing;
  if (nothing) {
    $("experiment-empty").textContent = status
      ? "Nobody gets a version yet: promote the first one."
      : "This policy is not served. With spec.serving and spec.rollout its new versions go on trial against the champion.";
    return;
  }
  $("stands").textContent = stands(found);
  const verdict = status.abTest?.running ? {} : (status.verdict ?? {});
  $("verdict").replaceChildren(...(verdict.outcome ? [chip(OUTCOMES[verdict.outcome] ?? "idle", verdict.outcome)] : []));
  $("verdict-message").textContent = said(status);
  $("verdict-message").hidden = !verdict.outcome;
  drawFacts(found);
  drawCurves(found);
  drawArms(status);
  $("guardrails").hidden = !trial;
  if (trial) drawMetrics(trial);
  drawLedger(status);
}

// ---------------------------------------------------------------------------------------------- words

function stands({ rollout: status, steps = [] }) {
  if (!status?.serving) return "Nobody gets a version yet.";
  if (status.abTest?.running) {
    const versions = status.abTest.arms.filter((arm) => !arm.out).map((arm) => `version ${arm.version} (${arm.percent} %)`);
    return `Tested against version ${status.serving}: ${versions.join(", ")}${status.abTest.dealt ? "" : "; nobody gets them yet"}.`;
  }
  if (!status.candidate) return `Everybody gets version ${status.serving}; no version is on trial.`;
  const trial = `Version ${status.candidate} is on trial against version ${status.serving}`;
  if (!status.percent) return `${trial}; nobody gets it yet.`;
  const step = status.step >= 0 && steps.length ? `, step ${status.step + 1} of ${steps.length}` : "";
  const held = status.paused ? ", paused" : status.stepSince ? "" : ", which not every router has applied yet";
  return `${trial}: ${status.percent} % of the subjects get it and as many are held against it${step}${held}.`;
}

function said(status) {
  const { message, reason } = status.verdict ?? {};
  return message ? `${status.candidate ? "" : "Last trial: "}${message} (${reason})` : "";
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
const plain = (value) => (value === undefined || value === null ? "–" : value.toFixed(3));
const rate = (value) => (value === undefined || value === null ? "–" : `${(100 * value).toFixed(value < 0.1 ? 2 : 1)} %`);
const count = (value) => (value ?? 0).toLocaleString();
const short = (text) => new Date(text).toLocaleString(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const time = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
const chance = (value) => (value < 0.001 ? value.toExponential(1) : String(+value.toFixed(3)));

function chip(kind, word) {
  const made = document.createElement("span");
  made.className = `chip ${kind}`;
  made.textContent = word;
  return made;
}

function drawFacts({ rollout: status, trial, promotion }) {
  const verdict = status.verdict ?? {};
  const facts = [[status.percent || status.abTest?.dealt ? "Everybody else gets" : "Everybody gets", `version ${status.serving}`]];
  if (trial) facts.push(["Subjects heard", count(trial.metrics[0].candidateSubjects + trial.metrics[0].championSubjects)]);
  if (status.candidate) facts.push(["More that it takes", verdict.needed === undefined || verdict.needed === null ? "–" : `about ${count(verdict.needed)}`]);
  if (status.candidate && trial?.subjectsPerDay) facts.push(["New subjects a day", count(Math.round(trial.subjectsPerDay))]);
  if (status.candidate && promotion) facts.push(["Promotion", promotion === "manual" ? "by people" : "by itself"]);
  if (trial?.watermark) facts.push(["Counted up to", short(trial.watermark)]);
  boxes($("experiment-facts"), facts);
}

// ---------------------------------------------------------------------------------------------- curves

// The rows of the ledger in which the trial's version had a share, and when they ended.
function rowsOfTrial(status, trial) {
  const rows = status.history ?? [];
  const version = status.candidate ?? trial?.candidate ?? rows.findLast((row) => row.candidate)?.candidate;
  const mine = rows.filter((row) => version && row.candidate === version);
  const after = mine.length ? rows[rows.indexOf(mine.at(-1)) + 1] : undefined;
  return { version, mine, after };
}

function drawCurves({ rollout: status, trial }) {
  const { version, mine, after } = rowsOfTrial(status, trial);
  const points = (trial?.points ?? []).map((point) => ({ ...point, x: Date.parse(point.at) }));
  const moments = [...mine.map((row) => Date.parse(row.since)), ...points.map((point) => point.x)];
  $("curves").hidden = moments.length === 0;
  if (moments.length === 0) return;
  const until = after ? Date.parse(after.since) : Date.now();
  const x = [Math.min(...moments), Math.max(until, ...moments)];
  drawDifference(points, trial, x);
  drawShares(mine, after, until, version, x);
  drawSplit(points, trial, x);
}

function drawDifference(points, trial, x) {
  const known = points.filter((point) => point.low !== undefined && point.low !== null);
  $("figure-difference").hidden = points.length === 0;
  if (points.length === 0) return;
  const last = known.at(-1);
  const now = last ? `now ${signed(last.difference)}, between ${signed(last.low)} and ${signed(last.high)}` : "too few have given feedback yet";
  $("difference-now").textContent = now;
  const { margin } = trial.metrics[0];
  // The first bounds are many times as wide as those that decide: let these be seen.
  const reach = Math.max(0.01, 1.5 * margin, ...(last ? [2 * Math.abs(last.low), 2 * Math.abs(last.high)] : []));
  const worse = margin ? [{ y: -margin, name: `worse by ${margin}`, kind: "bad" }] : [];
  curve($("plot-difference"), {
    title: `Difference of the mean feedback, candidate minus champion: ${now}`,
    x,
    y: [-reach, reach],
    form: (value) => (Math.abs(value) < 1e-9 ? "0" : String(+value.toFixed(3)).replace("-", "−")),
    line: known.map((point) => ({ x: point.x, y: point.difference })),
    band: known,
    rules: [{ y: 0, name: "as good", kind: "zero" }, ...worse],
    table: {
      head: ["Time", "Difference", "Above", "Below", "Subjects"],
      rows: points.map((point) => {
        const three = [point.difference, point.low, point.high].map((value) => (value === undefined || value === null ? "–" : signed(value)));
        return [short(point.at), ...three, `${count(point.candidate)} and ${count(point.champion)}`];
      }),
    },
  });
}

function drawShares(mine, after, until, version, x) {
  $("figure-shares").hidden = mine.length === 0;
  if (mine.length === 0) return;
  const end = !after ? "" : after.version === version ? "then promoted" : "then taken out";
  $("shares-now").textContent = [`${mine.at(-1).percent} %`, end].filter(Boolean).join(", ");
  const line = mine.map((row) => ({ x: Date.parse(row.since), y: row.percent }));
  curve($("plot-shares"), {
    title: `Percent of the subjects that got version ${version}: ${line.map((at) => `${at.y} %`).join(", ")}${end ? `, ${end}` : ""}`,
    x,
    y: [0, Math.max(5, ...line.map((at) => at.y))],
    form: (value) => `${+value.toFixed(2)} %`,
    steps: true,
    line: [...line, { x: until, y: line.at(-1).y }],
    table: { head: ["Since", "Share"], rows: mine.map((row) => [short(row.since), `${row.percent} %`]) },
  });
}

function drawSplit(points, trial, x) {
  const dealt = points.filter((point) => point.share !== undefined && point.share !== null);
  $("figure-split").hidden = dealt.length === 0;
  if (dealt.length === 0) return;
  const { split } = trial;
  const word = split.healthy ? chip("good", "as told") : chip("bad", "not as told");
  const numbers = `${count(split.candidate)} and ${count(split.champion)} subjects, p = ${chance(split.pValue)}`;
  $("split-now").replaceChildren(word, ` ${numbers}${split.healthy ? "" : `; nothing is decided at ${split.alarm} or below`}`);
  const reach = Math.max(0.02, ...dealt.map((point) => Math.abs(point.share - 0.5)));
  curve($("plot-split"), {
    title: `Candidate's share of the subjects that are compared, half is meant: ${numbers}`,
    x,
    y: [0.5 - reach, 0.5 + reach],
    form: (value) => `${+(100 * value).toFixed(1)} %`,
    line: dealt.map((point) => ({ x: point.x, y: point.share })),
    rules: [{ y: 0.5, name: "half", kind: "zero" }],
    table: { head: ["Time", "Candidate's share", "p"], rows: dealt.map((point) => [short(point.at), rate(point.share), chance(point.pValue)]) },
  });
}

// ---------------------------------------------------------------------------------------------- tables

function drawMetrics(trial) {
  const rows = trial.metrics.map((metric) => {
    const form = metric.name === "feedback" ? plain : rate;
    const arm = (value, subjects) => `${form(value)} of ${count(subjects)}`;
    const between = metric.low === undefined || metric.low === null ? "–" : `${signed(metric.improvement)} (${signed(metric.low)} to ${signed(metric.high)})`;
    const bound = metric.ratio ? `at most ${metric.ratio} times as many` : `worse by ${metric.margin} at most`;
    const goal = metric.role === "goal" ? " (what decides)" : "";
    return [
      `${NAMES[metric.name] ?? metric.name}${goal}`,
      arm(metric.candidate, metric.candidateSubjects),
      arm(metric.champion, metric.championSubjects),
      between,
      bound,
      chip(...(STANDINGS[metric.standing] ?? ["idle", metric.standing])),
    ];
  });
  const head = ["Metric", "Candidate", "Champion", "Better by", "Bound", "Stands"];
  place("metrics", tableOf("What the trial is judged by", head, rows), "What the trial is judged by");
  const aside = [
    [trial.late, "votes came after their subject's time and do not count"],
    [trial.crossed, "subjects met both arms"],
    [trial.dropped, "records were lost on their way to the log, which holds every decision"],
  ];
  $("metrics-aside").textContent = aside.filter(([number]) => number).map(([number, words]) => `${count(number)} ${words}.`).join(" ");
}

// Every version of a test with fixed shares, while it runs and until another trial begins.
function drawArms(status) {
  const test = status.abTest;
  $("arms").hidden = !test || test.experiment !== status.experiment;
  if ($("arms").hidden) return;
  const rows = test.arms.map((arm) => {
    const { outcome, message, samples } = arm.verdict ?? {};
    const word = arm.out ? chip("bad", "taken out") : chip(OUTCOMES[outcome] ?? "idle", outcome || "Nothing yet");
    return [`version ${arm.version}`, `${arm.percent} %`, count(samples), word, arm.out || message || "–"];
  });
  const title = "Each version against a control group of its own";
  place("arms-table", tableOf(title, ["Version", "Share", "Subjects heard", "Verdict", "Why"], rows), title);
  $("arms-aside").textContent = test.running ? "" : (test.result ?? "");
}

function drawLedger(status) {
  const rows = (status.history ?? []).map((row) => {
    const tried = row.candidate ? [{ version: row.candidate, percent: row.percent }] : (row.arms ?? []);
    const configs = new Map((row.configs ?? []).map((each) => [each.version, ` (${each.config})`]));
    const named = (version) => `version ${version}${configs.get(version) ?? ""}`;
    const trial = tried.map((arm) => `${named(arm.version)} at ${arm.percent} %`).join(", ") || "–";
    return [time(row.since), named(row.version), trial, row.why, row.by === "user" ? "people" : "operator"];
  });
  const head = ["Since", "Everybody else", "On trial", "Why", "By"];
  place("ledger", tableOf("Who got what since when and why, newest first", head, rows.reverse()), "Ledger");
  const older = (status.rows ?? 0) - rows.length;
  $("ledger-aside").textContent = older > 0 ? `${count(older)} older rows: ratchet history lists them.` : "";
}

// Puts a table in its frame without moving the frame, in which the reader may be.
function place(id, table, title) {
  const frame = $(id).querySelector(".scroll");
  if (frame) frame.replaceChildren(table);
  else $(id).append(scrolled(table, title));
}
