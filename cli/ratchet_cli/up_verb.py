"""`ratchet up`: the whole of Ratchet on this machine until Ctrl-C, operator and gateway in one process.

Decides which address is listened on, who is let in, and the order of start and end. The operator's passes are those of
`ratchet run` over every object of the state directory; the gateway is the cluster's own, on the same store. Without API
keys it asks for no token, and then listens on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratchet_api.stage import GRACE_SECONDS
from ratchet_cli.driver import Driver
from ratchet_cli.embedded import local_settings
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.home import DEFAULT_NAMESPACE, Home, find_home, log_level
from ratchet_cli.hosting import print_lines, submit, take_signals
from ratchet_cli.manifests import load
from ratchet_cli.options import HomeDir, LogLevel, Namespace, Store
from ratchet_cli.screen import out, say
from ratchet_operator.cluster.local import HomeBusy, LocalCluster
from ratchet_operator.logs import configure
from ratchet_operator.settings import Settings
from ratchet_operator.wakes import OUR_RESOURCES

if TYPE_CHECKING:
    from ratchet_cli.up_gateway import Access, LocalGateway


def up(
    files: Annotated[
        list[str] | None,
        typer.Option("-f", "--filename", help="Manifests to apply first: file, folder or -; may be repeated."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the gateway; 0 takes any free one.", min=0, max=65_535)] = 8000,
    host: Annotated[
        str, typer.Option(help="Address of the gateway; another than loopback needs --keys.")
    ] = "127.0.0.1",
    keys: Annotated[
        Path | None,
        typer.Option(help="JSON file of API keys. If omitted, no token is asked for.", metavar="FILE"),
    ] = None,
    namespace: Namespace = None,
    home: HomeDir = None,
    store: Store = None,
    level: LogLevel = None,
) -> None:
    """Run operator and feedback gateway on this machine until Ctrl-C, which saves everything."""
    place, chosen = find_home(home, store), log_level(level)
    manifests = load(files) if files else []
    try:
        from ratchet_cli.up_gateway import Access, LocalGateway
    except ModuleNotFoundError as error:
        raise CliError(
            f"ratchet up: package {error.name!r} is missing; install ratchet with the extras jobs, gateway and cli"
        ) from error
    access = Access.of(host, keys)
    space = namespace or DEFAULT_NAMESPACE
    try:
        place.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            configure(chosen, stream=held.enter_context((place.path / "ratchet.log").open("a")))
            environment = os.environ | {"RATCHET_LOG_LEVEL": chosen}
            cluster = held.enter_context(LocalCluster(place.path, environment=environment))
            door = held.enter_context(listen(host, port))
            gateway = LocalGateway(cluster, place, namespace=space, access=access, door=door)
            submit(cluster, manifests, space)
            _greet(cluster, place, space, gateway.url, access)
            asyncio.run(_up(cluster, gateway, local_settings(place, chosen, priority_classes=_classes(cluster))))
        say("stopped; everything is saved. `ratchet up` goes on", style="idle")
    except HomeBusy as error:
        raise CliError(
            f"{error}; submit to that one with `ratchet submit --local -f …`, end it, or choose another --home"
        ) from error
    except OSError as error:
        raise CliError(
            f"{error.filename or place.path}: {error.strerror or error}; choose another --home or --store"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that nobody else has.

    Raises:
        UsageProblem: this machine has no such address.
        CliError: the port is taken or may not be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (socket.gaierror, UnicodeError) as error:  # no such name, and nothing that could be one
        raise UsageProblem(f"--host {host!r}: {error}; give an address of this machine") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CliError(f"--port {port}: another program listens on {host}:{port}; choose another --port") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageProblem(f"--host {host!r}: is no address of this machine; use 127.0.0.1") from error
        raise CliError(f"--port {port}: {error.strerror}; choose another --port") from error


async def _up(cluster: LocalCluster, gateway: LocalGateway, settings: Settings) -> None:
    stop = asyncio.Event()
    take_signals(cluster, stop)
    await serve(Driver(cluster, settings, everything=True), gateway, stop)
    if gateway.failure:
        raise CliError(f"the gateway ended: {gateway.failure}; see {cluster.home / 'ratchet.log'}")


async def serve(driver: Driver, gateway: LocalGateway, stop: asyncio.Event) -> None:
    """Run operator and gateway until `stop` is set or one of them ends; then end both in order.

    Stages checkpoint while the gateway answers what it accepted, so neither waits for the other.
    """
    work = asyncio.create_task(driver.run_until_stopped(stop, GRACE_SECONDS))
    door = asyncio.create_task(gateway.serve(stop))
    both = asyncio.gather(work, door)
    shown = asyncio.create_task(print_lines(driver, both, stop))
    try:
        await asyncio.wait({work, door}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        await asyncio.gather(both, shown)


def _greet(cluster: LocalCluster, place: Home, namespace: str, url: str, access: Access) -> None:
    """Say where everything is, and what to do when there is nothing yet."""
    out.print(f"[good]up[/]   [name]{url}[/]  ({access.words})  review: {url}/review  API: {url}/docs", soft_wrap=True)
    say(f"home {place.path}, store {place.store_uri}, namespace {namespace}, log {place.path / 'ratchet.log'}")
    if not any(each["metadata"]["namespace"] == namespace for each in cluster.objects.find_all("rlpolicies")):
        say("no policy yet, so no feedback can be taken: ratchet submit --local -f POLICY.yaml", style="idle")
    say("Ctrl-C ends it and saves everything")


def _classes(cluster: LocalCluster) -> set[str]:
    """Return every priority class that an object names; on this machine they mean nothing."""
    found = (
        each["spec"].get("placement", {}).get("priorityClassName")
        for resource in OUR_RESOURCES
        for each in cluster.objects.find_all(resource)
    )
    return {name for name in found if name}
