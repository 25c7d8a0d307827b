"""A store whose conditional PUT is broken is found out before anything is committed to it (P27)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ratchet_jobs.runtime.errors import BadConfigError, StoreUnavailable
from ratchet_jobs.runtime.probe import ensure_probed, probe_conditional_put
from ratchet_jobs.runtime.store_directory import DirectoryStore


class RacyStore(DirectoryStore):
    """Looks first and writes then; what a race needs between the two is arranged, so that it is lost every time."""

    def __init__(self, root: Path, *, writers: int) -> None:
        super().__init__(root)
        self._all_have_looked = threading.Barrier(writers)

    def create(self, key: str, data: bytes) -> bool:
        free = not self.exists(key)
        self._all_have_looked.wait(timeout=30)
        if free:
            self.write(key, data)
        return free


class IgnorantStore(DirectoryStore):
    """Never heard of If-None-Match: every PUT is a success."""

    def create(self, key: str, data: bytes) -> bool:
        self.write(key, data)
        return True


class LyingStore(DirectoryStore):
    """Tells nobody that it won."""

    def create(self, key: str, data: bytes) -> bool:
        super().create(key, data)
        return False


class SwappingStore(DirectoryStore):
    """Tells one writer that it won and keeps other bytes."""

    def create(self, key: str, data: bytes) -> bool:
        won = super().create(key, data)
        if won:
            self.write(key, b"somebody else's")
        return won


def test_probe_passes_a_store_that_lets_one_writer_win_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """P27."""
    store = DirectoryStore(tmp_path)
    probe_conditional_put(store, prefix="ns/probe")
    assert store.list("ns") == []


@pytest.mark.parametrize(
    ("broken", "want_winners"),
    [
        pytest.param(lambda root: RacyStore(root, writers=32), "32 of 32", id="checks and writes in two steps"),
        pytest.param(IgnorantStore, "32 of 32", id="ignores the condition"),
        pytest.param(LyingStore, "0 of 32", id="refuses everybody"),
        pytest.param(SwappingStore, "1 of 32", id="keeps other bytes than the winner's"),
    ],
)
def test_probe_finds_out_a_store_that(broken: type[DirectoryStore], want_winners: str, tmp_path: Path) -> None:
    """P27: 32 writers at one barrier."""
    with pytest.raises(BadConfigError, match=rf"{want_winners} writers.*If-None-Match.*take another store"):
        probe_conditional_put(broken(tmp_path), prefix="ns/probe")


def test_a_store_that_passed_is_not_probed_again(tmp_path: Path) -> None:
    ensure_probed(DirectoryStore(tmp_path), namespace="ns")
    ensure_probed(IgnorantStore(tmp_path), namespace="ns")
    with pytest.raises(BadConfigError):
        ensure_probed(IgnorantStore(tmp_path), namespace="another-namespace")


def test_whoever_asks_again_gets_todays_answer(tmp_path: Path) -> None:
    """P27: the server behind an address may have become another one since it passed."""
    ensure_probed(DirectoryStore(tmp_path), namespace="ns")
    with pytest.raises(BadConfigError):
        ensure_probed(IgnorantStore(tmp_path), namespace="ns", again=True)


def test_a_store_that_failed_is_probed_again_and_heals(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError):
        ensure_probed(IgnorantStore(tmp_path), namespace="ns")
    ensure_probed(DirectoryStore(tmp_path), namespace="ns")
    assert [info.key for info in DirectoryStore(tmp_path).list("ns")] == ["ns/probe/passed"]


def test_an_outage_during_the_probe_is_an_outage_and_no_verdict(tmp_path: Path) -> None:
    class Down(DirectoryStore):
        def create(self, key: str, data: bytes) -> bool:
            raise StoreUnavailable("503")

    with pytest.raises(StoreUnavailable):
        ensure_probed(Down(tmp_path), namespace="ns")
    assert DirectoryStore(tmp_path).list("ns") == []
