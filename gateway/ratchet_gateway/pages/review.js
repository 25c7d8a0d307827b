// The review page: one answer or one pair at a time, a vote, the next. Every text is shown as text, never as markup.
//
// A vote is sent at once, and the next answer is shown meanwhile. Undo sends an event that takes the vote back, and the
// answer returns. The gateway stores an event once however often it is sent.

import { Refusal, datasets, key, plotted, policies, queue, send, token, totals } from "./api.js";
import { showDatasets } from "./datasets.js";
import { redrawExperiment, showExperiment } from "./experiment.js";
import { bars, boxes } from "./plots.js";

const WORDS = { thumbs_up: "right", thumbs_down: "wrong", correction: "corrected", preference: "compared" };
const SCORES = ["unusable", "poor", "fair", "good", "excellent"];

const $ = (id) => document.getElementById(id);
const state = { policy: "", items: [], pairs: [], waiting: 0, judged: 0, sides: [], last: null };
const gone = new Set(); // ids of answers and pairs that were judged or skipped here
const voted = new Set(); // of these, the judged ones

// ---------------------------------------------------------------------------------------------- saying things

function say(text) {
  $("live").textContent = text;
}

function complain(problem) {
  const notice = $("notice");
  notice.hidden = !problem;
  notice.textContent = problem ? problem.message : "";
}

// Runs what talks to the gateway; asks for a token where one is wanted, and shows every other refusal.
async function attempt(work) {
  try {
    complain(null);
    return await work();
  } catch (problem) {
    if (!(problem instanceof Refusal)) throw problem;
    if (problem.status === 401) return askForToken(problem, work);
    complain(problem);
    return undefined;
  }
}

function askForToken(problem, work) {
  if (token()) $("door-text").textContent = problem.message;
  $("token").value = "";
  return new Promise((done) => {
    $("door").addEventListener(
      "close",
      () => {
        if ($("token").value) token($("token").value);
        done($("token").value ? attempt(work) : complain(problem));
      },
      { once: true },
    );
    $("door").showModal();
  });
}

// ---------------------------------------------------------------------------------------------- what is shown

const VIEWS = ["rate", "compare", "numbers", "experiment"];
const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "rate");

async function load() {
  if (!state.policy) return;
  if (view() === "numbers") return showNumbers();
  if (view() === "experiment") return showTrial();
  const found = await queue(state.policy, Math.min(50 + gone.size, 500), $("order").value);
  const unseen = (each) => !gone.has(each.id);
  Object.assign(state, { items: found.items.filter(unseen), pairs: found.pairs.filter(unseen) });
  const late = found.items.filter((each) => voted.has(each.id)).length; // the gateway reads its log once a second
  Object.assign(state, { waiting: found.waiting - late, judged: found.judged + late });
  $("labels").replaceChildren(...found.labels.map((label) => new Option(label, label)));
  show();
}

function show() {
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view() === "rate") showItem();
  if (view() === "compare") showPair();
}

function showItem() {
  const [item] = state.items;
  const total = state.waiting + state.judged;
  $("rate-progress").max = Math.max(total, 1);
  $("rate-progress").value = state.judged;
  $("rate-count").textContent = `${state.judged} of ${total} judged`;
  $("rate-card").hidden = !item;
  $("rate-empty").hidden = Boolean(item);
  if (!item) {
    $("rate-empty").textContent = total
      ? "Nothing is left to judge. New answers appear as they are recorded."
      : "No answer was recorded yet: an application sends them to /v1/interactions.";
    return;
  }
  $("rate-input").textContent = item.input;
  $("rate-answer").textContent = item.answer;
  $("rate-meta").textContent = meta(item);
  for (const id of ["rate-input", "rate-answer"]) $(id).scrollTop = 0;
}

function meta(answer) {
  const parts = [];
  if (answer.version) parts.push(`version ${answer.version}`);
  if (answer.confidence !== undefined && answer.confidence !== null) parts.push(`${Math.round(answer.confidence * 100)} % sure`);
  parts.push(new Date(answer.received).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }));
  return `· ${parts.join(" · ")}`;
}

// Which answer is A is drawn by lot, so that a habit of the hand or the eye favours no version.
function showPair() {
  const [pair] = state.pairs;
  $("compare-count").textContent = pair ? `${state.pairs.length} to compare` : "";
  $("compare-card").hidden = !pair;
  $("compare-empty").hidden = Boolean(pair);
  if (!pair) {
    $("compare-empty").textContent =
      "Nothing to compare: no two recorded answers to the same input differ. " +
      `\`ratchet feedback samples ${state.policy}\` offers a generator's evaluated answers.`;
    return;
  }
  if (state.sides.pair !== pair.id) {
    const swap = crypto.getRandomValues(new Uint8Array(1))[0] % 2 === 1;
    state.sides = swap ? [...pair.answers].reverse() : [...pair.answers];
    state.sides.pair = pair.id;
  }
  $("compare-input").textContent = pair.input;
  $("compare-a").textContent = state.sides[0].answer;
  $("compare-b").textContent = state.sides[1].answer;
}

