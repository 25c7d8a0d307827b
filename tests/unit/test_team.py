"""How a stage's nodes find each other: whoever is there in the end is the team, and nobody waits for the dead."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from ratchet_jobs.runtime.errors import PeerLost, Preempted
from ratchet_jobs.runtime.gloo import GlooTeam, Node, join, team_key
from ratchet_jobs.runtime.store_directory import DirectoryStore

KEY = team_key("ns/runs/r/rl", 1)


class Pod(threading.Thread):
    """One node in a thread of its own."""

    def __init__(self, store: DirectoryStore, rank: int, uid: str = "", *, size: int = 2) -> None:
        super().__init__(daemon=True)
        self.node = Node(rank, size, uid or f"pod-{rank}", "127.0.0.1")
        self.store = store
        self.asked = threading.Event()
        self.looks = 0
        self.committed_at = 10**6
        """At which look into the store the stage is committed."""
        self.team: GlooTeam | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.team = join(self.store, KEY, self.node, seconds=60, stop=self.asked, committed=self.look)
        except BaseException as error:
            self.error = error

    def look(self) -> bool:
        self.looks += 1
        return self.looks >= self.committed_at

    def ended(self) -> Pod:
        self.join(90)
        assert not self.is_alive()
        return self


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def teams(*pods: Pod) -> list[GlooTeam]:
    found = [pod.ended().team for pod in pods]
    assert [pod.error for pod in pods] == [None] * len(pods)
    return [team for team in found if team is not None]


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Let each member of a team make its call; returns what came of them, errors too."""
    found: dict[int, object] = {}

    def call(place: int) -> None:
        try:
            found[place] = calls[place]()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=call, args=(place,), daemon=True) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return [found[place] for place in range(len(calls))]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nodes_come_in_any_order_and_compute_as_one(store: DirectoryStore) -> None:
    last = Pod(store, 2, size=3)
    members = teams(Pod(store, 1, size=3), Pod(store, 0, size=3), last)
    assert len(members) == 3
    tensors = [torch.full((4,), float(team.rank + 1)) for team in members]
    at_once(
        *(lambda team=team, tensor=tensor: team.sum_(tensor) for team, tensor in zip(members, tensors, strict=True))
    )  # type: ignore[misc]
    assert all(torch.equal(tensor, torch.full((4,), 6.0)) for tensor in tensors)
    assert at_once(*(lambda team=team: team.any(team.rank == 1) for team in members)) == [True] * 3  # type: ignore[misc]
    assert at_once(*(lambda team=team: team.any(False) for team in members)) == [False] * 3  # type: ignore[misc]
    assert at_once(*(lambda team=team: team.number(7 + team.rank) for team in members)) == [7] * 3  # type: ignore[misc]
    assert store.list("ns") == [], "the address is taken back: this team takes nobody else"


def test_a_pod_that_left_while_others_wait_is_replaced_by_the_next_of_its_index(store: DirectoryStore) -> None:
    leader, early = Pod(store, 0, size=3), Pod(store, 1, "early", size=3)
    until(lambda: store.exists(KEY))
    early.asked.set()
    assert isinstance(early.ended().error, Preempted)
    assert len(teams(leader, Pod(store, 1, "late", size=3), Pod(store, 2, size=3))) == 3


def test_a_leader_that_left_while_others_wait_is_replaced_too(store: DirectoryStore) -> None:
    first = Pod(store, 0, "first", size=3)
    other = Pod(store, 1, size=3)
    until(lambda: store.exists(KEY))
    first.asked.set()
    assert isinstance(first.ended().error, Preempted)
    assert len(teams(Pod(store, 0, "second", size=3), other, Pod(store, 2, size=3))) == 3


def test_a_dead_leaders_address_keeps_nobody_from_the_next(store: DirectoryStore) -> None:
    store.write(KEY, b'{"address": "127.0.0.1", "port": 1}')
    member = Pod(store, 1)
    until(lambda: member.looks >= 1)
    store.delete([KEY])
    assert len(teams(Pod(store, 0), member)) == 2


def test_who_comes_after_the_team_is_complete_waits_for_the_stages_commit(store: DirectoryStore) -> None:
    """Node 0 commits and never leads again; a node replaced a moment before must not wait for it for ever."""
    members = teams(Pod(store, 0), Pod(store, 1))
    assert members[0]._keys is not None
    address = {"address": "127.0.0.1", "port": members[0]._keys.port}
    store.write(KEY, json.dumps(address).encode())  # as if it had been read a moment before it was taken back
    late = Pod(store, 1, "late")
    until(lambda: late.looks >= 2)
    assert late.is_alive()
    late.committed_at = late.looks + 1
    assert (late.ended().team, late.error) == (None, None)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_node_that_is_gone_is_noticed_by_the_others_at_once(store: DirectoryStore, gone: int) -> None:
    """P12: the error's exit code is that of a preemption, so the whole team is replaced and goes on together."""
    members = teams(Pod(store, 0), Pod(store, 1))
    members[gone].close()
    (error,) = at_once(lambda: members[1 - gone].sum_(torch.zeros(3)))
    assert isinstance(error, PeerLost)
    assert isinstance(error, Preempted)
    assert "all nodes start over from the last checkpoint" in str(error)


def test_a_silent_node_is_noticed_when_its_time_is_over(store: DirectoryStore) -> None:
    members = teams(Pod(store, 0), Pod(store, 1))
    assert members[0]._group is not None
    members[0]._group._set_default_timeout(timedelta(seconds=0.3))
    (error,) = at_once(lambda: members[0].sum_(torch.zeros(3)))
    assert isinstance(error, PeerLost)
