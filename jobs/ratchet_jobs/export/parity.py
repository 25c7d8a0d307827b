"""Whether what was exported computes what the policy computes, on texts.

Decides the tolerance and refuses an export beyond it. Called by `exporting` with the logits of the policy and with
those that a layout's files gave.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ratchet_jobs.export.record import Parity
from ratchet_jobs.runtime.errors import BadModelError

TOLERANCE = 1e-4
"""Largest difference of two logits, as a share of the largest logit, which counts as at least 1: float32 in another
order of summation stays a factor of ten below, any other pooling, mask or weight is far above."""

PROBES = (
    "hello",
    "I want my money back, and I want it today.",
    "Please reset the password of my account; the link in the mail has expired since yesterday morning.",
    "?",
    "Der Drucker im dritten Stock meldet seit heute früh Papierstau, obwohl kein Papier darin steckt.",
    "the invoice of march was charged twice " * 12,
)
"""What is asked when no text of the policy's own data is at hand: short, long, punctuation alone, another language."""


def check_parity(
    wanted: NDArray[np.float64], given: NDArray[np.float64], *, which: str, computed_by: str, layout: str
) -> Parity:
    """Compare logits.

    Args:
        wanted: (N, C) of the policy, N at least 1.
        given: of the exported files, for the same texts.
        which: where the texts came from.
        computed_by: what read the files.
        layout: for the message.

    Raises:
        BadModelError: a difference is above the tolerance.
    """
    tolerance = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    difference = np.abs(wanted - given)
    largest = float(difference.max())
    if not largest <= tolerance:  # NaN is refused, too
        row, column = np.unravel_index(int(np.argmax(np.nan_to_num(difference, nan=np.inf))), difference.shape)
        raise BadModelError(
            f"export {layout}: for text {row} of {which}, class {column}, {computed_by} computes the logit "
            f"{given[row, column]:.6g}, the policy {wanted[row, column]:.6g}; more than {tolerance:.2g} apart, so "
            "nothing was written. Take another layout, and report the base model's architecture"
        )
    return Parity(
        texts=len(wanted), which=which, largest_difference=largest, tolerance=tolerance, computed_by=computed_by
    )
