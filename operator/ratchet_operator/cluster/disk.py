"""Objects in JSON files, with the semantics of an API server that reconciling relies on.

Decides names of files and when uid, generation and resourceVersion change; collects dependents of a removed owner.
Never runs anything. One writer at a time (`cluster.local` holds the lock); readers may read the files at any time,
because each is replaced in one step. Used by `cluster.local` and, read-only, by the CLI.
"""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ratchet_api.base import format_time
from ratchet_operator.cluster.processes import write_json
from ratchet_operator.cluster.protocol import Conflict, KubeObject, Rejected, Resource

_NAME_LIMIT = 200
Watcher = Callable[[Resource, KubeObject, bool], None]
"""Told (resource, object, whether it is gone) after each change."""
_Key = tuple[str, str, str]


def object_path(home: Path, resource: str, namespace: str, name: str) -> Path:
    """Return the file of an object; names too long for a file are cut and told apart by a hash."""
    stem = (
        name if len(name) <= _NAME_LIMIT else f"{name[:_NAME_LIMIT]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    )
    return home / "objects" / resource / namespace / f"{stem}.json"


def read_objects(home: Path, resource: str, namespace: str | None = None) -> list[KubeObject]:
    """Read the objects of one resource from the files, sorted by name; half-written ones do not exist."""
    folder = home / "objects" / resource
    found = []
    for path in sorted(folder.glob(f"{namespace or '*'}/*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except FileNotFoundError:  # removed between listing and reading
            continue
    return sorted(found, key=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"]))


class DiskObjects:
    """The table of all objects below one state directory.

    Args:
        home: the state directory.
        now: the clock, for creation times.
    """

    def __init__(self, home: Path, now: Callable[[], datetime]) -> None:
        self._home = home
        self._now = now
        self._objects: dict[_Key, KubeObject] = {}
        self._watchers: list[Watcher] = []
        self._version = 0
        for folder in (home / "objects").glob("*"):
            for each in read_objects(home, folder.name):
                meta = each["metadata"]
                self._objects[(folder.name, meta["namespace"], meta["name"])] = each
                self._version = max(self._version, int(meta["resourceVersion"]))

    def watch(self, watcher: Watcher) -> None:
        """Tell a function about every change from now on."""
        self._watchers.append(watcher)

    def find(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """Return a copy of the object, or None."""
        return copy.deepcopy(self._objects.get((resource, namespace, name)))

    def find_all(self, resource: Resource) -> list[KubeObject]:
        """Return copies of every object of the resource, sorted by namespace and name."""
        keys = sorted(key for key in self._objects if key[0] == resource)
        return [copy.deepcopy(self._objects[key]) for key in keys]

    def insert(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """Store a new object.

        Raises:
            Conflict: one of that name exists.
        """
        new = copy.deepcopy(manifest)
        meta = new["metadata"]
        if (resource, meta["namespace"], meta["name"]) in self._objects:
            raise Conflict(f"{resource} {meta['namespace']}/{meta['name']} exists already", status=409)
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": format_time(self._now()), "generation": 1}
        return self._store(resource, new)

    def merge(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """Apply a manifest: create it, or replace what it names; an equal one changes nothing."""
        meta = manifest["metadata"]
        old = self._objects.get((resource, meta["namespace"], meta["name"]))
        if old is None:
            return self.insert(resource, manifest)
        new = copy.deepcopy(old)
        for field, value in manifest.items():
            if field not in ("metadata", "status"):
                new[field] = copy.deepcopy(value)
        for field in ("labels", "annotations"):
            if field in meta:
                new["metadata"][field] = {**new["metadata"].get(field, {}), **meta[field]}
        if "ownerReferences" in meta:
            new["metadata"]["ownerReferences"] = copy.deepcopy(meta["ownerReferences"])
        return self._replace(resource, old, new)

    def patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> KubeObject | None:
        """Merge a JSON merge patch (RFC 7386) into the object; None if it is gone."""
        old = self._objects.get((resource, namespace, name))
        return None if old is None else self._replace(resource, old, _merge_patch(copy.deepcopy(old), patch))

    def set_status(self, resource: Resource, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """Replace the status; an object that is gone is left alone."""
        old = self._objects.get((resource, namespace, name))
        if old is not None:
            self._replace(resource, old, {**copy.deepcopy(old), "status": copy.deepcopy(dict(status))})

    def lock_status(self, resource: Resource, seen: KubeObject, status: Mapping[str, Any]) -> KubeObject:
        """Replace the status if the object is still the one that was seen.

        Raises:
            Conflict: it changed, or its name belongs to another object.
            Rejected: it is gone (404).
        """
        meta = seen["metadata"]
        old = self._objects.get((resource, meta["namespace"], meta["name"]))
        if old is None:
            raise Rejected(f"{resource} {meta['namespace']}/{meta['name']} is gone", status=404)
        if any(old["metadata"][f] != meta[f] for f in ("resourceVersion", "uid")):
            raise Conflict(f"{resource} {meta['namespace']}/{meta['name']} changed since it was read", status=409)
        return self._replace(resource, old, {**copy.deepcopy(old), "status": copy.deepcopy(dict(status))})

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Remove the object and everything it owns; Jobs among that are only marked, their runner removes them."""
        old = self._objects.pop((resource, namespace, name), None)
        if old is None:
            return
        object_path(self._home, resource, namespace, name).unlink(missing_ok=True)
        self._tell(resource, old, gone=True)
        for (kind, *_), each in list(self._objects.items()):
            if any(owner["uid"] == old["metadata"]["uid"] for owner in each["metadata"].get("ownerReferences", [])):
                self.end(kind, each)

    def end(self, resource: str, obj: KubeObject) -> None:
        """Delete an object as a client does: a Job is marked, anything else goes at once."""
        meta = obj["metadata"]
        if resource == "jobs":
            if "deletionTimestamp" not in meta:
                self.patch(
                    "jobs",
                    meta["namespace"],
                    meta["name"],
                    {"metadata": {"deletionTimestamp": format_time(self._now())}},
                )
            return
        self.remove(resource, meta["namespace"], meta["name"])  # type: ignore[arg-type]  # a key of ours

    def _replace(self, resource: Resource, old: KubeObject, new: KubeObject) -> KubeObject:
        if new == old:
            return copy.deepcopy(old)
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = int(old["metadata"].get("generation", 1)) + 1
        return self._store(resource, new)

    def _store(self, resource: Resource, new: KubeObject) -> KubeObject:
        meta = new["metadata"]
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        path = object_path(self._home, resource, meta["namespace"], meta["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, new)
        self._objects[(resource, meta["namespace"], meta["name"])] = new
        self._tell(resource, new, gone=False)
        return copy.deepcopy(new)

    def _tell(self, resource: Resource, obj: KubeObject, *, gone: bool) -> None:
        for watcher in self._watchers:
            watcher(resource, copy.deepcopy(obj), gone)


def _merge_patch(target: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_patch(result.get(key), value)
    return result
