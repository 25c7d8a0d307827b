"""Is one policy worse than another on the same rows? Intervals of the difference, a test, and what "not worse" means.

Implements the paired bootstrap (Efron and Tibshirani 1993, chapter 13, percentile interval; Koehn 2004 for two systems
on one test set), McNemar's test in its exact and mid-p form (Fagerland, Lydersen and Laake 2013,
doi:10.1186/1471-2288-13-91, equations 1 and 2), and non-inferiority: the lower end of the interval of the difference
must not lie below the tolerated loss.

Pure numpy, float64. Decides what "worse" means and nothing else; reads and writes nothing; which policy is kept is
decided by the evaluate recipe, its only caller.

Notation: N examples, T tasks, C classes of all tasks together, R resamples. `labels`, `baseline` and `candidate` (N, T)
hold class numbers 0..C-1: the truth, UNSAID where a row has none in a task, and what either policy answers; (N,) stands
for one task. Accuracy and macro-F1 are means over tasks. A resample draws rows with all that they are asked, so that
answers to one text stay together. A difference is candidate minus baseline, so that more is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_api.tasks import UNSAID, Task
from ratchet_jobs.metrics.classification import Floats, Ints

_CELLS_AT_ONCE = 4_000_000
"""Numbers held at once while resampling: 32 MB."""

ROUNDING = 1e-12
"""Sums of like numbers differ by this much in their last digits; a bound is not missed for it."""


class Difference(NamedTuple):
    """A number of both policies and what their difference is, with its interval."""

    baseline: float
    candidate: float
    difference: float
    low: float
    """Lower end of the two-sided interval."""
    high: float

    def not_worse(self, margin: float) -> bool:
        """Non-inferiority: the whole interval lies above the tolerated loss; what was not measured never passes."""
        return bool(self.low >= -margin - ROUNDING)


NOT_MEASURED = Difference(*(float("nan"),) * 5)
"""Of a class without rows: nothing is known, so nothing is shown to be no worse."""


class McNemar(NamedTuple):
    """McNemar's test: are the two policies wrong equally often?"""

    only_baseline: int
    """Rows that the baseline alone answers rightly."""
    only_candidate: int
    p_exact: float
    """Two-sided exact conditional p-value; conservative."""
    p_mid: float
    """Two-sided mid-p value: the exact one less the probability of the very table seen; nearer the nominal level."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two sets of answers to the same rows say about each other."""

    accuracy: Difference
    macro_f1: Difference
    slices: Mapping[int, Difference]
    """Class number -> accuracy on the rows whose true class it is."""
    mcnemar: McNemar


def compare(
    labels: Ints,
    baseline: Ints,
    candidate: Ints,
    *,
    classes: int,
    tasks: Sequence[Task] | None = None,
    slices: tuple[int, ...] = (),
    confidence: float,
    resamples: int,
    seed: int,
) -> Comparison:
    """Compare two policies on the same rows.

    Args:
        labels: (N, T) or (N,) true classes, N >= 1; of each task some row has one.
        baseline: (N, T) or (N,) answers of the one to be held against.
        candidate: (N, T) or (N,) answers of the one that is judged.
        classes: C.
        tasks: T tasks; None = one, of all classes.
        slices: classes whose rows are compared by themselves, too.
        confidence: of the two-sided intervals, in (0, 1).
        resamples: R >= 1.
        seed: equal seeds give equal intervals.

    Raises:
        ValueError: the arrays differ in length or are empty.
    """
    if not len(labels) == len(baseline) == len(candidate) or len(labels) == 0:
        raise ValueError(
            f"labels, baseline and candidate have {len(labels)}, {len(baseline)} and {len(candidate)} rows; "
            "they must be the same rows, at least one"
        )
    blocks = [(task.start, task.stop) for task in tasks] if tasks is not None else [(0, classes)]
    truth = labels.reshape(len(labels), len(blocks))
    answers = [np.where(truth == UNSAID, UNSAID, each.reshape(truth.shape)) for each in (baseline, candidate)]
    # Rows alike in truth and both answers cannot be told apart: resampling N rows is drawing N times from these cells.
    cells, counts = np.unique(np.stack([truth, *answers], axis=1), axis=0, return_counts=True)  # (K, 3, T)
    whole = _scores(counts[np.newaxis].astype(np.float64), cells, blocks)
    drawn = _resampled(counts, cells, blocks, resamples=resamples, seed=seed)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    return Comparison(
        accuracy=_difference(whole.accuracy[0], drawn.accuracy, tails),
        macro_f1=_difference(whole.macro_f1[0], drawn.macro_f1, tails),
        slices={
            place: _difference(whole.recall[0, :, place], drawn.recall[:, :, place], tails)
            if bool((truth == place).any())
            else NOT_MEASURED
            for place in slices
        },
        mcnemar=mcnemar(*((each == truth)[truth != UNSAID] for each in answers)),
    )


