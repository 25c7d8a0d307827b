"""The feedback gateway inside `ratchet up`: the cluster's own application, put together for one machine.

Decides where its signing key is kept (made at the first start, in the state directory), that policies are those of the
directory, that erasures which were asked for are carried out here, and how it is ended. Never decides about feedback.
Imported by `up_verb` alone, since it needs the gateway's packages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from ratchet_api.kinds import Kind
from ratchet_api.signing import BadKey, KeyRing
from ratchet_api.stage import StoreConfig
from ratchet_cli.erasing import finish_pending
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.home import Home
from ratchet_gateway.app import Parts, create_app
from ratchet_gateway.auth import Anyone, ApiKeys, Authenticator, BadKeyFile
from ratchet_gateway.datasets import LocalDatasets
from ratchet_gateway.policies import LocalPolicies
from ratchet_gateway.settings import Settings, is_loopback
from ratchet_gateway.training import LocalTraining
from ratchet_jobs.feedback_log.newer import NewerEvents
from ratchet_jobs.runtime.errors import BadConfigError, StageError, StoreError
from ratchet_jobs.runtime.store import Store, open_store
from ratchet_operator.cluster.local import CountFeedback, LocalCluster
from ratchet_operator.cluster.protocol import Denied, Resource
from ratchet_operator.wakes import OUR_RESOURCES

DRAIN_SECONDS = 10.0
"""How long the end waits for a store that does not confirm; what was acknowledged is stored already."""
ERASE_SECONDS = 2.0
"""How often it is looked whether somebody is to be erased: one small listing."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in, and from where.

    Attributes:
        host: address that is listened on.
        keys: file of API keys; None = everybody on this machine.
        way: how callers are known.
    """

    host: str
    keys: Path | None
    way: Authenticator

    @classmethod
    def of(cls, host: str, keys: Path | None) -> Access:
        """Take the options of the command.

        Raises:
            UsageProblem: strangers would be let in, or the file cannot be used.
        """
        if keys is None:
            if not is_loopback(host):
                raise UsageProblem(
                    f"--host {host!r}: without API keys the gateway listens on loopback only; use 127.0.0.1, or give "
                    "--keys FILE"
                )
            return cls(host, None, Anyone())
        try:
            return cls(host, keys, ApiKeys(keys, time.monotonic))
        except BadKeyFile as error:
            raise UsageProblem(f"--keys: {error}") from error

    @property
    def words(self) -> str:
        """Who is let in, for people."""
        return "no token, this machine only" if self.keys is None else f"API keys of {self.keys}"


class LocalGateway:
    """The gateway on a socket of this process.

    Args:
        cluster: whose policies it knows.
        place: state directory and store.
        namespace: of policies and log.
        access: who is let in.
        door: listens already.

    Raises:
        CliError: the store or a signing key cannot be used.
    """

    def __init__(
        self, cluster: LocalCluster, place: Home, *, namespace: str, access: Access, door: socket.socket
    ) -> None:
        self.failure = ""
        """Why it ended by itself; empty when it was told to."""
        self._door = door
        settings = Settings(
            store=_store(place),
            namespace=namespace,
            signing_keys=signing_keys(place.path),
            auth=("none",) if access.keys is None else ("keys",),
            keys_file=access.keys,
            host=access.host,
            port=door.getsockname()[1],
            follow_seconds=0,  # nobody else writes this log
            drain_seconds=DRAIN_SECONDS,
        )
        self.url = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
        try:
            parts = Parts(
                store=open_store(settings.store, patience_seconds=0),
                ring=KeyRing.from_directory(settings.signing_keys),
                policies=LocalPolicies(lambda name: cluster.objects.find("rlpolicies", namespace, name)),
                ways=(access.way,),
                training=_training(cluster, namespace),
                datasets=LocalDatasets(
                    lambda: (
                        each
                        for each in cluster.objects.find_all("feedbackdatasets")
                        if each["metadata"]["namespace"] == namespace
                    )
                ),
            )
        except (BadConfigError, BadKey) as error:
            raise CliError(str(error)) from error
        cluster.count_feedback = counts_of(parts.store, namespace)
        self._store, self._namespace, self._cluster = parts.store, namespace, cluster
        self._server = _Server(
            uvicorn.Config(
                create_app(settings, parts),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=round(DRAIN_SECONDS),
            )
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Answer until `stop` is set, then finish what was accepted; or end with `failure` set."""
        beside = [asyncio.create_task(self._end(stop)), asyncio.create_task(self._erase())]
        try:
            await self._server.serve(sockets=[self._door])
        finally:
            for task in beside:
                task.cancel()
        if not stop.is_set():
            self.failure = "it could not start" if not self._server.started else "its server stopped"

    async def _end(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._server.should_exit = True

    async def _erase(self) -> None:
        """Carry out what was asked of the gateway; in a cluster a program of its own does."""
        objects = _Hosted(self._cluster, self._namespace, asyncio.get_running_loop())
        while True:
            await asyncio.sleep(ERASE_SECONDS)
            try:
                done = await asyncio.to_thread(
                    finish_pending, self._store, self._namespace, objects, now=lambda: datetime.now(UTC)
                )
            except (StageError, CliError, OSError) as error:  # whatever was cut short is done again
                log.warning("erasing failed", extra={"error": str(error)})
                continue
            for report in done:
                log.info("erased", extra={"id": report.id, "events": report.events, "segments": report.segments})


class _Hosted:
    """The objects of this process, for the eraser's thread: a change is made when the call returns.

    By the inbox it would be made up to half a second later, and what two erasures mark on one policy would come to the
    marks of the second: it starts from those that it reads.
    """

    def __init__(self, cluster: LocalCluster, namespace: str, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop on which the operator works; objects change on no other thread."""
        self._cluster, self._namespace, self._loop = cluster, namespace, loop

    def list(self, kind: Kind[Any, Any]) -> Sequence[dict[str, Any]]:
        """Return all objects of the kind."""
        found = self._there(self._cluster.objects.find_all, _resource(kind.plural))
        return [each for each in found if each["metadata"]["namespace"] == self._namespace]

    def patch(self, kind: Kind[Any, Any], name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the object."""
        self._there(self._cluster.objects.patch, _resource(kind.plural), self._namespace, name, patch)

    def _there(self, call: Callable[..., Result], *arguments: Any) -> Result:
        async def run() -> Result:
            return call(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()


class _Server(uvicorn.Server):
    """A server that leaves Ctrl-C to the command that hosts it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def signing_keys(home: Path) -> Path:
    """Return the directory of signing keys, with a first key made if there is none.

    Kept with the state: interaction ids that were handed out, and pseudonyms in the log, hold after a restart.
    """
    folder = home / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not any(each for each in folder.iterdir() if not each.name.startswith(".")):
        name = datetime.now(UTC).strftime("%Y-%m")
        new = folder / f".{name}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        new.replace(folder / name)
    return folder


def counts_of(store: Store, namespace: str) -> CountFeedback:
    """Return what tells the operator of this process how many events are new, without asking over HTTP."""
    newer = NewerEvents(store, namespace)

    def count(asked: str, policy: str, since: datetime) -> int | str:
        if asked != namespace:
            return f"the gateway of this process is for namespace {namespace!r}"
        try:
            return newer.count(policy, since, now=datetime.now(UTC))
        except StoreError as error:
            return f"the log cannot be read: {error}"

    return count


def _training(cluster: LocalCluster, namespace: str) -> LocalTraining:
    """Runs that are asked for over HTTP go where manifests go; the operator beside takes them on."""

    def submit(body: dict[str, Any]) -> str:
        return cluster.submit({**body, "metadata": {**body["metadata"], "namespace": namespace}})

    def find(plural: str, name: str) -> Mapping[str, Any] | None:
        return cluster.objects.find(_resource(plural), namespace, name)

    return LocalTraining(submit, find, (Denied,))


def _resource(plural: str) -> Resource:
    return next(each for each in OUR_RESOURCES if each == plural)


def _store(place: Home) -> StoreConfig:
    return StoreConfig(
        uri=place.store_uri,
        endpoint=os.environ.get("RATCHET_STORE_ENDPOINT") or None,
        region=os.environ.get("RATCHET_STORE_REGION") or "us-east-1",
    )
