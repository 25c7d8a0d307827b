"""Hosts an embedded run with fake stages: inside a test, or as a process of its own that a test can kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ratchet_api.kinds import KINDS
from ratchet_cli.driver import Driver
from ratchet_cli.embedded import local_settings
from ratchet_cli.home import find_home
from ratchet_operator.cluster.local import LocalCluster
from ratchet_operator.wakes import Key

FAKE_STAGE = (sys.executable, str(Path(__file__).parent / "fake_stage.py"))
WAIT_SECONDS = 120.0


def manifests(name: str = "run", **spec: Any) -> list[dict[str, Any]]:
    """A dataset and a run over it."""
    inline = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]
    dataset = {"type": "classification", "source": {"inline": inline}}
    base = {"uri": "store://model", "sha256": "0" * 64}
    run = {"policyType": "classifier", "baseModel": base, "datasetRef": {"name": "data"}, **spec}
    return [_object("FeedbackDataset", "data", dataset), _object("RLTrainingRun", name, run)]


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "ratchet.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


class Host:
    """One home directory with a plan for its fake stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.plan_file = folder / "plan.json"

    def plan(self, **acts: list[str]) -> None:
        """Say what each start of a stage does."""
        self.plan_file.write_text(json.dumps(acts))

    def starts(self) -> list[str]:
        """Stages in the order in which their processes started."""
        path = Path(f"{self.plan_file}.starts")
        return path.read_text().split() if path.exists() else []

    def waiting_pids(self) -> list[int]:
        """Pids of the fake stages that came to wait."""
        path = Path(f"{self.plan_file}.waiting")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def release(self) -> None:
        """Let stages whose act is `until` commit."""
        Path(f"{self.plan_file}.release").touch()

    def cluster(self, drivers: list[Driver]) -> LocalCluster:
        """Open the home; `drivers` is filled in by the caller."""
        return LocalCluster(
            self.home,
            environment=os.environ | {"FAKE_STAGE": str(self.plan_file)},
            wants=lambda job: drivers[0].wants_job(job),
            command=FAKE_STAGE,
        )

    async def run(
        self,
        bodies: list[dict[str, Any]],
        *,
        meanwhile: Callable[[LocalCluster, asyncio.Event], Awaitable[None]] | None = None,
        grace_seconds: float = 20.0,
    ) -> tuple[bool, dict[str, dict[str, Any]]]:
        """Submit, run until rest; returns whether it rested, and the objects by kind."""
        drivers: list[Driver] = []
        with self.cluster(drivers) as cluster:
            driver = Driver(cluster, local_settings(find_home(str(self.home), environ={}), "info"))
            drivers.append(driver)
            for body in bodies:
                cluster.submit(body)
            driver.want(Key(KINDS[b["kind"]].plural, "default", b["metadata"]["name"]) for b in bodies)
            stop = asyncio.Event()
            async with asyncio.timeout(WAIT_SECONDS):
                work = asyncio.create_task(driver.run_until_rest(stop, grace_seconds))
                if meanwhile is not None:
                    await meanwhile(cluster, stop)
                rested = await work
            return rested, {str(each["kind"]): each for each in driver.wanted_objects()}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something outside this process has happened."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(Host(Path(sys.argv[1])).run(manifests()))
