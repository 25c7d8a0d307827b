"""Which policies there are and what is known of them, behind one small port.

Decides what the gateway needs to know of a policy, and nothing about where it is kept: in a cluster
(`policies_kubernetes`) or in a fixed list, for a laptop and for tests. Never writes. Used by the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ratchet_api.policy import PolicyVersion
from ratchet_api.training_run import RunTemplate


@dataclass(frozen=True, slots=True)
class PolicyView:
    """One policy.

    Attributes:
        name: of the RLPolicy.
        versions: published ones, oldest first.
        template: how it is trained; None = it has none.
    """

    name: str
    versions: tuple[PolicyVersion, ...] = ()
    template: RunTemplate | None = None


class Policies(Protocol):
    """What the routes ask."""

    async def find(self, name: str) -> PolicyView | None:
        """Return a policy, or None when there is none of that name.

        Raises:
            Away: nobody can say.
        """


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
