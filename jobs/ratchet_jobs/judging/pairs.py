"""Which of two answers a judge prefers, asked twice with the answers in both orders.

Judges prefer a place, mostly the first; so an answer wins only if it is preferred in both, and a judge that changes its
mind with the order says a tie (Zheng et al. 2023, arXiv:2306.05685, section 3.4). Equal answers are ties without being
asked about. Pure but for the judge that is given; called by the evaluation of generators.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_api.judge import PairJudge
from ratchet_jobs.judging.cache import JudgeCache
from ratchet_jobs.judging.client import Unanswered
from ratchet_jobs.judging.judge import AskedJudge, Said
from ratchet_jobs.runtime.store import Store

FIRST = "first"
"""1 where the judge prefers the first answer, 0 where the second."""


class Preferences(NamedTuple):
    """What a judge says of N pairs of answers."""

    won: NDArray[np.float64]
    """(N,) 1 = ours is preferred, 0 = the other one, 0.5 = a tie, NaN = the judge gave no usable answer."""
    changed: int
    """Pairs of which the judge preferred the same place in both orders."""

    @property
    def win_rate(self) -> float:
        """Share of the judged pairs that ours wins; ties count half."""
        return float(np.nanmean(self.won))


def pair_judge(settings: PairJudge, store: Store, namespace: str, *, field: str) -> AskedJudge:
    """Read the cache of a judge of pairs; nothing is asked yet.

    Args:
        settings: of the judge.
        store: that holds the cache.
        namespace: whose part of it.
        field: path of the judge in the spec, for messages.

    Raises:
        BadConfigError: the key is not there.
    """
    decides = {"endpoint": settings.endpoint, "model": settings.model, "prompt": settings.prompt}
    cache = JudgeCache(store, namespace, judge=decides)
    return AskedJudge(settings, template=settings.prompt, read=read_choice, cache=cache, field=field)


def read_choice(text: str) -> dict[str, float]:
    """Return which of two answers is preferred, said as 1 or 2, or as {"better": 1} or {"better": 2}.

    Args:
        text: what the judge said, without outer blanks.

    Raises:
        Unanswered: it says something else.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unanswered("prose instead of 1 or 2") from error
    choice = said.get("better") if isinstance(said, dict) else said
    if isinstance(choice, bool) or choice not in (1, 2):
        raise Unanswered("neither 1 nor 2")
    return {FIRST: 2.0 - choice}


def compare(
    judge: AskedJudge,
    prompts: Sequence[str],
    ours: Sequence[str],
    theirs: Sequence[str],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Preferences:
    """Ask which answers are better.

    Args:
        judge: reads its answers by `read_choice`.
        prompts: N.
        ours: an answer to each.
        theirs: another one to each.
        stop: once it is true no more is asked, and what is missing is not judged.

    Raises:
        JudgeUnavailable: the judge is away.
        BadConfigError: its settings or its answers are of no use.
    """
    differ = [place for place in range(len(prompts)) if ours[place] != theirs[place]]
    here = [{"prompt": prompts[i], "first": ours[i], "second": theirs[i]} for i in differ]
    there = [{"prompt": prompts[i], "first": theirs[i], "second": ours[i]} for i in differ]
    said = judge.ask([*here, *there], stop=stop)
    won, changed = np.full(len(prompts), 0.5), 0
    for place, one, other in zip(differ, said[: len(differ)], said[len(differ) :], strict=True):
        won[place], switched = _settled(one, other)
        changed += switched
    if not stop() and len(won) and np.isnan(won).all():
        raise judge.gave_up("and no pair of answers could be judged")
    return Preferences(won, changed)


def _settled(one: Said | None, other: Said | None) -> tuple[float, bool]:
    """Ours stands first in `one` and second in `other`."""
    if one is None or other is None:
        return float("nan"), False
    first, second = one[FIRST], 1.0 - other[FIRST]
    return (first + second) / 2, first != second
