"""`ratchet feedback erase`: a person out of log, snapshots and future training, with a proof.

Decides where the person's pseudonyms come from (the signing keys here, else the gateway) and how the proof is shown.
The removal and the marks are those of `erasing`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ratchet_api.base import format_time
from ratchet_api.erasure import ErasureReport
from ratchet_api.signing import BadKey, KeyRing, pseudonym
from ratchet_cli.backend import Backend
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.feedback_verbs import Gateway, TokenFile, opened
from ratchet_cli.home import find_home
from ratchet_cli.options import Context, HomeDir, Namespace, Store, open_backend
from ratchet_cli.screen import out, say
from ratchet_cli.storage import PATIENCE_SECONDS, Endpoint, InCluster, store_config
from ratchet_jobs.feedback_log.erasures import ErasureRecord, find_record, report_key, request_erasure
from ratchet_jobs.runtime.errors import StageError
from ratchet_jobs.runtime.store import Store as ObjectStore
from ratchet_jobs.runtime.store import open_store


def erase(
    subject: Annotated[
        str | None, typer.Option(help="The person, as the events named them. If omitted, --pending.", metavar="ID")
    ] = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="Carry out what was asked of the gateway and is not done.")
    ] = False,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the signing keys. If omitted, HOME/keys where there is one, else the gateway is asked.",
            metavar="DIR",
        ),
    ] = None,
    record_only: Annotated[
        bool, typer.Option("--record-only", help="Stop reading the person now; remove later, with --pending.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the proof as JSON.")] = False,
    gateway: Gateway = None,
    token_file: TokenFile = None,
    namespace: Namespace = None,
    store: Store = None,
    endpoint: Endpoint = None,
    cluster: InCluster = False,
    context: Context = None,
    home: HomeDir = None,
) -> None:
    """Erase a person: from log, snapshots and all training to come. Safe to repeat, and to interrupt."""
    _options(subject, pending)
    from ratchet_jobs.data import erasure

    config, space = store_config(cluster, store, endpoint, namespace, context, home)
    folder = keys or (None if cluster else find_home(home, store).path / "keys")
    try:
        objects, now = open_store(config, patience_seconds=PATIENCE_SECONDS), datetime.now(UTC)
        if subject is None:
            records = erasure.pending(objects, space)
        elif folder is not None and (keys is not None or folder.is_dir()):
            records = [_record(objects, space, subject, folder, now)]
        else:
            records = [_ask(objects, space, subject, gateway, token_file)]
        backend = None if record_only else _backend(cluster, context, namespace, home)
        for record in records:
            if record_only:
                say(f"erasure {record.id}: nothing of the person is read any more; `ratchet feedback erase --pending`")
            else:
                _carry_out(objects, space, record, backend, now, as_json=as_json)
        if not records:
            say("no erasure is pending")
    except (StageError, BadKey) as error:
        raise CliError(str(error)) from error


def _carry_out(
    store: ObjectStore, namespace: str, record: ErasureRecord, backend: Backend | None, now: datetime, *, as_json: bool
) -> None:
    """Erase one person and print the proof."""
    from ratchet_cli.erasing import finish

    report = finish(store, namespace, record, backend, now=now)
    _show(report, store, report_key(namespace, report.id), marked=backend is not None, as_json=as_json)


def _options(subject: str | None, pending: bool) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageProblem: says which.
    """
    if (subject is None) != pending:
        raise UsageProblem("give either --subject ID or --pending")
    if subject is not None and not subject.strip():
        raise UsageProblem("--subject is blank; give the id by which the events named the person")


def _record(store: ObjectStore, namespace: str, subject: str, keys: Path, now: datetime) -> ErasureRecord:
    """Record the erasure of a person under every key of a directory."""
    ring = KeyRing.from_directory(keys)
    people = [pseudonym(subject, ring, key=key) for key in ring.keys]
    return request_erasure(store, namespace, people, now=now)


def _ask(
    store: ObjectStore, namespace: str, subject: str, gateway: str | None, token_file: Path | None
) -> ErasureRecord:
    """Let the gateway record the erasure, since it has the keys.

    Raises:
        CliError: it records it in another store.
    """
    with opened(gateway, token_file) as client:
        asked = client.erase(subject).id
    found = find_record(store, namespace, asked)
    if found is None:
        raise CliError(
            f"erasure {asked} is recorded, but not in {store.uri} of namespace {namespace!r}; name the gateway's store "
            "by --store or --cluster, and its namespace by -n"
        )
    return found


def _backend(cluster: bool, context: str | None, namespace: str | None, home: str | None) -> Backend | None:
    """Return where runs and policies are; None where nothing was ever run beside the store."""
    if not cluster and context is None and not find_home(home).exists:
        return None
    return open_backend(local=not cluster and context is None, context=context, namespace=namespace, home=home)


def _show(report: ErasureReport, store: ObjectStore, key: str, *, marked: bool, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(report.to_wire()))
        return
    say(f"erasure {report.id} is done: a last look found nothing of the person")
    say(f"  asked for {format_time(report.requested)}, done {format_time(report.finished)}")
    say(f"  log: {report.events} events removed from {report.segments} segments, {report.answers} answers among them")
    for each in report.snapshots:
        say(f"  snapshot {each.digest[:12]} loads no more: {each.rows} rows removed, now {each.replaced_by[:12]}")
    for key in report.artifacts:
        say(f"  {key} quoted the person: blotted out")
    if marked:
        say(f"  had learned from the person: runs {_listed(report.runs)}; versions {_listed(report.versions)}")
        say(f"  data sets that make a new snapshot: {_listed(report.datasets)}")
    else:
        say("  runs and versions were not looked at: no state directory and no --cluster", style="idle")
    for line in report.not_covered:
        say(f"  not covered: {line}", style="idle")
    say(f"  proof: {store.uri}/{key}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
