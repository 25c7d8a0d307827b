"""One contract for every store: what a directory promises, S3 promises too, and the other way round."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ratchet_api.stage import StoreConfig
from ratchet_jobs.runtime.errors import (
    BadConfigError,
    StoreAccessDenied,
    StoreCorrupt,
    StoreNotFound,
    StoreUnavailable,
)
from ratchet_jobs.runtime.store import Store, download_verified, open_store, resolve_uri, sha256_file
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.contract.s3proxy import DroppingProxy

BUCKET = "ratchet-tests"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """An S3 endpoint on loopback (moto); the lab's tests run the same contract against SeaweedFS."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that moto accepts; nothing is read from the developer's own files."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "tester-secret",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def _bucket(endpoint: str) -> None:
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=BUCKET)


OpenStore = Callable[[str], Store]


@pytest.fixture(params=["directory", "s3", "s3 below a prefix"])
def open_at(request: pytest.FixtureRequest, tmp_path: Path, s3_server: str) -> OpenStore:
    """Open a fresh store of each kind; the argument tells apart two stores over the same objects."""
    if request.param == "directory":
        return lambda _: open_store(StoreConfig(uri=f"file://{tmp_path}/store"), patience_seconds=0)
    _bucket(s3_server)
    prefix = f"/{tmp_path.name}" if request.param == "s3 below a prefix" else ""
    config = StoreConfig(uri=f"s3://{BUCKET}{prefix}", endpoint=s3_server)
    store = open_store(config, patience_seconds=0)
    store.delete([info.key for key in ("ns", "other") for info in store.list(key)])
    return lambda _: open_store(config, patience_seconds=0)


@pytest.fixture
def store(open_at: OpenStore) -> Store:
    """One store."""
    return open_at("first")


def test_what_was_written_is_read_and_a_second_write_replaces_it(store: Store) -> None:
    store.write("ns/a/b.json", b"one")
    store.write("ns/a/b.json", b"two")
    assert store.read("ns/a/b.json") == b"two"


def test_create_lets_the_first_writer_win_and_tells_each_the_truth(open_at: OpenStore) -> None:
    one, two = open_at("one"), open_at("two")
    assert one.create("ns/COMMIT.json", b"from one") is True
    assert two.create("ns/COMMIT.json", b"from two") is False
    assert one.create("ns/COMMIT.json", b"from one") is True, "our own earlier try counts as ours"
    assert two.read("ns/COMMIT.json") == b"from one"


def test_listing_is_sorted_and_ends_at_the_folder(store: Store) -> None:
    for key in ("ns/run/b", "ns/run/a/x", "ns/run-2/c", "ns/runs"):
        store.write(key, key.encode())
    assert [(i.key, i.size) for i in store.list("ns/run")] == [("ns/run/a/x", 10), ("ns/run/b", 8)]
    assert store.list("ns/nothing-here") == []


