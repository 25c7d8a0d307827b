"""The S3 store against a real server that others run, too: SeaweedFS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet_api.stage import StoreConfig
from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.errors import StoreAccessDenied, StoreNotFound
from ratchet_jobs.runtime.probe import probe_conditional_put
from ratchet_jobs.runtime.store import Store, open_store, sha256_file
from tests.contract.s3proxy import DroppingProxy
from tests.contract.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, SeaweedServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def store_at(endpoint: str, *, bucket: str = BUCKET, patience_seconds: float = 60) -> Store:
    return open_store(StoreConfig(uri=f"s3://{bucket}/lab", endpoint=endpoint), patience_seconds=patience_seconds)


def test_first_create_wins_and_every_writer_is_told_the_truth(seaweed: SeaweedServer) -> None:
    one, two = store_at(seaweed.endpoint), store_at(seaweed.endpoint)
    assert one.create("ns/COMMIT.json", b"from one") is True
    assert two.create("ns/COMMIT.json", b"from two") is False
    assert one.create("ns/COMMIT.json", b"from one") is True, "our own earlier try counts as ours"
    assert two.read("ns/COMMIT.json") == b"from one"


def test_create_whose_answer_was_lost_is_still_ours(seaweed: SeaweedServer) -> None:
    """P26."""
    with DroppingProxy(seaweed.endpoint, drop_answers_to=("PUT",), times=1) as proxy:
        assert store_at(proxy.url).create("ns/ambiguous", b"writer 7") is True
        assert proxy.dropped == 1
    assert store_at(seaweed.endpoint).read("ns/ambiguous") == b"writer 7"


def test_create_that_somebody_else_won_while_our_answer_was_lost_is_not_ours(seaweed: SeaweedServer) -> None:
    """P26: no false win either."""
    store_at(seaweed.endpoint).create("ns/taken", b"writer 1")
    with DroppingProxy(seaweed.endpoint, drop_answers_to=("PUT",), times=1) as proxy:
        assert store_at(proxy.url).create("ns/taken", b"writer 2") is False


def test_32_writers_at_one_barrier_make_exactly_one_record(seaweed: SeaweedServer) -> None:
    """P27, the good case; broken servers are in test_store_probe."""
    store = store_at(seaweed.endpoint)
    probe_conditional_put(store, prefix="ns/probe")
    assert store.list("ns/probe") == []


def test_large_files_travel_in_parts_and_arrive_whole(seaweed: SeaweedServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for block in range(33):  # three parts of 16 MiB
            file.write(bytes([block]) * (1 << 20))
    store = store_at(seaweed.endpoint)
    store.upload(source, "ns/large.bin")
    assert [(info.key, info.size) for info in store.list("ns") if info.key == "ns/large.bin"] == [
        ("ns/large.bin", 33 << 20)
    ]
    store.download("ns/large.bin", tmp_path / "target")
    assert sha256_file(tmp_path / "target") == sha256_file(source)


def test_wrong_credentials_are_named_as_such(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    store = store_at(seaweed.endpoint, patience_seconds=0)
    for call in (lambda: store.read("ns/x"), lambda: store.write("ns/x", b""), lambda: store.list("ns")):
        with pytest.raises(StoreAccessDenied, match="Secret"):
            call()


def test_missing_bucket_is_named(seaweed: SeaweedServer) -> None:
    with pytest.raises(StoreNotFound, match="bucket not-there"):
        store_at(seaweed.endpoint, bucket="not-there", patience_seconds=0).read("ns/x")


def test_a_server_that_dies_for_a_minute_loses_no_checkpoint(
    seaweed: SeaweedServer, tmp_path: Path, time_scale: float
) -> None:
    """P12's half in the store: the save waits for the server, and what was saved before is still there."""
    store = store_at(seaweed.endpoint, patience_seconds=300)
    checkpoints = Checkpoints(store, prefix="ns/run/s", directory="ns/run/s/1-pod", scratch=tmp_path)
    checkpoints.save(100, lambda folder: _write(folder, 100))
    seaweed.stop()
    saving = threading.Thread(target=checkpoints.save, args=(200, lambda folder: _write(folder, 200)))
    saving.start()
    time.sleep(60 * time_scale)
    assert saving.is_alive(), "the save waits"
    seaweed.start()
    saving.join(timeout=250)
    assert not saving.is_alive()
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, (found.folder / "state.json").read_text()) == (200, '{"step": 200}')


def _write(folder: Path, step: int) -> None:
    (folder / "state.json").write_text(f'{{"step": {step}}}')
