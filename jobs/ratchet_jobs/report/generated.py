"""The sections of a generator's report: its numbers, what RL changed, and what it answers beside the reference.

Decides content and order; drawing and markup are not its business. Called by `page`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from ratchet_jobs.report.agents import agents
from ratchet_jobs.report.blocks import NOTHING, Block, Figures, Plots, Table, Text, change, cut, number, row
from ratchet_jobs.report.charts import differences, worths
from ratchet_jobs.report.evidence import Evidence
from ratchet_jobs.report.sections import SECTIONS

SHOWN_ANSWERS = 50
EMPTY = "(empty)"
MEANINGS = {
    "reward": "of its answers, as RL was rewarded",
    "agreement": "share of held-out pairs told apart; the start is at 0.5",
    "rl/win_rate": "share of prompts that RL answers better than its start",
    "rl/judge_win_rate": "share of prompts on which the judge prefers RL's answer to its start's",
    "champion/judge_win_rate": "share of prompts on which the judge prefers the kept policy's answer to the champion's",
    "perplexity": "of held-out answers; lower is better",
    "base_perplexity": "of the same answers by the base model",
    "kl": "distance from the base, nats per token",
    "bleu1": "words shared with the reference",
    "bleu2": "words and pairs of words shared with it",
    "distinct1": "share of different words in all answers",
    "distinct2": "share of different pairs of words",
    "repetition": "share of an answer that it has said already",
    "overlap": "share of an answer's longer words that the turn before it says",
    "item_ratio": "share of answers that name an item",
    "empty": "share of empty answers",
    "ended": "share of answers that ended by themselves",
    "mean_tokens": "length of an answer",
    "n_test": "held-out rows",
    "n_answers": "prompts answered",
    "skipped_rows": "rows whose prompt left no room",
}


def _summary(given: Evidence) -> Iterator[Block]:
    if given.gates:
        held = sum(gate.passed for gate in given.gates)
        text = f"{held} of {len(given.gates)} gates hold."
        yield Text(text, tone="good" if held == len(given.gates) else "bad")
    metrics = given.evaluation["metrics"]
    yield Figures(
        [
            (name, f"{metrics[name]:,.0f}" if name in _COUNTS else number(metrics[name]), meaning)
            for name, meaning in MEANINGS.items()
            if name in metrics
        ]
    )


_COUNTS = ("n_test", "n_answers", "skipped_rows")


def _comparison(given: Evidence) -> Iterator[Block]:
    found = given.comparison
    if found is None:
        return
    choice, told = found["choice"], found["rl_against_baseline"]
    other = choice["baseline"]
    kept = choice["chosen"] == choice["candidate"]
    yield Text(f"Kept: {choice['chosen']}. {choice['why']}.", tone="good" if kept else "bad")
    policies = {name: each["metrics"] for name, each in found["policies"].items()}
    live = found.get("champion")
    rows = [
        row(
            name,
            *(number(each[name]) for each in policies.values()),
            *_of_champion(live, name),
            change(policies["rl"][name], policies[other][name]),
        )
        for name in MEANINGS
        if name not in _COUNTS and all(name in each for each in policies.values())
    ]
    note = f"The change is that from {other} to rl, in percent of what it was."
    columns = ("number", *policies, *(["champion"] if live else []), "change")
    yield Table("On the same rows", columns, rows, note=note)
    yield from _champion(found)
    worth = "reward" if "reward" in told else "agreement"
    charts = [differences({worth: told[worth]}, title=f"{worth}: rl less {other}", what=f"rl less {other}")]
    if parts := found.get("components"):
        yield _parts(parts, other)
    if worth == "reward":
        charts.append(worths(found["worths"], name=worth))
    yield Plots("", charts)


def _of_champion(live: Mapping[str, Any] | None, name: str) -> list[str]:
    """The champion's cell of a row; nothing where it was not compared, a dash where it has no such number."""
    if live is None:
        return []
    return [number(live["metrics"][name]) if name in live["metrics"] else NOTHING]


def _champion(found: Mapping[str, Any]) -> Iterator[Block]:
    """Whose answers the judge prefers, the kept policy's or the champion's, or why nobody was asked."""
    if found.get("champion_absent"):
        yield Text(f"The champion is not compared: {found['champion_absent']}.", tone="faint")
    if told := found.get("chosen_against_champion"):
        share = f"{told['judge_win_rate']:.0%}"
        yield Text(
            f"The judge prefers the answers of {found['choice']['chosen']} to the champion's on {share} of the prompts."
        )


