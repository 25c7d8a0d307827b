"""Trials that ended, counted from two states of a policy: what became of each, once, and from 0 on."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from ratchet_operator.metrics import Metrics


def served(candidate: int | None, *, champion: int = 1, uid: str = "u", **rollout: Any) -> dict[str, Any]:
    trial = {} if candidate is None else {"candidate": candidate}
    return {
        "metadata": {"namespace": "ns", "name": "p", "uid": uid},
        "spec": {"rollout": {}},
        "status": {"champion": champion, "rollout": {"experiments": 1, "history": [{"number": 1}], **trial, **rollout}},
    }


def row(by: str) -> dict[str, Any]:
    return {"history": [{"number": 1}, {"number": 2, "by": by}]}


@pytest.mark.parametrize(
    ("after", "want"),
    [
        pytest.param(served(2, percent=5), None, id="it goes on"),
        pytest.param(served(None, champion=2, **row("operator")), "Promoted", id="promoted"),
        pytest.param(served(None, champion=2, **row("user")), "Promoted", id="promoted by a person"),
        pytest.param(served(None, **row("operator")), "RolledBack", id="taken out of its share"),
        pytest.param(served(None), "RolledBack", id="never ready, so that nobody got it"),
        pytest.param(served(None, **row("user")), "Aborted", id="aborted by a person"),
        pytest.param(served(None, observedCommand="abort:1"), "Aborted", id="aborted before anybody got it"),
        pytest.param(served(None, champion=3), "Aborted", id="another one made champion before anybody got it"),
        pytest.param(served(None) | {"spec": {}}, "Aborted", id="no trials wanted any more"),
        pytest.param(served(None, uid="another", **row("operator")), None, id="another policy of the same name"),
    ],
)
def test_a_trial_that_ended_is_counted_once_by_what_became_of_it(after: dict[str, Any], want: str | None) -> None:
    registry = CollectorRegistry()
    found = Metrics(registry, version="test", now=lambda: 0.0)
    for each in (served(2), after, after):
        found.policy_seen(each)
    counted = {result: ended(registry, result) for result in ("Promoted", "RolledBack", "Aborted")}
    assert counted == {result: float(result == want) for result in counted}, "from 0 on, so that the first is a rise"
    found.policy_gone("ns", "p")
    assert {ended(registry, result) for result in counted} == {None}


def ended(registry: CollectorRegistry, result: str) -> float | None:
    return registry.get_sample_value(
        "ratchet_rollouts_ended_total", {"namespace": "ns", "policy": "p", "result": result}
    )


def test_of_a_policy_whose_trials_are_all_past_none_is_counted_when_the_operator_starts() -> None:
    registry = CollectorRegistry()
    Metrics(registry, version="test", now=lambda: 0.0).policy_seen(served(None, **row("operator")))
    assert ended(registry, "RolledBack") == 0
