"""One pass over one object: observe, plan, apply. The same in a cluster, in `ratchet run` and in tests.

Called by the queue's workers, never twice at once for one key. Decides nothing but which kind is meant and how a
refusal of the cluster becomes a condition. What can heal by trying again (conflicts, an API server that does not
answer) is raised to the queue, which repeats the pass with backoff.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ratchet_api.conditions import Reason
from ratchet_operator.apply import Applier
from ratchet_operator.cluster.protocol import Cluster, Denied, Forbidden, KubeObject, Rejected, Resource
from ratchet_operator.errors import ChildConflict
from ratchet_operator.observe import Clock, Observer
from ratchet_operator.plan.datasets import plan_dataset, refused_dataset
from ratchet_operator.plan.pending import refusal_reason
from ratchet_operator.plan.policies import plan_policy, refused_policy
from ratchet_operator.plan.runs import plan_run, refused_run
from ratchet_operator.plan.world import Plan, Refusal
from ratchet_operator.settings import Settings
from ratchet_operator.wakes import Key

__all__ = ["Key", "Reconciler"]

_JITTER = 0.1
_GONE = 404


@dataclass(frozen=True, slots=True)
class _Brain:
    """How one kind is observed and planned."""

    resource: Resource
    observe: Callable[[KubeObject], Awaitable[Any]]
    bare: Callable[[KubeObject], Any]
    plan: Callable[[Any], Plan[Any]]
    refused: Callable[[Any, Refusal], Plan[Any]]


class Reconciler:
    """Reconciles keys of all three kinds against one cluster.

    Args:
        cluster: the world.
        settings: the operator's settings.
        clock: returns the present time, aware UTC.
        rng: spreads repeated looks in time; no decision depends on it.
    """

    def __init__(self, cluster: Cluster, settings: Settings, clock: Clock, rng: random.Random) -> None:
        self._cluster = cluster
        self._applier = Applier(cluster)
        self._rng = rng
        observer = Observer(cluster, settings, clock)
        self._brains = {
            "feedbackdatasets": _Brain(
                "feedbackdatasets", observer.dataset, observer.bare_dataset, plan_dataset, refused_dataset
            ),
            "rltrainingruns": _Brain("rltrainingruns", observer.run, observer.bare_run, plan_run, refused_run),
            "rlpolicies": _Brain("rlpolicies", observer.policy, observer.bare_policy, plan_policy, refused_policy),
        }

    async def reconcile(self, key: Key) -> timedelta | None:
        """Do one pass.

        Returns:
            When to look again even if nothing is heard; None = only when something changes.

        Raises:
            ClusterError: Conflict or Unavailable: repeat the pass. Rejected: the server refuses our status.
            KeyError: the key's kind is none of ours.
        """
        brain = self._brains[key.plural]
        obj = await self._cluster.get(brain.resource, key.namespace, key.name)
        if obj is None:
            return None
        try:
            world = await brain.observe(obj)
        except Forbidden as error:
            # a right is missing: what the object itself says is enough to tell which
            plan = brain.refused(brain.bare(obj), refusal_of(error))
            await self._applier.carry_out(brain.resource, obj, plan)
            return self._spread(plan.requeue_after)
        plan = brain.plan(world)
        try:
            await self._applier.carry_out(brain.resource, obj, plan)
        except (Rejected, ChildConflict) as error:
            if isinstance(error, Rejected) and error.status == _GONE:
                return None  # the object or its namespace vanished in the meantime
            plan = brain.refused(world, refusal_of(error))
            await self._applier.carry_out(brain.resource, obj, plan)
        return self._spread(plan.requeue_after)

    def _spread(self, wait: timedelta | None) -> timedelta | None:
        """Lengthen a wait by up to a tenth, so that runs created together do not poll together."""
        return wait * (1 + _JITTER * self._rng.random()) if wait else wait


def refusal_of(error: Rejected | ChildConflict) -> Refusal:
    """Name the reason for which the cluster refused an action."""
    if isinstance(error, ChildConflict):
        return Refusal(Reason.CHILD_CONFLICT, str(error))
    if isinstance(error, Forbidden):
        return Refusal(Reason.FORBIDDEN, str(error))
    reason = refusal_reason(str(error)) if isinstance(error, Denied) else Reason.ADMISSION_DENIED
    return Refusal(reason, str(error))
