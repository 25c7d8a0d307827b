"""How long a policy takes to answer: measured on real texts, from text to logits, never configured.

Decides what is timed. Called by the evaluate recipe, whose metrics show it, and by the rl recipe for rewards that ask.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ratchet_jobs.models.classifier import Classifier, LoadedPolicy
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import TokenRows, tokenize

REPEATS = 20
LENGTH_REPEATS = 5
LEAST_REPEATS = 3
PATIENCE_SECONDS = 3.0
"""A large encoder on few cores is measured less often rather than longer."""


def ms_per_sample(
    policy: LoadedPolicy, texts: Sequence[str], *, batch_size: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median milliseconds per text when answering batches of that size.

    Args:
        policy: on the device to use.
        texts: at least one; taken in turn, over and over.
        batch_size: texts per batch.
        clock: seconds, rising.
    """
    taken: list[float] = []
    begin = clock()
    for repeat in range(REPEATS + 1):
        batch = [texts[(repeat * batch_size + i) % len(texts)] for i in range(batch_size)]
        start = clock()
        tokens = tokenize(policy.tokenizer, batch)
        predict_logits(policy.classifier, tokens, batch_size=batch_size, after_batch=lambda _: None)
        taken.append(clock() - start)
        if len(taken) > LEAST_REPEATS and clock() - begin > PATIENCE_SECONDS:
            break
    return 1000 * statistics.median(taken[1:]) / batch_size  # the first one warms up


def ms_by_length(
    classifier: Classifier, tokens: TokenRows, *, clock: Callable[[], float] = time.perf_counter
) -> NDArray[np.float32]:
    """Median milliseconds to answer each query alone, as a server does: one measurement per doubling of the length.

    Args:
        classifier: on the device to use.
        tokens: N >= 1 queries.
        clock: seconds, rising.

    Returns:
        (N,).
    """
    doublings = np.ceil(np.log2(np.maximum(tokens.lengths, 1))).astype(np.int64)  # (N,)
    result = np.zeros(len(tokens.rows), dtype=np.float32)
    for doubling in np.unique(doublings):
        place = int(np.flatnonzero(doublings == doubling)[0])
        one = TokenRows([tokens.rows[place]], tokens.lengths[[place]], tokens.has_words[[place]])
        taken = []
        for _ in range(LENGTH_REPEATS + 1):
            start = clock()
            predict_logits(classifier, one, batch_size=1, after_batch=lambda _: None)
            taken.append(clock() - start)
        result[doublings == doubling] = 1000 * statistics.median(taken[1:])  # the first one warms up
    return result