def _parts(parts: Mapping[str, Mapping[str, float | None]], other: str) -> Table:
    """What RL changed in each component of the reward."""
    names = ("baseline", "candidate", "difference", "low", "high")
    rows = [
        row(
            name,
            *(number(each[key]) for key in names),
            change(each["candidate"] or 0.0, each["baseline"] or 0.0),
        )
        for name, each in parts.items()
    ]
    note = "Means before weights; low and high bound the difference."
    return Table(
        "What the reward is made of", ("component", other, "rl", "rl less it", "low", "high", "change"), rows, note=note
    )


def _side_by_side(given: Evidence, other: str, worth: Mapping[str, Sequence[float]] | None) -> Table:
    """What both policies answered, and what the second answer is worth more; the champion's, where it was asked."""
    live = ["champion"] if all("champion" in each for each in given.evaluation["answers"]) else []
    rows = [
        [
            cut(each["prompt"]),
            cut(each[other] or EMPTY),
            cut(each["rl"] or EMPTY),
            cut(gain + _of_parts(each.get("worth"), other)),
            *(cut(each[name] or EMPTY) for name in live),
            cut(each["reference"]),
        ]
        for each, gain in zip(given.evaluation["answers"][:SHOWN_ANSWERS], _gains(worth, other), strict=False)
    ]
    columns = ("prompt", other, "rl", "reward gained", *live, "reference")
    note = "Each answer is of the likeliest tokens. evaluation.json has all answers, and those of the base model."
    return Table("Held-out prompts", columns, rows, numeric=False, note=note)


def _of_parts(worth: Mapping[str, Mapping[str, float]] | None, other: str) -> str:
    """Which components of the reward an answer of RL's gained in, where there are several."""
    if worth is None or len(worth["rl"]) < 2:
        return ""
    gains = {name: ours - worth[other][name] for name, ours in worth["rl"].items()}
    return " (" + ", ".join(f"{name} {gain:+.2f}" for name, gain in gains.items()) + ")"


def _gains(worth: Mapping[str, Sequence[float]] | None, other: str) -> Iterator[str]:
    """What RL's answer to each prompt is worth more; nothing where answers were not rewarded."""
    if worth is None:
        yield from repeat(NOTHING)
        return
    yield from (f"{ours - theirs:+.4f}" for ours, theirs in zip(worth["rl"], worth[other], strict=True))


def _answers(given: Evidence) -> Iterator[Block]:
    if given.comparison is not None:
        rewarded = "reward" in given.comparison["rl_against_baseline"]
        yield _side_by_side(
            given, given.comparison["choice"]["baseline"], given.comparison["worths"] if rewarded else None
        )
        return
    rows = [
        [cut(each["prompt"]), cut(each["answer"] or EMPTY), cut(each["reference"]), cut(each.get("base", NOTHING))]
        for each in given.evaluation["answers"][:SHOWN_ANSWERS]
    ]
    note = "Each answer is of the likeliest tokens; the snapshot's order is random. evaluation.json has all answers."
    yield Table("Held-out prompts", ("prompt", "policy", "reference", "base model"), rows, numeric=False, note=note)


def _lineage(given: Evidence) -> Iterator[Block]:
    base = given.card["baseModel"]
    rows = [
        row("snapshot", given.manifest.digest),
        row("base model", base["sha256"]),
        row("base model lies at", base["uri"]),
        row("policy before merging", given.evaluation["candidate"]),
    ]
    yield Table("SHA-256 digests", ("what", "digest"), rows, numeric=False)


_SHARED = dict(SECTIONS)
GENERATOR_SECTIONS: Sequence[tuple[str, Callable[[Evidence], Iterator[Block]]]] = (
    ("Summary", _summary),
    ("Gates", _SHARED["Gates"]),
    ("Comparison", _comparison),
    ("Agents", agents),
    ("Answers", _answers),
    ("Learning curves", _SHARED["Learning curves"]),
    ("Data", _SHARED["Data"]),
    ("Settings", _SHARED["Settings"]),
    ("Lineage", _lineage),
)
"""In the order of the page."""
