"""A stage's nodes find each other through the store and train as one by gloo, over the pods' own addresses.

Decides who may join whom. Each pod of the stage's Job is one node, its rank is its completion index; node 0 leads:

 1. The leader opens a small key-value server on its own address and writes that address into the store, at
    <stage's prefix>/team-<attempt>.json; the others poll for it.
 2. Each node says there which pod it is, again and again until the leader, once all have, writes down the team.
 3. Who stands in the team builds the connections; the address is taken back, since this team takes nobody else. Who
    does not stand in it (a pod that was replaced a moment too late) waits for the next leader, or for the commit.

A team never changes. Whoever dies closes its connections, and the others end with `PeerLost`, whose exit code makes the
Job replace each of them: then a new leader makes a new team, which goes on from the last checkpoint. A node that falls
silent without closing anything is noticed after `seconds`.

No name of a Service is needed and nothing of Kubernetes' API (ADR 0014). Called by `main` for a stage of several nodes.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import structlog
import torch
from torch import Tensor
from torch.distributed import DistError, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]  # it has TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from ratchet_jobs.runtime.errors import PeerLost, Preempted, StoreNotFound
from ratchet_jobs.runtime.store import Store

_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
"""Between two looks into the store; a team whose last pod waits for a node for an hour costs the store little."""
_ANSWER_SECONDS = 10.0
"""How long a leader may take to answer; it is a neighbour."""
_CONNECT_SECONDS = 60.0
"""How long the nodes of a complete team may take to connect; one that died since it was written down never does."""
_TEAM = "team"

log = structlog.get_logger(__name__)


class Node(NamedTuple):
    """One of the pods that do a stage together."""

    rank: int
    size: int
    pod_uid: str
    address: str
    """Where the others reach it."""


@dataclass(slots=True)
class GlooTeam:
    """Nodes that are connected with each other; implements `Team`."""

    rank: int
    size: int
    _group: ProcessGroupGloo | None
    _keys: TCPStore | None
    """Lives as long as the team: the leader's is the server."""

    def sum_(self, tensor: Tensor) -> None:
        """See `Team`; over the host's memory, whatever device the tensor is on."""
        if self._group is None:
            raise PeerLost("the team of this stage was left already; start the stage again")
        ours = tensor.detach().to("cpu", copy=True).contiguous()
        try:
            self._group.allreduce([ours]).wait()  # type: ignore[attr-defined]  # torch's stubs know no collectives
        except RuntimeError as error:  # gloo has no error of its own for it
            raise _lost(error) from error
        with torch.no_grad():
            tensor.copy_(ours)

    def any(self, yes: bool) -> bool:
        """See `Team`."""
        said = torch.tensor([int(yes)])
        self.sum_(said)
        return bool(said.item())

    def number(self, of_first: int) -> int:
        """See `Team`."""
        told = torch.tensor([of_first if self.rank == 0 else 0])
        self.sum_(told)
        return int(told.item())

    def close(self) -> None:
        """Close every connection, by which the others notice."""
        self._group = self._keys = None


def join(
    store: Store,
    key: str,
    node: Node,
    *,
    seconds: float,
    stop: threading.Event,
    committed: Callable[[], bool],
) -> GlooTeam | None:
    """Wait for all nodes of the stage and connect with them.

    There is no limit to the wait but the Job's own deadline: a pod that finds no place yet is no error.

    Args:
        store: of the stage.
        key: where the leader's address stands.
        node: who we are.
        seconds: after which a silent node counts as gone.
        stop: set when the pod must leave.
        committed: tells whether the stage is done already.

    Returns:
        The team; None = the stage is committed, nobody is waited for.

    Raises:
        Preempted: the pod was asked to leave before the team was complete.
        PeerLost: a node went away while the team was being connected.
    """
    waiting = _Wait(stop, committed)
    keys = _lead(store, key, node, waiting) if node.rank == 0 else _follow(store, key, node, waiting)
    if keys is None:
        return None
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # nor this name of the options
    options._timeout = timedelta(seconds=min(seconds, _CONNECT_SECONDS))
    options._devices = [ProcessGroupGloo.create_device(hostname=node.address)]
    try:
        group = ProcessGroupGloo(PrefixStore("gloo", keys), node.rank, node.size, options)
        team = GlooTeam(node.rank, node.size, group, keys)
        team.sum_(torch.zeros(1))  # everybody is there, and the server of keys is needed no more
        group._set_default_timeout(timedelta(seconds=seconds))
    except RuntimeError as error:
        raise _lost(error) from error
    log.info("team is complete", rank=node.rank, size=node.size)
    return team


