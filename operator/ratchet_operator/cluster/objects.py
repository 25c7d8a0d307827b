"""Kubernetes object semantics in memory: what an API server does with objects, without the server.

Creates, versions, generations, status locks, deletion with grace and in the foreground, and garbage collection by
owner references. `MemoryCluster` (tests) and `LocalCluster` (`ratchet run`) are built on it; a persistence hook hears
every change. Decides nothing about runs, starts nothing, and is synchronous: one caller at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar, cast

from ratchet_api.base import format_time
from ratchet_operator.cluster.protocol import Conflict, Denied, KubeObject, Rejected

T = TypeVar("T")

ObjectKey = tuple[str, str, str]
"""(resource, namespace, name)."""
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]
Hook = Callable[[ChangeType, str, KubeObject], None]
"""Hears every change: type, resource, the object as it is then (a copy of its own)."""

FOREGROUND = "foregroundDeletion"
_APPLIED = ("labels", "annotations", "ownerReferences")
STATUS_RESOURCES = frozenset(
    {"feedbackdatasets", "rltrainingruns", "rlpolicies", "jobs", "pods", "deployments", "httproutes"}
)


class ObjectStore:
    """Objects by (resource, namespace, name), with an API server's rules.

    Args:
        clock: stamps creation and deletion times.
        hook: hears every change, in order; the place for persistence and watches.
        shared: hand objects out without copying them; every caller must then leave them as they are.
    """

    def __init__(self, clock: Callable[[], datetime], hook: Hook | None = None, *, shared: bool = False) -> None:
        self._clock = clock
        self._shared = shared
        self._hook = hook
        self._objects: dict[ObjectKey, KubeObject] = {}
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    def restore(self, objects: Iterable[tuple[str, KubeObject]]) -> None:
        """Take over persisted objects as they are; versions and uids go on above theirs."""
        top = uid = 0
        for resource, obj in objects:
            meta = obj["metadata"]
            self._objects[resource, meta["namespace"], meta["name"]] = clone(obj)
            top = max(top, int(meta["resourceVersion"]))
            uid = max(uid, int(str(meta["uid"]).rsplit("-", 1)[-1], 16))
        self._versions = itertools.count(top + 1)
        self._uids = itertools.count(uid + 1)

    def get(self, resource: str, namespace: str, name: str) -> KubeObject | None:
        """Return a copy of the object, or None."""
        found = self._objects.get((resource, namespace, name))
        return self._copy(found) if found is not None else None

    def select(
        self, resource: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[KubeObject]:
        """Return copies of all objects of the resource with these labels, by namespace and name."""
        wanted = (labels or {}).items()
        return [
            self._copy(obj)
            for key, obj in sorted(self._objects.items(), key=lambda item: item[0])
            if key[0] == resource
            and namespace in (None, key[1])
            and wanted <= (obj["metadata"].get("labels") or {}).items()
        ]

    def create(self, resource: str, manifest: KubeObject) -> KubeObject:
        """Create an object: uid, version, generation 1, no status where that is a subresource.

        Raises:
            Conflict: the name is taken.
            Denied: the manifest has no name or namespace.
        """
        obj = clone(manifest)
        meta = obj.setdefault("metadata", {})
        namespace, name = meta.get("namespace"), meta.get("name")
        if not namespace or not name:
            raise Denied(f"{resource}: metadata.name and metadata.namespace must be set", status=422)
        key = (resource, namespace, name)
        if key in self._objects:
            raise Conflict(f"{resource} {name!r} already exists in namespace {namespace!r}", status=409)
        if resource in STATUS_RESOURCES:
            obj.pop("status", None)
        uid = next(self._uids)
        meta.update(
            uid=f"{uid * 2654435761 % 2**32:08x}-0000-4000-8000-{uid:012x}",
            generation=1,
            creationTimestamp=format_time(self._clock()),
        )
        meta.pop("deletionTimestamp", None)
        self._store("ADDED", key, obj)
        return self._copy(self._objects[key])

    def update(self, resource: str, namespace: str, name: str, patch: Mapping[str, Any]) -> KubeObject:
        """Merge-patch everything but status; generation rises when the spec changed.

        Raises:
            Rejected: no such object (404).
        """
        key = (resource, namespace, name)
        old = self._existing(key)
        new = merge(old, {k: v for k, v in patch.items() if k != "status"})
        for fixed in ("uid", "creationTimestamp", "generation", "resourceVersion", "name", "namespace"):
            new["metadata"][fixed] = old["metadata"][fixed]
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        if new != old:
            self._store("MODIFIED", key, new)
        return self._copy(self._objects[key])

    def apply(self, resource: str, manifest: KubeObject, *, uid: str | None) -> KubeObject:
        """Create the object (uid None), or replace the parts of it that the manifest names; labels are merged.

        Raises:
            Conflict: the name is taken, or it belongs to no object of that uid.
        """
        meta = manifest["metadata"]
        key = (resource, meta["namespace"], meta["name"])
        old = self._objects.get(key)
        if uid is None:
            return self.create(resource, manifest)
        if old is None or old["metadata"]["uid"] != uid:
            raise Conflict(f"{resource} {meta['name']!r} is not the object of uid {uid} any more", status=409)
        parts = {part: clone(value) for part, value in manifest.items() if part not in ("metadata", "status")}
        new = {**old, **parts, "metadata": merge(old["metadata"], {k: v for k, v in meta.items() if k in _APPLIED})}
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        if new != old:
            self._store("MODIFIED", key, new)
        return self._copy(self._objects[key])

    def set_status(
        self, resource: str, obj: KubeObject, status: Mapping[str, Any], *, locked: bool = True
    ) -> KubeObject:
        """Replace the whole status.

        Raises:
            Conflict: `locked` and the object changed since `obj` was read, or was replaced by another of its name.
            Rejected: no such object (404).
        """
        meta = obj["metadata"]
        key = (resource, meta["namespace"], meta["name"])
        stored = self._existing(key)
        if stored["metadata"]["uid"] != meta["uid"]:
            raise Conflict(f"{resource} {meta['name']!r} is another object by now", status=409)
        if locked and stored["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise Conflict(f"{resource} {meta['name']!r} was changed since it was read", status=409)
        new = {**stored, "status": clone(dict(status))}
        if new != stored:
            self._store("MODIFIED", key, new)
        return self._copy(self._objects[key])

    def delete(
        self, resource: str, namespace: str, name: str, *, uid: str | None = None, foreground: bool = False
    ) -> None:
        """Delete the object if it has that uid; gone already is success.

        A pod that still runs is only marked, whoever plays kubelet ends it; a foreground deletion waits for the
        dependents. Dependents are removed by `collect`.
        """
        key = (resource, namespace, name)
        stored = self._objects.get(key)
        if stored is None or (uid is not None and stored["metadata"]["uid"] != uid):
            return
        dependents = foreground and self._dependents(stored)
        running = resource == "pods" and (stored.get("status") or {}).get("phase") not in ("Succeeded", "Failed", None)
        if not dependents and not running:
            self._drop(key)
            return
        meta = dict(stored["metadata"])
        if "deletionTimestamp" in meta:
            return
        meta["deletionTimestamp"] = format_time(self._clock())
        if dependents:
            meta["finalizers"] = [*meta.get("finalizers", []), FOREGROUND]
        self._store("MODIFIED", key, {**stored, "metadata": meta})

    def remove(self, resource: str, namespace: str, name: str) -> None:
        """Remove the object at once, as a kubelet does with a pod that has ended."""
        key = (resource, namespace, name)
        if key in self._objects:
            self._drop(key)

    def collect(self) -> None:
        """Run the garbage collector until nothing changes: orphans of owners that are gone, foreground deletions."""
        while self._collect_once():
            pass

    def snapshot(self) -> dict[ObjectKey, KubeObject]:
        """Return a copy of everything."""
        return self._copy(self._objects)

    def _copy(self, value: T) -> T:
        return value if self._shared else clone(value)

    def _collect_once(self) -> bool:
        changed = False
        live = {obj["metadata"]["uid"]: obj for obj in self._objects.values()}
        for key, obj in list(self._objects.items()):
            meta = obj["metadata"]
            owners = meta.get("ownerReferences") or []
            dying = [
                o
                for o in owners
                if FOREGROUND in (live.get(o["uid"]) or {"metadata": {}})["metadata"].get("finalizers", [])
            ]
            if owners and "deletionTimestamp" not in meta and (dying or all(o["uid"] not in live for o in owners)):
                self.delete(key[0], key[1], key[2], uid=meta["uid"], foreground=bool(dying))
                changed = True
            elif FOREGROUND in meta.get("finalizers", []) and not self._dependents(obj):
                self._drop(key)
                changed = True
        return changed

    def _dependents(self, owner: KubeObject) -> list[KubeObject]:
        uid = owner["metadata"]["uid"]
        return [
            obj
            for obj in self._objects.values()
            if any(ref["uid"] == uid for ref in obj["metadata"].get("ownerReferences") or [])
        ]

    def _existing(self, key: ObjectKey) -> KubeObject:
        if key not in self._objects:
            raise Rejected(f"{key[0]} {key[2]!r} not found in namespace {key[1]!r}", status=404)
        return self._objects[key]

    def _store(self, change: ChangeType, key: ObjectKey, obj: KubeObject) -> None:
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(next(self._versions))}}
        self._objects[key] = obj
        if self._hook is not None:
            self._hook(change, key[0], self._copy(obj))

    def _drop(self, key: ObjectKey) -> None:
        obj = self._objects.pop(key)
        if self._hook is not None:
            self._hook("DELETED", key[0], self._copy(obj))


def clone(value: T) -> T:
    """Copy JSON-like data; several times faster than `copy.deepcopy`, which must expect anything.

    A float without a fraction becomes a whole number, as it does in an API server: 0.0 is stored as 0.
    """
    return cast(T, _clone(value))


def _clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clone(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def merge(old: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386): None removes a key, mappings merge, everything else replaces."""
    if not isinstance(patch, Mapping):
        return clone(patch)
    base = clone(old) if isinstance(old, Mapping) else {}
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result
