"""One pass over one object: observe, plan, apply. The same in a cluster, in `ratchet run` and in tests.

Called by the queue's workers, never twice at once for one key. Decides nothing but which kind is meant, where a pass
gets its object from, and how a refusal of the cluster becomes a condition. What can heal by trying again (conflicts,
an API server that does not answer) is raised to the queue, which repeats the pass with backoff.
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
from ratchet_operator.plan.world import NOW, Plan, Refusal
from ratchet_operator.settings import Settings
from ratchet_operator.sightings import Sightings
from ratchet_operator.wakes import Key

__all__ = ["Key", "Reconciler"]

_JITTER = 0.1
_GONE = 404
_STEPS = 4  # steps that one call may do in a row; more are left to the queue, so that other keys get their turn


_Stepped = tuple[timedelta | None, KubeObject | None, Any]
"""When to look again; the object as our status write left it, if there was one; the world that was seen."""


@dataclass(frozen=True, slots=True)
class _Brain:
    """How one kind is observed and planned."""

    resource: Resource
    observe: Callable[[KubeObject, Any], Awaitable[Any]]
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
        sightings: new runs that a watch showed; None = every pass reads its object.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        clock: Clock,
        rng: random.Random,
        sightings: Sightings | None = None,
    ) -> None:
        self._cluster = cluster
        self._applier = Applier(cluster)
        self._rng = rng
        self._sightings = sightings or Sightings()
        observer = Observer(cluster, settings, clock)
        self._brains = {
            "feedbackdatasets": _Brain(
                "feedbackdatasets", observer.dataset, observer.bare_dataset, plan_dataset, refused_dataset
            ),
            "rltrainingruns": _Brain("rltrainingruns", observer.run, observer.bare_run, plan_run, refused_run),
            "rlpolicies": _Brain("rlpolicies", observer.policy, observer.bare_policy, plan_policy, refused_policy),
        }

    async def reconcile(self, key: Key) -> timedelta | None:
        """Do one pass; a step that is known and only waited for the status to be stored follows at once.

        Returns:
            When to look again even if nothing is heard; None = only when something changes.

        Raises:
            ClusterError: Conflict or Unavailable: repeat the pass. Rejected: the server refuses our status.
            KeyError: the key's kind is none of ours.
        """
        brain = self._brains[key.plural]
        sighted = self._sightings.take(key)
        obj = sighted or await self._cluster.get(brain.resource, key.namespace, key.name)
        if obj is None:
            return None
        wait, stored, before = await self._step(brain, obj, None, may_act=sighted is None)
        for _ in range(_STEPS - 1):
            if wait != NOW or stored is None:
                break
            # The answer to our own write is as good as a reading: the write proves that nobody had changed the object
            # until then, and whoever changes it later wakes the key.
            wait, stored, before = await self._step(brain, stored, before, may_act=True)
        return self._spread(wait)

    async def _step(self, brain: _Brain, obj: KubeObject, before: Any, *, may_act: bool) -> _Stepped:
        """Observe, plan and apply once.

        Args:
            brain: how the kind is observed and planned.
            obj: the object as it is.
            before: the world of the step before in the same call, if there was one.
            may_act: False for a sighting; its plan may write a status, which holds the resourceVersion, but not act.
        """
        try:
            world = await brain.observe(obj, before)
        except Forbidden as error:
            # a right is missing: what the object itself says is enough to tell which
            plan = brain.refused(brain.bare(obj), refusal_of(error))
            return plan.requeue_after, await self._applier.carry_out(brain.resource, obj, plan), None
        plan = brain.plan(world)
        if plan.actions and not may_act:
            return NOW, None, None  # look again, with a reading
        try:
            stored = await self._applier.carry_out(brain.resource, obj, plan)
        except (Rejected, ChildConflict) as error:
            if isinstance(error, Rejected) and error.status == _GONE:
                return None, None, None  # the object or its namespace vanished in the meantime
            plan = brain.refused(world, refusal_of(error))
            stored = await self._applier.carry_out(brain.resource, obj, plan)
        return plan.requeue_after, stored, world

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
