"""Verbs that look at objects or change one: get, status, watch, logs, suspend, delete, submit."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape

from ratchet_api.kinds import FEEDBACK_DATASET, KINDS, RL_POLICY, RL_TRAINING_RUN, Kind
from ratchet_api.stage import Stage
from ratchet_cli.backend import Backend, Body, find_kind, must_get
from ratchet_cli.errors import CliError, NotFound, UsageProblem
from ratchet_cli.manifests import load
from ratchet_cli.options import Context, Files, HomeDir, Local, Namespace, open_backend
from ratchet_cli.rollout_watch import watch_trial
from ratchet_cli.screen import objects_table, out, print_whole, say, state_text, utc_now
from ratchet_cli.views import view

POLL_SECONDS = 2.0
OptionalKind = Annotated[
    str | None, typer.Argument(help="dataset, run or policy (also fbd, rltr, rlp). If omitted, all.")
]
OptionalName = Annotated[str | None, typer.Argument(help="Name of a run, or KIND/NAME of any object. If omitted, all.")]
OptionalStage = Annotated[str | None, typer.Argument(help=f"{', '.join(Stage)}. If omitted, the newest pod.")]
FINISHED = ("Complete", "Failed", "GateFailed", "DryRun")


def get(
    kind: OptionalKind = None,
    name: Annotated[str | None, typer.Argument(help="One object.")] = None,
    wide: Annotated[bool, typer.Option("--wide", "-w", help="More columns.")] = False,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """List objects as kubectl would."""
    wanted = [find_kind(kind)] if kind else list(KINDS.values())
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    shown = 0
    for each in wanted:
        bodies = [must_get(backend, each, name)] if name else backend.list(each)
        if bodies:
            if shown:
                out.print()
            print_whole(objects_table(each, bodies, wide=wide, now=utc_now()))
            shown += 1
    if not shown:
        say(f"nothing in namespace {backend.namespace!r} of {backend.where}")


def status(
    name: OptionalName = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Show objects in full: stages, numbers, gates, versions, and what is wrong."""
    wanted = None if name is None else _kind_and_name(name)
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    if wanted is not None:
        out.print(view(must_get(backend, *wanted), now=utc_now()))
        return
    bodies = [body for kind in KINDS.values() for body in backend.list(kind)]
    if not bodies:
        say(f"nothing in namespace {backend.namespace!r} of {backend.where}")
    for number, body in enumerate(bodies):
        if number:
            out.print()
        out.print(view(body, now=utc_now()))
    if notice := backend.notice():
        out.print()
        say(notice, style="idle")


def watch(
    name: Annotated[str, typer.Argument(help="Name of a run, or policy/NAME with a version on trial.")],
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Follow a run or a trial to its end: 0 if it is Complete, or promoted, else 1. Ctrl-C ends only the watching."""
    kind, run = _kind_and_name(name)
    if kind is FEEDBACK_DATASET:
        raise UsageProblem(f"{name!r} is neither a run nor policy/NAME; see `ratchet status {name}`")
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    if kind is RL_POLICY:
        if not watch_trial(backend, run, poll_seconds=POLL_SECONDS):
            raise typer.Exit(1)
        return
    body = must_get(backend, RL_TRAINING_RUN, run)
    if out.is_terminal:
        with Live(console=out, auto_refresh=False) as screen:
            while True:
                screen.update(view(body, now=utc_now()), refresh=True)
                if _state(body) in FINISHED:
                    break
                time.sleep(POLL_SECONDS)
                body = must_get(backend, RL_TRAINING_RUN, run)
    else:
        body = _watch_lines(backend, body)
    if _state(body) != "Complete" and _state(body) != "DryRun":
        raise typer.Exit(1)


def _watch_lines(backend: Backend, body: Body) -> Body:
    """Without a terminal: one line per change."""
    name, last = body["metadata"]["name"], ""
    while True:
        seen = body.get("status", {})
        line = " ".join(str(seen.get(key, "")) for key in ("state", "stage", "progressPercent")).strip()
        if line != last:
            say(f"{name}: {line}")
            last = line
        if _state(body) in FINISHED:
            return body
        time.sleep(POLL_SECONDS)
        body = must_get(backend, RL_TRAINING_RUN, name)


def logs(
    name: Annotated[str, typer.Argument(help="Run, or dataset/NAME.")],
    stage: OptionalStage = None,
    follow: Annotated[bool, typer.Option("-F", "--follow", help="Go on until the pod ends.")] = False,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Print what a stage's newest pod wrote."""
    kind, plain = _kind_and_name(name)
    of_dataset = (Stage.SNAPSHOT,)
    stages = of_dataset if kind is FEEDBACK_DATASET else tuple(each for each in Stage if each not in of_dataset)
    if stage is not None and stage not in stages:
        raise UsageProblem(f"stage {stage!r} is none of a {kind.singular}'s; use one of {', '.join(stages)}")
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    must_get(backend, kind, plain)
    pods = backend.pods(kind, plain, stage)
    if not pods:
        what = f"stage {stage!r} of {name!r}" if stage else repr(name)
        raise NotFound(f"no pod of {what} exists; a cached or waiting stage has none")
    for line in backend.logs(pods[-1], follow=follow):
        sys.stdout.write(line + "\n")


def suspend(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Checkpoint a run and stop its pods; `resume` goes on from there."""
    set_suspend(open_backend(local=local, context=context, namespace=namespace, home=home), run, True)


def set_suspend(backend: Backend, run: str, value: bool) -> None:
    """Suspend a run, or let it go on.

    Raises:
        NotFound: there is no such run.
        CliError: it has ended.
    """
    body = must_get(backend, RL_TRAINING_RUN, run)
    if _state(body) in FINISHED:
        raise CliError(
            f"RLTrainingRun {run!r} has ended ({_state(body)}); there is nothing to {'suspend' if value else 'resume'}"
        )
    word = "suspended" if value else "resumed"
    if bool(body["spec"].get("suspend")) == value:
        say(f"{run} is {word} already")
        return
    backend.patch(RL_TRAINING_RUN, run, {"spec": {"suspend": value}})
    say(f"{run} is {word}" + ("; its pods checkpoint and leave" if value else ""))


def delete(
    kind: Annotated[str, typer.Argument(help="dataset, run or policy.")],
    name: Annotated[str, typer.Argument(help="The object.")],
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Delete an object; its pods go with it, its artifacts stay in the store."""
    found = find_kind(kind)
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    must_get(backend, found, name)
    backend.delete(found, name)
    say(f"{found.singular} {name} deleted; its artifacts stay in the store")


def submit(
    files: Files,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Check manifests, then apply them: server-side in a cluster, or here (--local) to a running `ratchet up`."""
    manifests = load(files)
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    for each in manifests:
        if each.namespace is not None and namespace is not None and each.namespace != namespace:
            raise UsageProblem(
                f"{each.source}: {each.title} is for namespace {each.namespace!r}, -n says {namespace!r}; choose one"
            )
    default = backend.namespace
    for each in manifests:
        backend.namespace = each.namespace or default
        word = backend.apply(each.kind, each.body)
        out.print(f"{each.kind.singular}/[name]{escape(each.name)}[/] ", state_text(word))


def _kind_and_name(text: str) -> tuple[Kind[Any, Any], str]:
    kind, separator, name = text.partition("/")
    if not separator:
        return RL_TRAINING_RUN, text
    if not name:
        raise UsageProblem(f"{text!r} names no object; write KIND/NAME")
    return find_kind(kind), name


def _state(body: Mapping[str, Any]) -> str:
    return str(body.get("status", {}).get("state", ""))
