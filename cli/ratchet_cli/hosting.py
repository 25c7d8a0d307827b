"""What the commands share that host the operator's reconciler: manifests in, signals, lines of progress out.

Decides words and what Ctrl-C means; never which objects are reconciled or when a command ends. Used by `ratchet run`
and `ratchet up`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from ratchet_cli.driver import Driver
from ratchet_cli.errors import CliError
from ratchet_cli.manifests import Manifest
from ratchet_cli.screen import out, say, state_text, utc_now
from ratchet_cli.views import progress_note
from ratchet_operator.cluster.local import LocalCluster
from ratchet_operator.cluster.protocol import Denied
from ratchet_operator.wakes import Key

REFRESH_SECONDS = 0.5


def submit(cluster: LocalCluster, manifests: Sequence[Manifest], namespace: str) -> list[Key]:
    """Apply manifests to the state directory and print what came of each; return their keys, in order.

    Args:
        cluster: its lock is held.
        manifests: what to apply.
        namespace: for objects that name none.

    Raises:
        CliError: a run has started with another spec.
    """
    keys = []
    for each in manifests:
        body = {**each.body, "metadata": {"namespace": namespace, **each.body["metadata"]}}
        body.pop("status", None)
        if not each.namespace:
            body["metadata"]["namespace"] = namespace
        try:
            word = cluster.submit(body)
        except Denied as error:
            raise CliError(f"{each.source}: {error}") from error
        out.print(f"{each.kind.singular}/[name]{escape(each.name)}[/] ", state_text(word))
        keys.append(Key(each.kind.plural, body["metadata"]["namespace"], each.name))
    return keys


def take_signals(cluster: LocalCluster, stop: asyncio.Event) -> list[bool]:
    """First Ctrl-C: checkpoint and leave. A second one: kill what is left."""
    loop, pressed = asyncio.get_running_loop(), [True]

    def asked() -> None:
        if stop.is_set() and pressed:
            cluster.runner.kill()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    return pressed


async def print_lines(driver: Driver, work: asyncio.Future[Any], stop: asyncio.Event) -> None:
    """Print a line per change of state and per tenth of progress, until the work has ended."""
    seen: dict[str, str] = {}
    while not work.done():
        await asyncio.wait({work}, timeout=REFRESH_SECONDS)
        live = await driver.live_progress()
        for body in driver.wanted_objects():
            status = body.get("status", {})
            line = f"{status.get('state', '')} {status.get('stage', '')}".strip()
            _say_once(seen, f"{body['kind']}/{body['metadata']['name']}", line)
        for key, stages in live.items():
            for stage, progress in stages.items():
                if progress.get("steps"):
                    tenth = 10 * int(progress["step"]) // int(progress["steps"])
                    _say_once(seen, f"{key.name}/{stage}", progress_note(progress), mark=str(tenth))


def _say_once(seen: dict[str, str], subject: str, line: str, mark: str | None = None) -> None:
    mark = line if mark is None else mark
    if line and seen.get(subject) != mark:
        seen[subject] = mark
        say(f"{utc_now():%H:%M:%S}  {subject}  {line}")
