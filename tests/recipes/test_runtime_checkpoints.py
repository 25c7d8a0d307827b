"""A checkpoint exists whole or not at all, and whoever comes next goes on from the newest one (P12)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ratchet_jobs.runtime.checkpoint import KEEP, Checkpoints
from ratchet_jobs.runtime.errors import StoreUnavailable
from ratchet_jobs.runtime.store_directory import DirectoryStore

PREFIX = "ns/runs/r/supervised"


class DyingStore(DirectoryStore):
    """The pod dies at its n-th changing call, before or after the call took effect."""

    def __init__(self, root: Path, *, at: int, after: bool) -> None:
        super().__init__(root)
        self._left, self._after = at, after

    def write(self, key: str, data: bytes) -> None:
        self._strike(lambda: super(DyingStore, self).write(key, data))

    def upload(self, path: Path, key: str) -> None:
        self._strike(lambda: super(DyingStore, self).upload(path, key))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._strike(lambda key=key: super(DyingStore, self).delete([key]))

    def _strike(self, call: Callable[[], None]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise StoreUnavailable("the pod died")
        call()
        if self._left == 0:
            raise StoreUnavailable("the pod died")


def checkpoints(store: DirectoryStore, tmp_path: Path, *, pod: str = "1-aaaa") -> Checkpoints:
    return Checkpoints(store, prefix=PREFIX, directory=f"{PREFIX}/{pod}", scratch=tmp_path / "scratch" / pod)


def save(to: Checkpoints, step: int) -> None:
    def write(folder: Path) -> None:
        (folder / "state.json").write_text(json.dumps({"cursor": step}))
        (folder / "weights.safetensors").write_bytes(bytes([step % 256]) * 64)

    to.save(step, write)


def resumed(store: DirectoryStore, tmp_path: Path) -> int | None:
    """Step that a new pod resumes from, checked against what its files say."""
    found = checkpoints(store, tmp_path, pod="9-next").latest()
    if found is None:
        return None
    assert json.loads((found.folder / "state.json").read_text()) == {"cursor": found.step}
    assert (found.folder / "weights.safetensors").read_bytes() == bytes([found.step % 256]) * 64
    return found.step


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_first_pod_of_a_stage_starts_from_nothing(store: DirectoryStore, tmp_path: Path) -> None:
    assert resumed(store, tmp_path) is None


def test_highest_step_of_any_pod_is_resumed(store: DirectoryStore, tmp_path: Path) -> None:
    save(checkpoints(store, tmp_path, pod="1-aaaa"), 900)
    save(checkpoints(store, tmp_path, pod="2-bbbb"), 1000)  # "1000" sorts before "900" as text
    save(checkpoints(store, tmp_path, pod="3-cccc"), 20)
    assert resumed(store, tmp_path) == 1000


def test_checkpoints_of_other_stages_and_runs_are_not_ours(store: DirectoryStore, tmp_path: Path) -> None:
    for prefix in ("ns/runs/r/supervised-2", "ns/runs/r2/supervised", "ns/runs/r/evaluate"):
        save(Checkpoints(store, prefix=prefix, directory=f"{prefix}/1-x", scratch=tmp_path / "other"), 50)
    assert resumed(store, tmp_path) is None


def test_only_the_newest_are_kept(store: DirectoryStore, tmp_path: Path) -> None:
    mine = checkpoints(store, tmp_path)
    for step in (100, 200, 300, 400):
        save(mine, step)
    left = {info.key.split("/")[-2] for info in store.list(PREFIX)}
    assert left == {"step-300", "step-400"}
    assert len(left) == KEEP


def changing_calls() -> list[int]:
    """Saving a third: two files, the history, the manifest; then the oldest one is deleted, its manifest first."""
    return list(range(1, 9))


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("at", changing_calls())
def test_pod_that_dies_at_any_call_of_a_save_loses_at_most_that_save(tmp_path: Path, at: int, after: bool) -> None:
    """P12: what is resumed is the step being saved or the one before, and it is whole."""
    calm = DirectoryStore(tmp_path / "store")
    for step in (100, 200):
        save(checkpoints(calm, tmp_path), step)
    with pytest.raises(StoreUnavailable):
        save(checkpoints(DyingStore(tmp_path / "store", at=at, after=after), tmp_path), 300)
    manifest_was_written = at > 4 or (at == 4 and after)
    assert resumed(calm, tmp_path) == (300 if manifest_was_written else 200)


def test_a_save_makes_as_many_changing_calls_as_are_tried_above(tmp_path: Path) -> None:
    for step in (100, 200):
        save(checkpoints(DirectoryStore(tmp_path / "store"), tmp_path), step)
    save(checkpoints(DyingStore(tmp_path / "store", at=len(changing_calls()) + 1, after=False), tmp_path), 300)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("weights.safetensors", b"other bytes", id="bytes changed"),
        pytest.param("weights.safetensors", None, id="file gone"),
        pytest.param("MANIFEST.json", b"{", id="manifest is no JSON"),
        pytest.param("MANIFEST.json", b"[]", id="manifest is another JSON"),
        pytest.param("MANIFEST.json", b'{"files": {"../../x": "00"}}', id="manifest names a path outside"),
        pytest.param("MANIFEST.json", b'{"files": 5}', id="manifest lists no files"),
    ],
)
def test_damaged_checkpoint_is_passed_over_for_the_one_before(
    store: DirectoryStore, tmp_path: Path, name: str, content: bytes | None
) -> None:
    mine = checkpoints(store, tmp_path)
    for step in (100, 200):
        save(mine, step)
    key = f"{PREFIX}/1-aaaa/checkpoints/step-200/{name}"
    store.delete([key]) if content is None else store.write(key, content)
    assert resumed(store, tmp_path) == 100


def test_outage_while_looking_is_no_reason_to_start_over(tmp_path: Path) -> None:
    class Down(DirectoryStore):
        def read(self, key: str) -> bytes:
            raise StoreUnavailable("503")

    save(checkpoints(DirectoryStore(tmp_path / "store"), tmp_path), 100)
    with pytest.raises(StoreUnavailable):
        checkpoints(Down(tmp_path / "store"), tmp_path, pod="9-next").latest()


def test_only_safetensors_and_json_are_stored(store: DirectoryStore, tmp_path: Path) -> None:
    """P22: a checkpoint can never make its reader run code."""
    with pytest.raises(ValueError, match=r"optimizer\.pt: only"):
        checkpoints(store, tmp_path).save(1, lambda folder: (folder / "optimizer.pt").write_bytes(b"x"))
    assert store.list(PREFIX) == []


def test_committed_stage_keeps_no_checkpoints_of_any_pod(store: DirectoryStore, tmp_path: Path) -> None:
    for pod in ("1-aaaa", "2-bbbb"):
        save(checkpoints(store, tmp_path, pod=pod), 100)
    store.write(f"{PREFIX}/2-bbbb/head.safetensors", b"result")
    checkpoints(store, tmp_path).clear()
    assert [info.key for info in store.list(PREFIX)] == [f"{PREFIX}/2-bbbb/head.safetensors"]
