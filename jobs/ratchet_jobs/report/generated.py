"""The sections of a generator's report: its numbers, and what it answers beside the reference and its base.

Decides content and order; drawing and markup are not its business. Called by `page`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ratchet_jobs.report.blocks import NOTHING, Block, Figures, Table, Text, cut, number, row
from ratchet_jobs.report.evidence import Evidence
from ratchet_jobs.report.sections import SECTIONS

SHOWN_ANSWERS = 50
MEANINGS = {
    "reward": "of its answers, as RL was rewarded",
    "rl/win_rate": "share of prompts that RL answers better than its start",
    "perplexity": "of held-out answers; lower is better",
    "base_perplexity": "of the same answers by the base model",
    "kl": "distance from the base, nats per token",
    "bleu1": "words shared with the reference",
    "bleu2": "words and pairs of words shared with it",
    "distinct1": "share of different words in all answers",
    "distinct2": "share of different pairs of words",
    "repetition": "share of an answer that it has said already",
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


def _answers(given: Evidence) -> Iterator[Block]:
    rows = [
        [cut(each["prompt"]), cut(each["answer"] or "(empty)"), cut(each["reference"]), cut(each.get("base", NOTHING))]
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
    ("Answers", _answers),
    ("Learning curves", _SHARED["Learning curves"]),
    ("Data", _SHARED["Data"]),
    ("Settings", _SHARED["Settings"]),
    ("Lineage", _lineage),
)
"""In the order of the page."""