const NUMBERS_MS = 5000;
let numbersShown = "";

// Draws only what is new: a table that was opened stays open while nothing changes.
async function showNumbers() {
  const answers = await Promise.all([plotted(state.policy), totals(state.policy), datasets(state.policy)]);
  show();
  const told = JSON.stringify([state.policy, answers]);
  if (told === numbersShown) return;
  numbersShown = told;
  drawNumbers(...answers);
}

async function showTrial() {
  show(); // a curve is as wide as its place, which must be there
  const news = await showExperiment(state.policy);
  if (news) say(news);
}

function drawNumbers(numbers, counts, made) {
  const facts = [
    ["Events", counts.events],
    ["Scored", counts.rated],
    ["Mean score", counts.scoreMean === undefined || counts.scoreMean === null ? "–" : counts.scoreMean.toFixed(2)],
    ["People", counts.subjects],
    ["Answers recorded", counts.interactions],
  ];
  boxes($("totals"), facts);
  const kinds = ["bad", "middling", "good", "unscored"];
  const days = numbers.days.map((day) => ({
    name: day.day,
    parts: kinds.map((kind) => ({ kind, value: day[kind] })),
    note: String(kinds.reduce((sum, kind) => sum + day[kind], 0)),
  }));
  const tones = ["bad", "bad", "middling", "good", "good"];
  const bands = numbers.bands.map((value, index) => ({
    name: SCORES[index],
    parts: [{ kind: tones[index], value }],
    note: String(value),
  }));
  const labels = numbers.labels.map((each) => ({
    name: each.label,
    parts: [{ kind: "answers", value: each.answers }],
    note: each.rated ? `${each.answers} (${each.scoreMean.toFixed(2)})` : String(each.answers),
  }));
  bars($("plot-days"), days, "Feedback by day: bad, middling, good and unscored events");
  bars($("plot-bands"), bands.reverse(), "Scored events from excellent to unusable");
  bars($("plot-labels"), labels, "Recorded answers by label");
  showDatasets(made);
}

// ---------------------------------------------------------------------------------------------- voting

let sending = Promise.resolve(); // one request after the other, in the order in which keys were pressed

function event(type, fields, earlier) {
  const name = $("name").value.trim();
  return { type, idempotencyKey: key(), tags: { channel: "review" }, ...(name && { subject: name }), ...fields, ...(earlier && { supersedes: earlier }) };
}

function vote(type, fields = {}) {
  const [item] = state.items;
  if (!item) return;
  const about = { interactionId: item.interactionId };
  const before = item.before ?? {};
  const events = [event(type, { ...about, ...fields }, before.verdict)];
  const comment = $("rate-comment").value.trim();
  if (comment) events.push(event("comment", { ...about, comment }, before.comment));
  const typed = { "rate-correction": $("rate-correction").value, "rate-comment": $("rate-comment").value };
  state.items.shift();
  state.waiting -= 1;
  state.judged += 1;
  for (const id of Object.keys(typed)) $(id).value = "";
  deliver(item, events, about, fields.rating ? `${fields.rating} of 5 stars` : WORDS[type], () => {
    state.items.unshift(item);
    state.waiting += 1;
    state.judged -= 1;
    for (const [id, text] of Object.entries(typed)) $(id).value = text;
  });
}

function prefer(side) {
  const [pair] = state.pairs;
  if (!pair) return;
  const sides = state.sides;
  const [chosen, rejected] = side === "a" ? [sides[0], sides[1]] : [sides[1], sides[0]];
  const about = { interactionId: chosen.interactionId };
  const tags = { channel: "review", pair: pair.id, position: side };
  const fields = { ...about, prompt: pair.input, chosen: chosen.answer, rejected: rejected.answer, tags };
  state.pairs.shift();
  deliver(pair, [event("preference", fields, pair.before?.verdict)], about, `${side.toUpperCase()} is better`, () => {
    state.pairs.unshift(pair);
    state.sides = sides;
  });
}

// Sends what was said about an answer or a pair, shows the next one, and remembers how to take it back.
function deliver(subject, events, about, word, restore) {
  gone.add(subject.id);
  voted.add(subject.id);
  const last = { subject, about, restore, stored: null };
  state.last = last;
  sending = sending.then(() =>
    attempt(async () => {
      const [verdict, comment] = (await send(events)).events;
      last.stored = { verdict: verdict.id, comment: comment?.id };
    }),
  );
  $("toast").hidden = false;
  $("toast-text").textContent = `Judged: ${word}`;
  say(`Judged: ${word}. Undo with z.`);
  next();
}

