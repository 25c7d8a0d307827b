"""By how much a number of one generator's answers differs from another's, in percent, with an interval.

Implements the delete-one jackknife (Efron and Tibshirani 1993, chapter 11): a number is computed again without each of
the N prompts; of both policies the same prompt is left out, so that what is hard for both says nothing. It serves means
and numbers of all answers together, such as BLEU and distinct-n, alike, and draws nothing at random; a bootstrap would
not do for distinct-n, since an answer drawn twice is no new one.

Pure numpy, float64; decides nothing. Called by `ratchet compare`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from ratchet_jobs.metrics.generation import grams

Floats = NDArray[np.float64]


class Held(NamedTuple):
    """A number of N answers, and what it would be without each of them."""

    value: float
    without: Floats
    """(N,)."""


class Change(NamedTuple):
    """Relative change from the baseline: 0.1 = a tenth more."""

    change: float
    low: float
    high: float


def held_mean(numbers: Sequence[float]) -> Held:
    """Mean of one number per answer.

    Args:
        numbers: N of them, N at least 2.
    """
    each = np.asarray(numbers, dtype=np.float64)
    return Held(float(each.mean()), (each.sum() - each) / (len(each) - 1))


def held_bleu(answers: Sequence[str], references: Sequence[str], *, order: int) -> Held:
    """Corpus BLEU as `generation.bleu` has it; its counts are sums over answers, so that none is counted twice.

    Args:
        answers: N texts, N at least 2.
        references: N texts, one for each.
        order: 1 or 2.
    """
    scorer = BLEU(max_ngram_order=order)
    scores = [scorer.corpus_score([a], [[r]]) for a, r in zip(answers, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=np.int64)  # (N, 2 order+2)

    def score(summed: NDArray[np.int64]) -> float:
        right, given = summed[:order].tolist(), summed[order : 2 * order].tolist()
        said, wanted = (int(each) for each in summed[2 * order :])
        found = BLEU.compute_bleu(right, given, said, wanted, smooth_method="exp", max_ngram_order=order)
        return min(1.0, float(found.score) / 100)

    total = counts.sum(0)
    return Held(score(total), np.array([score(total - own) for own in counts]))


def held_distinct(answers: Sequence[str], *, order: int) -> Held:
    """Share of different n-grams as `generation.distinct` has it.

    Args:
        answers: N texts, N at least 2.
        order: 1 or 2.
    """
    said = [Counter(grams(answer, order)) for answer in answers]
    everywhere = Counter[tuple[str, ...]]()
    for own in said:
        everywhere.update(own)
    kinds, total = len(everywhere), everywhere.total()

    def share(different: int, count: int) -> float:
        return different / count if count else 0.0

    lost = [sum(everywhere[gram] == times for gram, times in own.items()) for own in said]
    without = [share(kinds - gone, total - own.total()) for gone, own in zip(lost, said, strict=True)]
    return Held(share(kinds, total), np.array(without))


def change_of(baseline: Held, candidate: Held, *, confidence: float) -> Change | None:
    """Candidate over baseline, less 1, with its interval.

    Args:
        baseline: of N answers.
        candidate: of the N answers to the same prompts, in the same order.
        confidence: of the interval, such as 0.95.

    Returns:
        None where the baseline is 0 or would be 0 without one answer: then there is no such ratio.
    """
    if baseline.value == 0 or not np.all(baseline.without):
        return None
    change = candidate.value / baseline.value - 1
    each = candidate.without / baseline.without - 1  # (N,)
    count = len(each)
    error = math.sqrt((count - 1) / count * float(np.square(each - each.mean()).sum()))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Change(change, change - half, change + half)
