"""Gates on classes whose names are longer in JSON than they look: refused at once, never judged by nothing."""

from __future__ import annotations

import pytest

from ratchet_api.attempts import Artifact
from ratchet_api.stage import EndState, StageResult, TerminationMessage
from ratchet_api.training_run import GATED_LABEL_BYTES, Gate
from ratchet_jobs.data.gates import check_gates
from ratchet_jobs.runtime.errors import BadConfigError

WHOLE = dict.fromkeys((f"number of the whole {n:02}" for n in range(12)), 1 / 3)


def fits(labels: list[str], of_tasks: dict[str, float] | None = None) -> bool:
    numbers = WHOLE | {f"f1/{label}": 1 / 3 for label in labels} | (of_tasks or {})
    artifact = Artifact(uri="s3://bucket/" + "p" * 330, digest="d" * 64)
    message = TerminationMessage(state=EndState.COMMITTED, artifact=artifact, result=StageResult(metrics=numbers))
    return TerminationMessage.model_validate_json(message.fit()).result.metrics == numbers


def named(letter: str) -> list[str]:
    """As many bytes of names as the spec lets through: 32 classes."""
    size = GATED_LABEL_BYTES // 32 // len(letter.encode()) - 2
    return [f"{n:02}" + letter * size for n in range(32)]


def gates(labels: list[str]) -> list[Gate]:
    return [Gate(metric="macro_f1", label=label, minimum=0.1) for label in labels]


@pytest.mark.parametrize("letter", ["x", "é", "返"])
def test_names_that_are_let_through_reach_the_operator(letter: str) -> None:
    labels = named(letter)
    check_gates(gates(labels), labels=labels)
    assert fits(labels)


def test_the_numbers_of_the_most_and_longest_tasks_reach_the_operator_beside_gated_classes() -> None:
    tasks = [f"{n}".rjust(32, "t") for n in range(8)]
    labels = [f"{task}/{label}" for task in tasks[:4] for label in ("x" * 50, "y" * 50)][:4]
    of_tasks = [Gate(metric="ece", task=task, maximum=0.5) for task in tasks[:1]]
    check_gates([*gates(labels), *of_tasks], labels=labels, tasks=tasks)
    told = {f"{metric}/{task}": 1 / 3 for task in tasks for metric in ("accuracy", "macro_f1")}
    assert fits(labels, told | {f"ece/{tasks[0]}": 1 / 3})
    more = [*labels, *(f"{tasks[0]}/{n:0>90}" for n in range(7))]
    with pytest.raises(BadConfigError, match="gate fewer classes"):
        check_gates(gates(more), labels=more, tasks=tasks)


@pytest.mark.parametrize("letter", ['"', "\\", "\x01"])
def test_names_that_would_not_reach_it_are_refused(letter: str) -> None:
    labels = named(letter)
    assert not fits(labels)
    with pytest.raises(BadConfigError, match="gate fewer classes"):
        check_gates(gates(labels), labels=labels)
    check_gates(gates(labels[:5]), labels=labels)
    assert fits(labels[:5])