@dataclass(slots=True)
class _Wait:
    """Pauses, ever longer, that end when there is something better to do."""

    stop: threading.Event
    committed: Callable[[], bool]
    _seconds: float = _PAUSE_SECONDS

    def again(self) -> bool:
        """Pause; False = the stage is committed.

        Raises:
            Preempted: the pod must leave.
        """
        if self.stop.wait(self._seconds):
            raise Preempted("asked to leave while waiting for the other nodes of the stage; nothing was lost")
        self._seconds = min(self._seconds * 1.2, _LONGEST_PAUSE_SECONDS)
        return not self.committed()


def _lead(store: Store, key: str, node: Node, waiting: _Wait) -> TCPStore | None:
    """Open the server, gather the nodes, write down the team."""
    family = socket.AF_INET6 if ":" in node.address else socket.AF_INET
    with socket.create_server((node.address, 0), family=family) as server:
        port = server.getsockname()[1]
        keys = TCPStore(
            node.address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=_ANSWER_SECONDS),
            master_listen_fd=server.detach(),  # else it would listen on every address of the machine
        )
    log.info("waiting for the other nodes of the stage", nodes=node.size)
    others = [_pod_key(rank) for rank in range(1, node.size)]
    try:
        while not keys.check(others):
            if not store.exists(key):  # a leader before us, late in leaving, may have taken ours back for its own
                store.write(key, json.dumps({"address": node.address, "port": port}).encode())
            if not waiting.again():
                return None
        keys.set(_TEAM, json.dumps([node.pod_uid, *(keys.get(name).decode() for name in others)]))
    finally:
        store.delete([key])
    return keys


def _follow(store: Store, key: str, node: Node, waiting: _Wait) -> TCPStore | None:
    """Look for a leader who takes this pod into its team."""
    while True:
        with suppress(DistError, OSError):  # a leader that is gone: its successor will say where it is
            keys = _found(store, key)
            if keys is not None and _taken(keys, node, waiting):
                return keys
        if not waiting.again():
            return None


def _found(store: Store, key: str) -> TCPStore | None:
    """Connect with the leader, if one has said where it is."""
    try:
        said = json.loads(store.read(key))
        address, port = str(said["address"]), int(said["port"])
    except (StoreNotFound, ValueError, KeyError, TypeError):
        return None
    with socket.create_connection((address, port), timeout=_ANSWER_SECONDS):
        pass  # asked first, because the client below writes pages about a server that is not there
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_ANSWER_SECONDS))


def _taken(keys: TCPStore, node: Node, waiting: _Wait) -> bool:
    """Say who we are until the team is written down; tell whether we stand in it."""
    while not keys.check([_TEAM]):
        keys.set(_pod_key(node.rank), node.pod_uid)
        if waiting.stop.wait(_PAUSE_SECONDS):
            return False
    return bool(json.loads(keys.get(_TEAM))[node.rank] == node.pod_uid)


def _pod_key(rank: int) -> str:
    return f"pod/{rank}"


def _lost(error: Exception) -> PeerLost:
    said = str(error).partition("\n")[0][:200]
    return PeerLost(f"another node of the stage is gone ({said}); all nodes start over from the last checkpoint")


def team_key(prefix: str, attempt: int) -> str:
    """Store key at which the leader of an attempt says where it is."""
    return f"{prefix}/team-{attempt}.json"


__all__ = ["GlooTeam", "Node", "join", "team_key"]
