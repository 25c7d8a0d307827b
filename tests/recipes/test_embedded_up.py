"""`ratchet up` hosts operator and gateway together: what comes later is taken on, and one end saves what both hold."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.client import GatewayClient
from ratchet_api.kinds import KINDS, RL_POLICY, RL_TRAINING_RUN
from ratchet_cli.driver import Driver
from ratchet_cli.embedded import local_settings
from ratchet_cli.errors import CliError
from ratchet_cli.home import find_home
from ratchet_cli.local import LocalBackend
from ratchet_cli.up_gateway import Access, LocalGateway
from ratchet_cli.up_verb import listen, serve
from ratchet_jobs.runtime.store_directory import DirectoryStore
from ratchet_operator.cluster.local import LocalCluster
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
