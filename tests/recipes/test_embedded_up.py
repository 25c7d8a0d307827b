"""`ratchet up` hosts operator and gateway together: what comes later is taken on, and one end saves what both hold."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet_api.client import GatewayClient
from ratchet_api.erasure import ErasureReport
from ratchet_api.kinds import KINDS, RL_POLICY, RL_TRAINING_RUN
from ratchet_api.names import ANNOTATION_ERASED
from ratchet_cli.driver import Driver
from ratchet_cli.embedded import local_settings
from ratchet_cli.erasing import Marked, mark
from ratchet_cli.errors import CliError
from ratchet_cli.home import find_home
from ratchet_cli.local import LocalBackend
from ratchet_cli.up_gateway import Access, LocalGateway
from ratchet_cli.up_verb import listen, serve
from ratchet_jobs.runtime.store import Store
from ratchet_jobs.runtime.store_directory import DirectoryStore
from ratchet_operator.cluster.local import LocalCluster, is_owned
from tests.gateway_app import read_log
from tests.recipes.embedded_host import FAKE_STAGE, WAIT_SECONDS, Host, manifests, until

POLICY = {
    "apiVersion": "ratchet.dev/v1alpha1",
    "kind": "RLPolicy",
    "metadata": {"name": "router", "namespace": "default"},
    "spec": {"type": "classifier"},
}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@dataclass
class Running:
    """What a user of a running `ratchet up` has."""

    url: str
    backend: LocalBackend

    async def submit(self, *bodies: dict[str, Any]) -> list[str]:
        """As `ratchet submit --local` does, from another process."""
        return [await asyncio.to_thread(self.backend.apply, KINDS[body["kind"]], body) for body in bodies]

    async def state(self, name: str) -> str:
        body = await asyncio.to_thread(self.backend.get, RL_TRAINING_RUN, name)
        return str((body or {}).get("status", {}).get("state", ""))

    async def come_to(self, name: str, state: str) -> None:
        while await self.state(name) != state:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def up(host: Host) -> AsyncIterator[Running]:
    """Operator with fake stages and gateway, until the block ends; then both end as on Ctrl-C."""
    place = find_home(str(host.home), environ={})
    environment = os.environ | {"FAKE_STAGE": str(host.plan_file)}
    with (
        LocalCluster(host.home, environment=environment, command=FAKE_STAGE) as cluster,
        listen("127.0.0.1", 0) as door,
    ):
        gateway = LocalGateway(cluster, place, namespace="default", access=Access.of("127.0.0.1", None), door=door)
        driver = Driver(cluster, local_settings(place, "info"), everything=True)
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(driver, gateway, stop))
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                (host.home / "objects").mkdir(exist_ok=True)
                yield Running(gateway.url, LocalBackend(place, "default"))
            finally:
                stop.set()
                await serving
        assert gateway.failure == ""


async def test_a_manifest_that_is_submitted_while_it_runs_is_trained_and_its_policy_takes_feedback(host: Host) -> None:
    host.plan()
    async with up(host) as running:
        assert await running.submit(POLICY, *manifests()) == ["created"] * 3
        await running.come_to("run", "Complete")
        assert await running.submit(POLICY) == ["unchanged"]
        with pytest.raises(CliError, match=r"has started with another spec; spec\.seed cannot change"):
            await running.submit(manifests(seed=7)[1])

        def send() -> int:
            with GatewayClient(running.url) as client:
                client.send({"type": "thumbs_up", "policy": "router"})
                return client.stats("router").events

        assert await asyncio.to_thread(send) == 1


async def test_a_run_that_is_asked_for_over_http_is_trained_and_published_here(host: Host) -> None:
    """The quick reference's train_policy on a laptop, with stages that only keep the contract."""
    host.plan()
    template = {"baseModel": {"uri": "store://model", "sha256": "0" * 64}, "datasetRef": {"name": "unused"}}
    policy = POLICY | {"spec": {"type": "classifier", "training": {"template": template}}}
    async with up(host) as running:
        await running.submit(policy)

        def ask() -> str:
            with GatewayClient(running.url) as client:
                rated = {"type": "rating", "policy": "router", "rating": 5, "prompt": "q", "response": "a"}
                client.send_all([rated] * 12)
                return client.train("router").run_name

        name = await asyncio.to_thread(ask)
        await running.come_to(name, "Complete")
        with GatewayClient(running.url) as client:
            said = await asyncio.to_thread(client.training, "router", name)
        assert (said.status, said.version) == ("trained", 1)