def test_files_of_any_size_survive_upload_and_download(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for block in range(17):  # above the multipart threshold of 16 MiB
            file.write(bytes([block]) * (1 << 20))
    store.upload(source, "ns/large.bin")
    store.download("ns/large.bin", target)
    assert sha256_file(target) == sha256_file(source)


def test_deleted_objects_are_gone_and_deleting_them_again_is_fine(store: Store) -> None:
    store.write("ns/a", b"x")
    assert store.exists("ns/a")
    store.delete(["ns/a", "ns/a", "ns/never-there"])
    assert not store.exists("ns/a")


def test_missing_object_is_said_with_its_uri(store: Store, tmp_path: Path) -> None:
    for call in (lambda: store.read("ns/missing"), lambda: store.download("ns/missing", tmp_path / "x")):
        with pytest.raises(StoreNotFound, match=r"ns/missing.*does not exist"):
            call()


@pytest.mark.parametrize("key", ["../x", "ns/../../x", "/etc/passwd", "ns//x", "ns/./x", "", "ns/a\\b", "ns/\0"])
def test_keys_cannot_leave_the_store(store: Store, key: str) -> None:
    with pytest.raises(BadConfigError, match="segments must not"):
        store.write(key, b"x")


@pytest.mark.parametrize(
    ("uri", "want"),
    [
        pytest.param("store://data/train.csv", "ns/data/train.csv", id="store:// lies below the namespace"),
        pytest.param("store://../other/secret.csv", None, id="another namespace cannot be reached (P21)"),
        pytest.param("store://data/../../other/x", None, id="not in the middle either"),
        pytest.param("s3://somebody-elses-bucket/x", None, id="only the configured bucket"),
    ],
)
def test_uris_of_manifests_stay_in_the_namespace_and_the_store(store: Store, uri: str, want: str | None) -> None:
    def resolve() -> str:
        return resolve_uri(uri, store=store, namespace="ns", field="spec.source.objects[0].uri")

    if want is not None:
        assert resolve() == want
        return
    with pytest.raises(BadConfigError, match=r"spec\.source\.objects\[0\]\.uri"):
        resolve()


def test_changed_bytes_are_noticed_and_not_left_behind(store: Store, tmp_path: Path) -> None:
    store.write("ns/a", b"what somebody else put there")
    with pytest.raises(StoreCorrupt, match=r"ns/a: sha256 is [0-9a-f]{64}, recorded was ffff"):
        download_verified(store, "ns/a", tmp_path / "a", sha256="f" * 64)
    assert not (tmp_path / "a").exists()


def test_32_writers_at_one_barrier_make_exactly_one_record(open_at: OpenStore) -> None:
    """P27: the probe that a store must pass for commits to be safe."""
    barrier = threading.Barrier(32)
    answers: list[bool] = []

    def write(number: int) -> None:
        mine = open_at(str(number))
        barrier.wait()
        answers.append(mine.create("ns/raced", f"writer {number}".encode()))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 31 + [True]


# --- a directory alone --------------------------------------------------------------------------------------------


def test_what_was_created_and_deleted_at_once_was_ours_and_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P30: an erasure may replace a segment while the gateway's disk still flushes it; written again, it were back."""
    store, fsync = DirectoryStore(tmp_path), os.fsync

    def slow(handle: int) -> None:
        fsync(handle)
        store.delete(["ns/log/segment"])

    monkeypatch.setattr("ratchet_jobs.runtime.store_directory.os.fsync", slow)
    assert store.create("ns/log/segment", b"bytes") is True
    assert store.list("ns") == []


# --- S3 alone -----------------------------------------------------------------------------------------------------


def test_create_whose_answer_was_lost_is_still_ours(s3_server: str) -> None:
    """P26: the server carries the PUT out, the answer never arrives, the retry is told 412."""
    _bucket(s3_server)
    with DroppingProxy(s3_server, drop_answers_to=("PUT",), times=1) as proxy:
        store = open_store(StoreConfig(uri=f"s3://{BUCKET}", endpoint=proxy.url), patience_seconds=30)
        assert store.create("ns/ambiguous", b"writer 7") is True
        assert proxy.dropped == 1
    assert store_at(s3_server).read("ns/ambiguous") == b"writer 7"


def test_short_outage_is_waited_out(s3_server: str) -> None:
    _bucket(s3_server)
    store_at(s3_server).write("ns/there", b"x")
    with DroppingProxy(s3_server, drop_answers_to=("GET",), times=2) as proxy:
        store = open_store(StoreConfig(uri=f"s3://{BUCKET}", endpoint=proxy.url), patience_seconds=30)
        assert store.read("ns/there") == b"x"
        assert proxy.dropped == 2


def test_no_server_is_unavailable_and_names_the_endpoint() -> None:
    store = open_store(StoreConfig(uri=f"s3://{BUCKET}", endpoint="http://127.0.0.1:9"), patience_seconds=0)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        store.read("ns/a")


def test_missing_bucket_is_named(s3_server: str) -> None:
    store = open_store(StoreConfig(uri="s3://no-such-bucket", endpoint=s3_server), patience_seconds=0)
    with pytest.raises(StoreNotFound, match="no-such-bucket"):
        store.write("ns/a", b"x")


def test_missing_credentials_are_said(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreAccessDenied, match="AWS_ACCESS_KEY_ID"):
        store_at(s3_server).read("ns/a")


def test_an_object_that_is_deleted_while_a_directory_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(StoreConfig(uri=tmp_path.as_uri()), patience_seconds=0)
    for name in "ab":
        store.write(f"ns/{name}", b"1")
    walked = list((tmp_path / "ns").rglob("*"))
    monkeypatch.setattr(Path, "rglob", lambda *_: iter(walked))
    store.delete(["ns/a"])
    assert [info.key for info in store.list("ns")] == ["ns/b"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_here_is_not_called_an_outage_of_s3(s3_server: str, tmp_path: Path) -> None:
    _bucket(s3_server)
    store = open_store(StoreConfig(uri=f"s3://{BUCKET}", endpoint=s3_server), patience_seconds=0)
    store.write("ns/a", b"1" * 100_000)
    with pytest.raises(OSError, match="No space left") as full, store._explained("ns/a"):  # type: ignore[attr-defined]
        Path("/dev/full").write_bytes(store.read("ns/a"))
    assert not isinstance(full.value, StoreUnavailable)


@pytest.mark.parametrize("name", ["my data", "größe", "a%20b", "a#b"])
def test_a_directory_of_any_name_is_the_one_that_its_uri_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    store = open_store(StoreConfig(uri=folder.as_uri()), patience_seconds=0)
    store.write("ns/a", b"1")
    assert (folder / "ns" / "a").read_bytes() == b"1"
    assert store.uri == folder.as_uri()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("uri", ["ftp://x/y", "s3://", "file://relative", "/plain/path"])
def test_other_store_uris_are_refused_with_the_two_that_work(uri: str) -> None:
    with pytest.raises(BadConfigError, match=r"expected s3://BUCKET.*file:///"):
        open_store(StoreConfig(uri=uri), patience_seconds=0)


def store_at(endpoint: str) -> Store:
    """The S3 store without a proxy between."""
    return open_store(StoreConfig(uri=f"s3://{BUCKET}", endpoint=endpoint), patience_seconds=0)
