"""Hosts the operator's own reconciler in this process: the same passes as in a cluster, over a `LocalCluster`.

Decides which objects a command is about (what it submitted, what those name, what their policies stamp) and when they
have come to rest; with `everything`, all objects of the directory, whenever they come. Never decides about runs. Used
by `ratchet run`, `ratchet up`, `ratchet demo` and the local verbs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ratchet_api.conditions import Reason
from ratchet_api.kinds import KINDS
from ratchet_operator.cluster.local import LocalCluster
from ratchet_operator.cluster.protocol import Denied, KubeObject, Resource
from ratchet_operator.logs import pass_context
from ratchet_operator.queue import KeyedQueue
from ratchet_operator.reconcile import Reconciler
from ratchet_operator.settings import Settings
from ratchet_operator.wakes import OUR_RESOURCES, Key, dependents, key_of, keys_to_wake, references

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
RESYNC = timedelta(seconds=30)
NEEDS_SOMEBODY = frozenset({Reason.DATASET_FAILED, Reason.DATASET_NOT_FOUND, Reason.POLICY_NOT_FOUND})
"""Why a run waits for something that only a changed manifest brings; in a cluster somebody may bring it at any time."""
_KIND_OF = {kind.plural: kind.kind for kind in KINDS.values()}


class Driver:
    """Reconciles the wanted objects of a local cluster.

    Args:
        cluster: the local cluster; its lock is held.
        settings: as of an operator.
        everything: want all objects, those that come later too.
    """

    def __init__(self, cluster: LocalCluster, settings: Settings, *, everything: bool = False) -> None:
        self._cluster, self._everything = cluster, everything
        self._rng = random.Random()
        self._reconciler = Reconciler(cluster, settings, lambda: datetime.now(UTC), self._rng)
        self._queue: KeyedQueue[Key] = KeyedQueue(self._pass, workers=4, rng=self._rng, observer=_Log())
        self._wanted: set[Key] = set()
        cluster.watch(self._changed)
        if everything:
            self.want(
                key_of(resource, each) for resource in OUR_RESOURCES for each in cluster.objects.find_all(resource)
            )

    def want(self, keys: Iterable[Key]) -> None:
        """Add objects to those that are reconciled, with everything that they name."""
        for key in keys:
            if key not in self._wanted:
                self._wanted.add(key)
                self._queue.mark(key, after=timedelta(milliseconds=1))
                found = self._cluster.objects.find(_resource(key), key.namespace, key.name)
                if found is not None:
                    self.want(references(key.plural, found))

    def wants_job(self, job: KubeObject) -> bool:
        """Tell whether a Job works for a wanted object."""
        return any(key in self._wanted for key in keys_to_wake("jobs", job))

    def wanted_objects(self) -> list[KubeObject]:
        """Return the wanted objects that exist: datasets, then runs, then policies."""
        ordered = sorted(self._wanted, key=lambda key: (OUR_RESOURCES.index(_resource(key)), key))
        found = (self._cluster.objects.find(_resource(key), key.namespace, key.name) for key in ordered)
        return [each for each in found if each is not None]

    async def settle(self) -> None:
        """Do the passes that are due now, without running any Job."""
        queue = asyncio.create_task(self._queue.run())
        try:
            async with asyncio.timeout(30):
                await asyncio.sleep(0.01)
                await self._queue.settled()
        finally:
            self._queue.stop()
            await queue

    async def run_until_rest(self, stop: asyncio.Event, grace_seconds: float) -> bool:
        """Reconcile and run Jobs until every wanted object rests.

        Args:
            stop: set it to checkpoint and leave early.
            grace_seconds: how long stages may take to checkpoint.

        Returns:
            Whether they came to rest (False: stopped before).
        """
        return await self._run(stop, grace_seconds, until=self._at_rest)

    async def run_until_stopped(self, stop: asyncio.Event, grace_seconds: float) -> None:
        """Reconcile and run Jobs as an operator does; arguments as for `run_until_rest`."""
        await self._run(stop, grace_seconds, until=lambda: False)

    async def _run(self, stop: asyncio.Event, grace_seconds: float, *, until: Callable[[], bool]) -> bool:
        queue = asyncio.create_task(self._queue.run())
        self._cluster.start()
        resync = asyncio.get_running_loop().time() + RESYNC.total_seconds()
        try:
            await asyncio.sleep(0.01)  # a rest that an earlier command left is looked at once more
            while not stop.is_set():
                self._read_inbox()
                if until():
                    return True
                if asyncio.get_running_loop().time() > resync:
                    resync += RESYNC.total_seconds()
                    for key in self._wanted:
                        self._queue.mark(key)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), POLL_SECONDS)
            return False
        finally:
            self._queue.stop()
            await self._cluster.stop(grace_seconds)
            await queue

    async def live_progress(self) -> dict[Key, dict[str, Any]]:
        """Ask the running pods of wanted objects how far they are: owner -> stage -> progress document."""
        found: dict[Key, dict[str, Any]] = {}
        for pod in self._cluster.objects.find_all("pods"):
            owners = [key for key in keys_to_wake("pods", pod) if key in self._wanted]
            if owners and pod.get("status", {}).get("phase") == "Running":
                seen = await self._cluster.progress(pod)
                if seen is not None:
                    found.setdefault(owners[0], {})[str(seen.get("stage"))] = dict(seen)
        return found

    def _at_rest(self) -> bool:
        if self._queue.waiting or self._queue.in_work or self._cluster.runner.live:
            return False
        wanted = self.wanted_objects()
        held = {_place(each) for each in wanted if each["kind"] == "FeedbackDataset" and "Suspended" in _true(each)}
        return all(at_rest(each) or not held.isdisjoint(_waits_for(each)) for each in wanted)

    def _changed(self, resource: Resource, obj: KubeObject, gone: bool) -> None:
        keys = keys_to_wake(resource, obj)
        if resource in OUR_RESOURCES:
            known = [(r, each) for r in OUR_RESOURCES for each in self._cluster.objects.find_all(r)]
            keys += dependents(key_of(resource, obj), known)
            if not gone and self._everything:
                self.want([key_of(resource, obj)])
            elif not gone:
                self._adopt_stamped(resource, obj)
        for key in keys:
            if key in self._wanted:
                self._queue.mark(key)

    def _adopt_stamped(self, resource: Resource, obj: KubeObject) -> None:
        """A run that a wanted policy stamped from its template is wanted too."""
        owners = obj["metadata"].get("ownerReferences", [])
        namespace = obj["metadata"]["namespace"]
        if any(Key("rlpolicies", namespace, owner["name"]) in self._wanted for owner in owners):
            self.want([key_of(resource, obj)])

    async def _pass(self, key: Key) -> timedelta | None:
        with pass_context(kind=key.plural, namespace=key.namespace, name=key.name):
            return await self._reconciler.reconcile(key)

    def _read_inbox(self) -> None:
        for path in sorted((self._cluster.home / "inbox").glob("*.json")):
            try:
                edit = json.loads(path.read_text())
                apply_edit(self._cluster, edit)
                if edit["op"] == "apply":  # whoever works here takes it on
                    self.want([Key(edit["resource"], edit["namespace"], edit["name"])])
            except (OSError, ValueError, KeyError, Denied) as error:
                log.error("edit %s cannot be used: %s", path.name, error)
            path.unlink(missing_ok=True)


class _Log:
    """Says in the log what the queue met."""

    def depth_changed(self, waiting: int, in_work: int) -> None:
        """Nothing to say."""

    def pass_ended(
        self, key: Key, *, waited_seconds: float, took_seconds: float, error: Exception | None, retry_seconds: float
    ) -> None:
        """Log a failed pass with its traceback."""
        if error is not None:
            log.warning("pass over %s failed, again in %.1f s: %s", key, retry_seconds, error, exc_info=error)


def at_rest(body: KubeObject) -> bool:
    """Tell whether an object waits for nothing that this machine will do by itself."""
    status = body.get("status", {})
    if status.get("observedGeneration") != body["metadata"].get("generation"):
        return False
    true = _true(body)
    if body["kind"] == "RLTrainingRun":
        return bool(true.keys() & {"Complete", "Failed", "Suspended", "Stalled"}) or (
            true.get("Reconciling") in NEEDS_SOMEBODY
        )
    return body["kind"] == "RLPolicy" or bool(true.keys() & {"Ready", "Stalled", "Suspended"})


def _true(body: KubeObject) -> dict[str, str]:
    """The object's conditions that are True, with their reasons."""
    return {c["type"]: c["reason"] for c in body.get("status", {}).get("conditions", []) if c["status"] == "True"}


def _place(body: KubeObject) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _waits_for(body: KubeObject) -> set[tuple[str, str]]:
    """The datasets of a run that waits for one."""
    if body["kind"] != "RLTrainingRun" or _true(body).get("Reconciling") != Reason.WAITING_FOR_DATASET:
        return set()
    return {(key.namespace, key.name) for key in references("rltrainingruns", body) if key.plural == "feedbackdatasets"}


def apply_edit(cluster: LocalCluster, edit: dict[str, Any]) -> None:
    """Carry out one change that a local verb asked for.

    Raises:
        KeyError: the edit lacks a field.
        Denied: the object may not be changed so.
    """
    resource, namespace, name = edit["resource"], edit["namespace"], edit["name"]
    if edit["op"] == "apply":
        cluster.submit(edit["body"])
        return
    if edit["op"] == "delete":
        found = cluster.objects.find(resource, namespace, name)
        if found is not None:
            cluster.objects.end(resource, found)
        return
    cluster.objects.patch(resource, namespace, name, edit["patch"])


def inbox_path(home: Path) -> Path:
    """Return where edits for a running driver are put."""
    return home / "inbox"


def _resource(key: Key) -> Resource:
    return next(resource for resource in OUR_RESOURCES if resource == key.plural)