async def test_a_person_whose_erasure_is_asked_for_over_http_is_erased_here(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P30: the request alone does it; nobody has to run a command."""
    monkeypatch.setattr("ratchet_cli.up_gateway.ERASE_SECONDS", 0.05)
    host.plan()
    async with up(host) as running:
        await running.submit(POLICY)

        def ask() -> str:
            with GatewayClient(running.url) as client:
                for who in ("anna", "bert"):
                    client.send({"type": "comment", "comment": f"{who} was here", "policy": "router", "subject": who})
                return client.erase("anna").id

        name = await asyncio.to_thread(ask)
        proof = host.home / "store" / "default" / "erasures" / name / "report.json"
        await until(proof.exists)
    assert [event["comment"] for event in read_log(DirectoryStore(host.home / "store"), "default")] == ["bert was here"]


async def test_what_two_erasures_mark_on_one_policy_stays_when_they_come_at_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P30: the second starts from the marks of the first."""
    learned = {"a" * 64: 1, "b" * 64: 2}
    done: list[ErasureReport] = []

    def erase_two(
        store: Store, namespace: str, backend: Marked, *, now: Callable[[], datetime]
    ) -> Sequence[ErasureReport]:
        if not done:
            done.extend(mark(backend, proof(now()), {digest}) for digest in learned)
        return ()

    monkeypatch.setattr("ratchet_cli.up_gateway.ERASE_SECONDS", 0.05)
    monkeypatch.setattr("ratchet_cli.up_gateway.finish_pending", erase_two)
    host.plan()
    with LocalCluster(host.home) as cluster:
        cluster.submit(POLICY)
        versions = [version(number, digest) for digest, number in learned.items()]
        cluster.objects.set_status("rlpolicies", "default", "router", {"versions": versions, "nextVersion": 3})
    async with up(host) as running:
        await until(lambda: len(done) == 2)
        (body,) = running.backend.list(RL_POLICY)
    assert [report.versions for report in done] == [("router@1",), ("router@2",)]
    assert body["metadata"]["annotations"][ANNOTATION_ERASED] == "1,2"


def version(number: int, digest: str) -> dict[str, Any]:
    """A version that learned from a snapshot, and whose run is gone."""
    made = {"uri": f"file:///gone/{number}", "digest": f"{number}" * 64, "datasetDigest": digest}
    return {"version": number, "run": "gone", "runUid": "u", "published": "2026-01-01T00:00:00Z"} | made


def proof(now: datetime) -> ErasureReport:
    """Of an erasure, before anything is marked."""
    nothing: dict[str, Any] = {"answers": 0, "events": 0, "segments": 0, "snapshots": (), "left": 0}
    return ErasureReport(id="a" * 32, subjects=("h",), requested=now, finished=now, **nothing)


async def test_what_was_submitted_is_there_when_the_command_returns(host: Host) -> None:
    """Feedback on a policy that was created is taken, however long ago the running command looked into its inbox."""
    host.plan()
    async with up(host) as running:
        for name in ("one", "two", "three"):
            assert await running.submit(POLICY | {"metadata": {"name": name, "namespace": "default"}}) == ["created"]

            def send(name: str = name) -> bool:
                with GatewayClient(running.url) as client:
                    return client.send({"type": "thumbs_up", "policy": name}).duplicate

            assert not await asyncio.to_thread(send)
        suspend = {"metadata": {"annotations": {"said": "so"}}}
        await asyncio.to_thread(running.backend.patch, RL_POLICY, "one", suspend)
        (one, *_) = running.backend.list(RL_POLICY)
        assert one["metadata"]["annotations"]["said"] == "so"
        assert list((host.home / "inbox").iterdir()) == []


def test_a_change_that_meets_a_short_verb_is_made_when_that_ended(host: Host) -> None:
    """`ratchet suspend` in two terminals: the other one reads no inbox, and would never make our change."""
    with LocalCluster(host.home) as cluster:
        cluster.submit(POLICY)
        backend = LocalBackend(find_home(str(host.home), environ={}), "default")
        with ThreadPoolExecutor(1) as pool:
            patched = pool.submit(backend.patch, RL_POLICY, "router", {"metadata": {"labels": {"ours": "too"}}})
            await_file(host.home / "inbox")
            cluster.__exit__()
            patched.result(WAIT_SECONDS)
    (body,) = backend.list(RL_POLICY)
    assert body["metadata"]["labels"] == {"ours": "too"}
    assert list((host.home / "inbox").iterdir()) == []


def test_a_manifest_for_a_command_that_ends_before_it_reads_it_is_refused_and_not_kept(host: Host) -> None:
    with LocalCluster(host.home) as cluster, ThreadPoolExecutor(1) as pool:
        (host.home / "objects").mkdir()
        backend = LocalBackend(find_home(str(host.home), environ={}), "default")
        submitted = pool.submit(backend.apply, RL_POLICY, POLICY)
        await_file(host.home / "inbox")
        cluster.__exit__()
        with pytest.raises(CliError, match="nobody works in"):
            submitted.result(WAIT_SECONDS)
    assert list((host.home / "inbox").iterdir()) == []


def test_a_command_that_does_not_look_into_its_inbox_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet_cli.local._TAKEN_SECONDS", 0.1)
    with LocalCluster(host.home):
        (host.home / "objects").mkdir()
        backend = LocalBackend(find_home(str(host.home), environ={}), "default")
        with pytest.raises(CliError, match=f"'router': process {os.getpid()}, .* did not take the change on"):
            backend.apply(RL_POLICY, POLICY)
    assert len(list((host.home / "inbox").iterdir())) == 1, "the next command makes it"


def await_file(folder: Path) -> None:
    """Wait until something is handed over."""
    end = time.monotonic() + WAIT_SECONDS
    while not list(folder.glob("*.json")):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_asks_whether_somebody_works_here_is_no_owner(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ratchet status` holds the lock for the moment in which it asks; `ratchet up` starts all the same."""
    host.home.mkdir()
    with (host.home / "lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr("ratchet_operator.cluster.local.time", SimpleNamespace(sleep=lambda _: asking.close()))
        with LocalCluster(host.home):
            assert is_owned(host.home)


async def test_one_end_lets_stages_checkpoint_and_keeps_every_event_and_the_next_start_goes_on(host: Host) -> None:
    """P12 and P24 on a laptop."""
    host.plan(supervised=["wait", "commit"])
    async with up(host) as running:
        await running.submit(POLICY, *manifests())
        await until(lambda: bool(host.waiting_pids()))
        with GatewayClient(running.url) as client:
            await asyncio.to_thread(client.send, {"type": "comment", "comment": "kept", "policy": "router"})
    assert await running.state("run") == "Running"
    assert [event["comment"] for event in read_log(DirectoryStore(host.home / "store"), "default")] == ["kept"]
    keys = sorted((host.home / "keys").iterdir())
    async with up(host) as running:
        await running.come_to("run", "Complete")
    assert host.starts().count("supervised") == 2
    assert sorted((host.home / "keys").iterdir()) == keys, "ids that were signed before still hold"


def test_without_a_running_command_a_manifest_is_refused_since_nobody_would_run_it(host: Host) -> None:
    (host.home / "objects").mkdir(parents=True)
    backend = LocalBackend(find_home(str(host.home), environ={}), "default")
    with pytest.raises(CliError, match=r"nobody works in .*; start `ratchet up` first"):
        backend.apply(RL_POLICY, POLICY)
