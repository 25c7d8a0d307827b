"""Weights that change as training goes on: given at some steps, held or interpolated between them."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ratchet_jobs.runtime.errors import BadConfigError


@dataclass(frozen=True, slots=True)
class Curriculum:
    """A number as a function of the training step.

    Before the first point it is the first value, after the last one the last.

    Raises:
        BadConfigError: no points, steps that do not rise, or a value that is not finite.
    """

    points: tuple[tuple[int, float], ...]
    """(step, value), steps rising from 0 up."""
    kind: Literal["linear", "step"] = "linear"
    """linear = straight lines between the points; step = each value holds until the next point."""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "step"):
            raise BadConfigError(f"curriculum: kind {self.kind!r}; there are: linear, step")
        if not self.points:
            raise BadConfigError("curriculum: no points; give at least one (step, weight)")
        steps = [step for step, _ in self.points]
        if steps[0] < 0:
            raise BadConfigError(f"curriculum: the first step is {steps[0]}; steps count from 0")
        for before, after in pairwise(steps):
            if after <= before:
                raise BadConfigError(
                    f"curriculum: step {after} comes after step {before}; give the points in rising order"
                )
        for step, value in self.points:
            if not math.isfinite(value):
                raise BadConfigError(f"curriculum: the weight at step {step} is {value}; give a plain number")

    def at(self, step: float) -> float:
        """The value at a step."""
        place = bisect_right(self.points, step, key=lambda point: point[0])
        if place == 0:
            return self.points[0][1]
        before, low = self.points[place - 1]
        if place == len(self.points) or self.kind == "step":
            return low
        after, high = self.points[place]
        return low + (high - low) * (step - before) / (after - before)
