"""The numbers that a judge gives the responses of a data set, as further columns of its snapshot.

Decides what is asked about a row, and what a row gets that the judge gave no usable numbers: nothing, since a mean of
others would be taught as if somebody had said it. Never drops a row and never asks twice: a snapshot that is cut, or
made anew, finds what was said in the judge's cache. Called by both snapshot recipes, once per piece of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pyarrow as pa
import structlog

from ratchet_api.judge import PATIENCE_FIELDS
from ratchet_api.scoring import Scoring, scored_column
from ratchet_api.snapshot_summary import ScoredCount, ScoredMean
from ratchet_jobs.data.turns import Turn, words_of
from ratchet_jobs.judging.judge import counts_of, scoring_judge
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import Preempted

FIELD = "spec.scoring"
_ANSWERS = {"demonstrations": "response", "ratings": "label"}
"""Type of the data set -> the column that holds the response."""

log = structlog.get_logger(__name__)


class ResponseScorer:
    """The judge of one snapshot, and what it has said of the rows until now."""

    def __init__(self, ctx: StageContext, settings: Scoring, *, type: str) -> None:
        """Read the judge's cache; nothing is asked yet.

        Args:
            ctx: its store holds the cache; asked whether the pod must leave.
            settings: spec.scoring.
            type: of the data set; one of `ratchet_api.scoring.SCORED_TYPES`.

        Raises:
            BadConfigError: the judge's key is not there.
        """
        self._ctx, self._settings, self._answers = ctx, settings, _ANSWERS[type]
        self._judge = scoring_judge(settings, ctx.store, ctx.namespace, field=FIELD, qualities=settings.qualities)
        self._rows = 0
        self._said: dict[str, list[float]] = {name: [] for name in settings.names}

    @property
    def fields(self) -> list[pa.Field]:
        """The columns that every split gets; null = the judge gave no usable numbers."""
        return [pa.field(scored_column(name), pa.float64()) for name in self._settings.names]

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the columns, for the snapshot's manifest."""
        return {name: value for name, value in self._settings.to_wire().items() if name not in PATIENCE_FIELDS}

    def scored(self, table: pa.Table) -> pa.Table:
        """Return some rows of a split with the judge's numbers of each response.

        Raises:
            JudgeUnavailable: the judge is away.
            BadConfigError: its settings or its answers are of no use.
            Preempted: the pod was asked to leave; what was said is kept.
        """
        prompts, responses = _prompts_of(table), table.column(self._answers).to_pylist()
        questions = [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True)]
        said = self._judge.ask(questions, stop=self._ctx.should_stop)
        if self._ctx.should_stop():
            raise Preempted(
                f"asked to leave after {self._judge.asked} responses were to be scored; the answers are kept"
            )
        self._rows += len(said)
        for name, field in zip(self._settings.names, self.fields, strict=True):
            numbers = [None if each is None else each[name] for each in said]
            self._said[name] += [number for number in numbers if number is not None]
            table = table.append_column(field, pa.array(numbers, field.type))
        return table

    def counted(self) -> ScoredCount:
        """Return what became of all rows, once the last one was scored.

        Raises:
            JudgeUnavailable: no row at all has numbers, mostly since the judge is away.
            BadConfigError: likewise, since its answers are of no use.
        """
        first, *_ = self._said.values()
        if not first:
            raise self._judge.gave_up("and no response has numbers")
        log.info("responses scored", rows=self._rows, scored=len(first), failed=self._judge.failed)
        return ScoredCount(
            responses=self._rows,
            scored=len(first),
            cached=self._judge.cached,
            means=tuple(ScoredMean(name=name, mean=round(fmean(said), 6)) for name, said in self._said.items()),
        )

    def metrics(self) -> dict[str, float]:
        """Return how much the judge was asked, for the stage's result."""
        return dict(counts_of([self._judge]))


def _prompts_of(table: pa.Table) -> Sequence[str]:
    """What was answered, as the judge reads it."""
    texts: list[str] = table.column("text").to_pylist()
    if "messages" not in table.column_names:
        return texts
    dialogues = table.column("messages").to_pylist()
    return [
        text if turns is None else words_of([Turn(turn["role"], turn["content"]) for turn in turns])
        for text, turns in zip(texts, dialogues, strict=True)
    ]