async function undo() {
  const { last } = state;
  if (!last) return;
  state.last = null;
  $("toast").hidden = true;
  await sending;
  if (!last.stored) return; // it was refused, and that was said
  const ids = Object.values(last.stored).filter(Boolean);
  const done = await attempt(() => send(ids.map((id) => ({ type: "undo", ...last.about, idempotencyKey: key(), supersedes: id }))));
  if (!done) return;
  last.subject.before = { ...last.subject.before, ...last.stored };
  gone.delete(last.subject.id);
  voted.delete(last.subject.id);
  last.restore();
  say("taken back");
  show();
  $("main").focus();
}

function skip() {
  const [skipped] = (view() === "compare" ? state.pairs : state.items).splice(0, 1);
  if (!skipped) return;
  gone.add(skipped.id);
  say("skipped");
  next();
}

function next() {
  show();
  const list = view() === "compare" ? state.pairs : state.items;
  if (list.length > 0) return;
  $("main").focus(); // what had the focus is hidden
  sending = sending.then(() => attempt(load));
}

function correct() {
  const correction = $("rate-correction").value.trim();
  if (!correction) return $("rate-correction").focus();
  vote("correction", { correction });
  return $("main").focus();
}

// ---------------------------------------------------------------------------------------------- keys and start

const KEYS = {
  rate: {
    y: () => vote("thumbs_up"),
    n: () => vote("thumbs_down"),
    c: () => $("rate-correction").focus(),
    m: () => $("rate-comment").focus(),
    s: skip,
    ...Object.fromEntries([1, 2, 3, 4, 5].map((rating) => [String(rating), () => vote("rating", { rating })])),
  },
  compare: { a: () => prefer("a"), b: () => prefer("b"), s: skip },
  numbers: {},
  experiment: {},
};

function pressed(event_) {
  const field = event_.target.closest("input:not([type=checkbox]), textarea, select");
  if (field && event_.key === "Escape" && !event_.target.closest("dialog")) $("main").focus();
  const off = localStorage.getItem("ratchet-keys") === "off";
  if (field || off || event_.ctrlKey || event_.metaKey || event_.altKey || document.querySelector("dialog[open]")) return;
  const act = { z: undo, "?": openHelp, ...KEYS[view()] }[event_.key];
  if (!act) return;
  event_.preventDefault();
  act();
}

function openHelp() {
  $("keys-on").checked = localStorage.getItem("ratchet-keys") !== "off";
  $("help").showModal();
}

function wire() {
  for (const button of document.querySelectorAll("[data-vote]")) button.onclick = () => vote(button.dataset.vote);
  for (const button of document.querySelectorAll("[data-stars]")) button.onclick = () => vote("rating", { rating: Number(button.dataset.stars) });
  for (const button of document.querySelectorAll("[data-side]")) button.onclick = () => prefer(button.dataset.side);
  $("rate-correct").onclick = correct;
  $("rate-correction").addEventListener("keydown", (event_) => {
    if (event_.key === "Enter") correct();
  });
  $("rate-skip").onclick = $("compare-skip").onclick = skip;
  $("undo").onclick = undo;
  $("help-open").onclick = openHelp;
  $("help-close").onclick = () => $("help").close();
  $("keys-on").onchange = () => localStorage.setItem("ratchet-keys", $("keys-on").checked ? "on" : "off");
  $("name").value = localStorage.getItem("ratchet-name") ?? "";
  $("name").onchange = () => localStorage.setItem("ratchet-name", $("name").value.trim());
  document.addEventListener("keydown", pressed);
  // What was just said is in the numbers a second later, and others go on judging.
  setInterval(() => {
    const live = ["numbers", "experiment"].includes(view());
    if (state.policy && live && !document.hidden && !$("door").open) attempt(load);
  }, NUMBERS_MS);
  window.addEventListener("resize", () => {
    if (view() === "experiment") redrawExperiment();
  });
  window.addEventListener("hashchange", async () => {
    Object.assign(state, { last: null });
    $("toast").hidden = true;
    show();
    await sending;
    await attempt(load);
  });
  $("order").onchange = async () => {
    await sending;
    await attempt(load);
  };
  $("policy").onchange = async () => {
    Object.assign(state, { last: null, items: [], pairs: [] });
    $("toast").hidden = true;
    await sending;
    gone.clear();
    voted.clear();
    state.policy = $("policy").value;
    history.replaceState(null, "", `?policy=${encodeURIComponent(state.policy)}${location.hash}`);
    await attempt(load);
  };
}

async function start() {
  wire();
  show();
  const asked = new URLSearchParams(location.search).get("policy");
  const found = await attempt(policies);
  if (!found) return;
  const names = Object.keys(found.policies);
  if (asked && !names.includes(asked)) names.unshift(asked);
  $("policy").replaceChildren(...names.map((name) => new Option(found.policies[name] ? `${name} (${found.policies[name]})` : name, name)));
  state.policy = asked ?? names[0] ?? "";
  $("policy").value = state.policy;
  if (state.policy) await attempt(load);
  else showItem();
}

start();
