"""Which policies there are and what is known of them, behind one small port.

Decides what the gateway needs to know of a policy, and nothing about where it is kept: in a cluster
(`policies_kubernetes`), in the state directory of `ratchet up`, or in a fixed list. Never writes. Used by the routes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from ratchet_api.kinds import RL_POLICY, SpecError
from ratchet_api.policy import PolicyVersion
from ratchet_api.policy_types import PolicyType
from ratchet_api.rollout import Rollout, RolloutStatus
from ratchet_api.training_run import RunTemplate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PolicyView:
    """One policy.

    Attributes:
        name: of the RLPolicy.
        versions: published ones, oldest first.
        template: how it is trained; None = it has none.
        type: classifier or generator.
        uid: of the object; with a trial's name it makes the id under which the log has the trial.
        asked: how new versions go on trial; None = none does.
        rollout: who gets which version; None = it is not served.
    """

    name: str
    versions: tuple[PolicyVersion, ...] = ()
    template: RunTemplate | None = None
    type: PolicyType = "classifier"
    uid: str = ""
    asked: Rollout | None = None
    rollout: RolloutStatus | None = None


class Policies(Protocol):
    """What the routes ask."""

    async def find(self, name: str) -> PolicyView | None:
        """Return a policy, or None when there is none of that name.

        Raises:
            Away: nobody can say.
        """


def view_of(body: Mapping[str, Any]) -> PolicyView:
    """Read of an RLPolicy what this version of the gateway understands; an object of a newer one is still a policy."""
    name = str(body["metadata"]["name"])
    try:
        status = RL_POLICY.status_model.model_validate(body.get("status", {}))
        spec = RL_POLICY.parse_spec(body)
    except (SpecError, ValidationError) as error:
        log.warning("policy is only known by name", extra={"policy": name, "error": str(error)[:300]})
        return PolicyView(name)
    return PolicyView(
        name,
        status.versions,
        spec.training.template if spec.training else None,
        spec.type,
        uid=str(body["metadata"].get("uid", "")),
        asked=spec.rollout,
        rollout=status.rollout,
    )


class LocalPolicies:
    """Policies of a state directory, as they are at each question.

    Args:
        read: returns the RLPolicy of a name as it is stored, or None.
    """

    def __init__(self, read: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._read = read

    async def find(self, name: str) -> PolicyView | None:
        """Return a policy, or None."""
        body = self._read(name)
        return None if body is None else view_of(body)


class FixedPolicies:
    """Policies from a list."""

    def __init__(self, views: Mapping[str, PolicyView]) -> None:
        """Take them as they are."""
        self._views = dict(views)

    @classmethod
    def named(cls, names: tuple[str, ...]) -> FixedPolicies:
        """Policies of which nothing is known but the name."""
        return cls({name: PolicyView(name) for name in names})

    async def find(self, name: str) -> PolicyView | None:
        """Return a policy, or None."""
        return self._views.get(name)
