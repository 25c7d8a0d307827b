"""Writes a Lease every 30 seconds; the watches must show it.

Decides when a beat is due, nothing else: `health` judges. A beat that the API server does not accept is logged and
tried again at the next turn, so an outage of the API never counts as a dead watch. The Lease is no lock: two
operators may write the same one, each sees both, and both stay alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from ratchet_api.names import LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGED_BY
from ratchet_operator.cluster.protocol import ClusterError, KubeObject
from ratchet_operator.health import Health

_log = structlog.get_logger(__name__)

LEASE_NAME = "ratchet-operator-heartbeat"
EVERY_SECONDS = 30.0
LIMIT_SECONDS = 180.0
"""A stored beat that is not seen for this long ends the process; with the pause between beats, under four minutes."""


def lease(*, namespace: str, holder: str, now: datetime, every_seconds: float) -> KubeObject:
    """Return the Lease of one beat."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": LEASE_NAME,
            "namespace": namespace,
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: "heartbeat"},
        },
        "spec": {
            "holderIdentity": holder,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "leaseDurationSeconds": max(1, round(every_seconds * 2)),
        },
    }


class Heartbeat:
    """The beating and the seeing of one operator.

    Args:
        store: applies a Lease.
        health: hears of stored and seen beats.
        namespace: where the Lease lives; it must be watched.
        holder: our pod's name, unique among operators.
        every_seconds: pause between beats.
    """

    def __init__(
        self,
        store: Callable[[KubeObject], Awaitable[KubeObject]],
        health: Health,
        *,
        namespace: str,
        holder: str,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._store = store
        self._health = health
        self._namespace = namespace
        self._holder = holder
        self._every = every_seconds
        self._seen = ""  # newest stamp that the watch showed
        self._awaited = ""  # oldest stored stamp that it has not shown yet

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            await self.beat()
            await asyncio.sleep(self._every)

    async def beat(self) -> None:
        """Write one beat; a refusal is logged."""
        manifest = lease(
            namespace=self._namespace, holder=self._holder, now=datetime.now(UTC), every_seconds=self._every
        )
        stamp = manifest["spec"]["renewTime"]
        try:
            await self._store(manifest)
        except ClusterError as error:
            _log.warning("heartbeat_not_stored", namespace=self._namespace, error=str(error))
            self._health.beat_refused()
            return
        # The watch may have shown it before the answer to the write came.
        if stamp > self._seen and not self._awaited:
            self._awaited = stamp
            self._health.beat_stored()

    def saw(self, obj: Mapping[str, Any]) -> None:
        """Take a Lease from the watch; only a beat of ours that is at least as new as the awaited one counts."""
        spec = obj.get("spec") or {}
        if obj["metadata"]["name"] != LEASE_NAME or spec.get("holderIdentity") != self._holder:
            return
        stamp = str(spec.get("renewTime", ""))
        self._seen = max(self._seen, stamp)
        if stamp >= self._awaited:
            self._awaited = ""
            self._health.beat_seen()
