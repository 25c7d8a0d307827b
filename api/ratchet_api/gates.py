"""How a gate of `spec.evaluation.gates` judges the numbers of an evaluation.

Pure. Called by the operator, which publishes by it, and by the evaluate stage, which chooses a policy by it: both must
mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ratchet_api.resolved import GateResult
from ratchet_api.training_run import Gate

NOT_MEASURED = -1.0
"""Value in the result of a gate on a number that is not there."""
_LARGEST = 1e9
"""No number that a gate may judge is negative or larger."""


def metric_key(metric: str, *, label: str | None = None, task: str | None = None) -> str:
    """Return the name under which an evaluation tells the number that a gate judges."""
    if label is not None:
        return f"f1/{label}"
    return metric if task is None else f"{metric}/{task}"


def judge_gate(gate: Gate, metrics: Mapping[str, float]) -> GateResult:
    """Hold one gate against the numbers; a number that was not measured never passes."""
    value = metrics.get(metric_key(gate.metric, label=gate.label, task=gate.task), math.nan)
    bounds = [f">= {gate.minimum:g}"] if gate.minimum is not None else []
    bounds += [f"<= {gate.maximum:g}"] if gate.maximum is not None else []
    measured = 0 <= value <= _LARGEST  # False for NaN, too; a user's image may say anything
    holds = measured and (gate.minimum is None or value >= gate.minimum)
    holds = holds and (gate.maximum is None or value <= gate.maximum)
    return GateResult(
        metric=gate.metric,
        label=gate.label,
        task=gate.task,
        value=value if measured else NOT_MEASURED,
        bound=" and ".join(bounds),
        passed=holds,
    )


def judged_name(result: GateResult) -> str:
    """Word which number a gate judged."""
    if result.label is not None:
        return f"f1 of {result.label!r}"
    return result.metric if result.task is None else f"{result.metric} of task {result.task!r}"


def told(result: GateResult) -> str:
    """Word a gate and the number it judged."""
    value = "not measured" if result.value == NOT_MEASURED else f"{result.value:.4g}"
    return f"{judged_name(result)} is {value}, must be {result.bound}"
