"""`ratchet run`: applies manifests on this machine, runs their Jobs as processes, shows them, and prints the result.

The same command goes on where an interrupted one stopped, and does nothing where everything is done.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Annotated, TextIO

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from ratchet_api.kinds import KINDS
from ratchet_api.stage import GRACE_SECONDS
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_cli.driver import Driver
from ratchet_cli.embedded import local_settings
from ratchet_cli.errors import CliError, Interrupted
from ratchet_cli.home import DEFAULT_NAMESPACE, Home, find_home, log_level
from ratchet_cli.hosting import REFRESH_SECONDS, print_lines, submit, take_signals
from ratchet_cli.manifests import Manifest, load
from ratchet_cli.options import Files, HomeDir, LogLevel, Namespace, Store
from ratchet_cli.results import print_results
from ratchet_cli.screen import out, utc_now
from ratchet_cli.views import view
from ratchet_operator.cluster.local import HomeBusy, LocalCluster
from ratchet_operator.cluster.protocol import KubeObject, Resource
from ratchet_operator.logs import configure
from ratchet_operator.wakes import key_of


def run(
    files: Files,
    namespace: Namespace = None,
    home: HomeDir = None,
    store: Store = None,
    level: LogLevel = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen.")] = False,
) -> None:
    """Run manifests on this machine: no cluster, no S3. Ctrl-C checkpoints; the same command goes on."""
    manifests = load(files)
    place = find_home(home, store)
    again = "ratchet run " + " ".join(f"-f {name}" for name in files)
    bodies = run_manifests(manifests, place, namespace=namespace, level=log_level(level), plain=plain, again=again)
    if not print_results(bodies, place):
        raise typer.Exit(1)


def run_manifests(
    manifests: Sequence[Manifest], place: Home, *, namespace: str | None, level: str, plain: bool, again: str
) -> list[KubeObject]:
    """Apply manifests here and reconcile until they rest.

    Args:
        manifests: what to apply.
        place: state directory and store.
        namespace: for objects that name none.
        level: log level of this process (to a file) and of the stages.
        plain: print lines instead of a live screen.
        again: the command that goes on, for the message after Ctrl-C.

    Returns:
        The objects as they rest.

    Raises:
        CliError: the directory is busy or an object was refused.
        Interrupted: Ctrl-C; everything is saved.
    """
    try:
        place.path.mkdir(parents=True, exist_ok=True)
        with (place.path / "ratchet.log").open("a") as logfile:
            return asyncio.run(_run(manifests, place, namespace or DEFAULT_NAMESPACE, level, plain, again, logfile))
    except HomeBusy as error:
        raise CliError(f"{error}; wait until it ends, or choose another --home") from error
    except OSError as error:
        raise CliError(
            f"{error.filename or place.path}: {error.strerror or error}; choose another --home or --store"
        ) from error


async def _run(
    manifests: Sequence[Manifest], place: Home, namespace: str, level: str, plain: bool, again: str, logfile: TextIO
) -> list[KubeObject]:
    configure(level, stream=logfile)
    classes = {c for m in manifests if (c := getattr(getattr(m.spec, "placement", None), "priority_class_name", None))}
    environment = os.environ | {"RATCHET_LOG_LEVEL": level}
    drivers: list[Driver] = []
    with LocalCluster(place.path, environment=environment, wants=lambda job: drivers[0].wants_job(job)) as cluster:
        driver = Driver(cluster, local_settings(place, level, priority_classes=classes))
        drivers.append(driver)
        keys = submit(cluster, manifests, namespace)
        driver.want(keys)
        for each, key in zip(manifests, keys, strict=True):
            if isinstance(each.spec, RLTrainingRunSpec):
                _check_named(cluster, each, key.namespace, each.spec)
        stop = asyncio.Event()
        force = take_signals(cluster, stop)
        work = asyncio.create_task(driver.run_until_rest(stop, GRACE_SECONDS))
        await (print_lines if plain or not out.is_terminal else _screen)(driver, work, stop)
        rested = await work
        force.clear()
        bodies = driver.wanted_objects()
    if not rested:
        for body in bodies:
            if body["kind"] == "RLTrainingRun":
                out.print(view(body, now=utc_now()))
        raise Interrupted(f"stopped; everything is saved. Go on with: {again}")
    return bodies


def _check_named(cluster: LocalCluster, run: Manifest, namespace: str, spec: RLTrainingRunSpec) -> None:
    """Refuse a run that names what neither the manifests nor the state directory hold: here nobody would bring it."""
    named: list[tuple[str, str, Resource, str]] = [
        ("datasetRef", "FeedbackDataset", "feedbackdatasets", spec.dataset_ref.name)
    ]
    if spec.log_ref is not None:
        named.append((spec.log_field, "FeedbackDataset", "feedbackdatasets", spec.log_ref.name))
    if spec.publish_to is not None:
        named.append(("publishTo", "RLPolicy", "rlpolicies", spec.publish_to.name))
    if spec.start_from is not None and spec.start_from.policy is not None:
        named.append(("startFrom.policy", "RLPolicy", "rlpolicies", spec.start_from.policy.name))
    for field, kind, resource, name in named:
        if cluster.objects.find(resource, namespace, name) is None:
            raise CliError(
                f"{run.source}: {run.title}: spec.{field}.name: no {kind} {name!r} is in these "
                f"manifests or in {cluster.home}; add its manifest with -f"
            )


async def _screen(driver: Driver, work: asyncio.Task[bool], stop: asyncio.Event) -> None:
    with Live(console=out, auto_refresh=False, transient=True) as screen:
        while not work.done():
            screen.update(await _picture(driver, stop), refresh=True)
            await asyncio.wait({work}, timeout=REFRESH_SECONDS)


async def _picture(driver: Driver, stop: asyncio.Event) -> RenderableType:
    live = await driver.live_progress()
    parts: list[RenderableType] = []
    for body in driver.wanted_objects():
        key = key_of(KINDS[body["kind"]].plural, body)
        parts += [view(body, live.get(key), now=utc_now()), Text()]
    if stop.is_set():
        parts.append(Text("checkpointing; Ctrl-C again to lose what is newer than the last checkpoint", style="idle"))
    return Group(*parts)
