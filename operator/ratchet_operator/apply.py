"""Carry a plan out: deletes, creates and applies in order, then one status write, then events.

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
from ratchet_operator.plan.world import ApplyObject, CreateObject, DeleteObject, Plan


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
                case ApplyObject():
                    await self._apply(action)
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

    async def _apply(self, action: ApplyObject) -> None:
        uid = action.uid
        if uid is None and (found := await self._found(action.resource, action.manifest)) is not None:
            uid = table_of(found.get("metadata")).get("uid")
        await self._cluster.apply(action.resource, action.manifest, uid=uid)

    async def _adopt(self, action: CreateObject) -> None:
        """The name is taken: fine if it is our own child as we render it, else fail loudly."""
        found = await self._found(action.resource, action.manifest)
        if found is None:
            raise Unavailable(f"{_title(action.manifest)} was there and is gone; trying again")
        if _hash(found) == _hash(action.manifest):
            return
        raise ChildConflict(f"{_title(action.manifest)} is ours by uid, but was not rendered from the present spec")

    async def _found(self, resource: Resource, manifest: KubeObject) -> KubeObject | None:
        """Return our own living child of that name, or None if the name is free.

        Raises:
            ChildConflict: it is somebody else's.
            Unavailable: it is being deleted.
        """
        wanted = manifest["metadata"]
        found = await self._cluster.get(resource, wanted["namespace"], wanted["name"])
        if found is None:
            return None
        owner, ours = controller_of(found), controller_of(manifest)
        if owner.get("uid") != ours.get("uid"):
            who = f"{owner.get('kind')} {owner.get('name')!r}, uid {owner.get('uid')}" if owner else "nobody"
            raise ChildConflict(f"{_title(manifest)} exists and is controlled by {who}")
        if table_of(found.get("metadata")).get("deletionTimestamp"):
            raise Unavailable(f"{_title(manifest)} is being deleted; trying again when it is gone")
        return found


def _title(manifest: KubeObject) -> str:
    meta = manifest["metadata"]
    return f"{manifest['kind']} {meta['name']!r} in namespace {meta['namespace']!r}"


def _hash(obj: KubeObject) -> object:
    return table_of(table_of(obj.get("metadata")).get("annotations")).get(ANNOTATION_SPEC_HASH)


def same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Tell whether two JSON values say the same, whatever the order of their keys.

    By value, not by text: the API server stores 0.0 as 0, and a status with a whole number in a float field would be
    written anew in every pass.
    """
    return left == right
