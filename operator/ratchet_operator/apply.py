"""Carry a plan out: deletes and creates in order, then one status write, then events.

Never decides. Every step is safe to repeat: names are deterministic, a delete names the uid, the status write holds
the lock of the object that was read and is skipped when it would change nothing. Called by `reconcile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet_api.base import StatusModel
from ratchet_api.names import ANNOTATION_SPEC_HASH
from ratchet_operator.cluster.protocol import Cluster, Conflict, KubeObject, Resource, Unavailable
from ratchet_operator.errors import ChildConflict
from ratchet_operator.plan.sights import controller_of, table_of
from ratchet_operator.plan.world import CreateObject, DeleteObject, Plan


class Applier:
    """Carries plans out against one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def carry_out(self, resource: Resource, obj: KubeObject, plan: Plan[Any]) -> KubeObject | None:
        """Carry the plan out for the object that it was made from.

        Returns:
            The object with its new status; None = the status was not written.

        Raises:
            ChildConflict: a child's name is taken by an object that is not ours.
            ClusterError: as the cluster calls raise it; everything is safe to repeat.
        """
        for action in plan.actions:
            match action:
                case CreateObject():
                    await self._create(action)
                case DeleteObject():
                    await self._cluster.delete(
                        action.resource, action.namespace, action.name, uid=action.uid, foreground=action.foreground
                    )
        stored = None
        if plan.status is not None:
            stored = await self.write_status(resource, obj, plan.status)
        for event in plan.events:
            await self._cluster.emit(obj, type=event.type, reason=event.reason.value, message=event.message)
        return stored

    async def write_status(self, resource: Resource, obj: KubeObject, status: StatusModel) -> KubeObject | None:
        """Store the whole status unless the stored one says the same; return the object if it was written."""
        wire = status.to_wire()
        if same(wire, obj.get("status") or {}):
            return None
        return await self._cluster.patch_status(resource, obj, wire)

    async def _create(self, action: CreateObject) -> None:
        try:
            await self._cluster.create(action.resource, action.manifest)
        except Conflict:
            await self._adopt(action)

    async def _adopt(self, action: CreateObject) -> None:
        """The name is taken: fine if it is our own child as we render it, else fail loudly."""
        wanted = action.manifest["metadata"]
        title = f"{action.manifest['kind']} {wanted['name']!r} in namespace {wanted['namespace']!r}"
        found = await self._cluster.get(action.resource, wanted["namespace"], wanted["name"])
        if found is None:
            raise Unavailable(f"{title} was there and is gone; trying again")
        owner, ours = controller_of(found), controller_of(action.manifest)
        if owner.get("uid") != ours.get("uid"):
            who = f"{owner.get('kind')} {owner.get('name')!r}, uid {owner.get('uid')}" if owner else "nobody"
            raise ChildConflict(f"{title} exists and is controlled by {who}")
        if table_of(found.get("metadata")).get("deletionTimestamp"):
            raise Unavailable(f"{title} is being deleted; trying again when it is gone")
        if _hash(found) == _hash(action.manifest):
            return
        raise ChildConflict(f"{title} is ours by uid, but was not rendered from the present spec")


def _hash(obj: KubeObject) -> object:
    return table_of(table_of(obj.get("metadata")).get("annotations")).get(ANNOTATION_SPEC_HASH)


def same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Tell whether two JSON values say the same, whatever the order of their keys.

    By value, not by text: the API server stores 0.0 as 0, and a status with a whole number in a float field would be
    written anew in every pass.
    """
    return left == right