def mcnemar(baseline_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> McNemar:
    """Test whether two policies are right equally often, from the rows on which they part.

    Of n such rows, the number k that one of them alone has right is binomial(n, 1/2) if they are equally good.
    exact = 2 P(K <= k), mid-p = exact - P(K = k), for the smaller k; with equal numbers 1 and 1 - P(K = k) / 2.

    Args:
        baseline_right: (N,), True = the baseline's answer is the label.
        candidate_right: (N,), likewise.
    """
    first = int((baseline_right & ~candidate_right).sum())
    second = int((candidate_right & ~baseline_right).sum())
    fewer, n = min(first, second), first + second
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
    seen = np.arange(fewer + 1)
    density = np.exp(log_factorial[n] - log_factorial[seen] - log_factorial[n - seen] - n * np.log(2.0))
    if first == second:
        return McNemar(first, second, p_exact=1.0, p_mid=float(1 - density[-1] / 2))
    exact = float(2 * density.sum())
    return McNemar(first, second, p_exact=exact, p_mid=exact - float(density[-1]))


class _Scores(NamedTuple):
    """Scores of R resamples; the second axis holds baseline and candidate."""

    accuracy: Floats  # (R, 2)
    macro_f1: Floats  # (R, 2)
    recall: Floats  # (R, 2, C), 0 for a class without rows


def _scores(counts: Floats, cells: Ints, blocks: Sequence[tuple[int, int]]) -> _Scores:
    """Score R tables of counts (R, K) over K cells (K, 3, T): labels, baseline's answers, candidate's answers."""
    parts, weights = [], []
    for place, (start, stop) in enumerate(blocks):
        said = cells[:, 0, place] != UNSAID
        of_task = counts if said.all() else counts[:, said]
        parts.append(_scores_of_task(of_task, cells[said, :, place] - start, classes=stop - start))
        weights.append(of_task.sum(axis=1) > 0)  # a resample without a row of a rare task says nothing of it
    measured = np.stack(weights)[:, :, np.newaxis].astype(np.float64)  # (T, R, 1)
    accuracy, macro_f1 = (
        (np.stack(each) * measured).sum(0) / measured.sum(0)
        for each in ([part.accuracy for part in parts], [part.macro_f1 for part in parts])
    )
    return _Scores(accuracy, macro_f1, np.concatenate([part.recall for part in parts], axis=2))


def _scores_of_task(counts: Floats, cells: Ints, *, classes: int) -> _Scores:
    """Score R tables of counts (R, K) over the K cells (label, baseline's answer, candidate's answer) of one task."""
    rows = counts.sum(axis=1)
    support = _by_class(counts, cells[:, 0], classes)  # (R, C)
    accuracy, macro_f1, recall = [], [], []
    for answer in (cells[:, 1], cells[:, 2]):
        hit = answer == cells[:, 0]
        right = _by_class(counts[:, hit], cells[hit, 0], classes)
        predicted = _by_class(counts, answer, classes)
        f1 = _ratio(2 * right, predicted + support)
        occurs = predicted + support > 0  # as `classification.macro_f1` has it, within each resample
        accuracy.append(_ratio(right.sum(axis=1), rows))
        macro_f1.append(_ratio((f1 * occurs).sum(axis=1), occurs.sum(axis=1).astype(np.float64)))
        recall.append(_ratio(right, support))
    return _Scores(np.stack(accuracy, axis=1), np.stack(macro_f1, axis=1), np.stack(recall, axis=1))


def _resampled(counts: Ints, cells: Ints, blocks: Sequence[tuple[int, int]], *, resamples: int, seed: int) -> _Scores:
    rng = np.random.default_rng(seed)
    total = int(counts.sum())
    at_once = max(1, _CELLS_AT_ONCE // max(len(cells), blocks[-1][1]))
    parts = []
    for start in range(0, resamples, at_once):
        drawn = rng.multinomial(total, counts / total, size=min(at_once, resamples - start))
        parts.append(_scores(drawn.astype(np.float64), cells, blocks))
    return _Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _by_class(counts: Floats, classes_of_cells: Ints, classes: int) -> Floats:
    """Sum the columns of (R, K) that belong to each class: (R, C)."""
    member = np.zeros((len(classes_of_cells), classes))
    member[np.arange(len(classes_of_cells)), classes_of_cells] = 1.0
    result: Floats = counts @ member
    return result


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    result: Floats = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return result


def _difference(pair: Floats, drawn: Floats, tails: tuple[float, float]) -> Difference:
    """Point values (2,) and resampled ones (R, 2) of baseline and candidate."""
    low, high = np.quantile(drawn[:, 1] - drawn[:, 0], tails)
    return Difference(float(pair[0]), float(pair[1]), float(pair[1] - pair[0]), float(low), float(high))
