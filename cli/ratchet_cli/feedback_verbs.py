"""`ratchet feedback add | import | undo | stats`: feedback through the gateway, from the command line.

Decides options and words only; the client decides what is tried again, the gateway what is stored.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ratchet_cli.errors import CliError, NotFound, UsageProblem
from ratchet_cli.screen import complain, out, say

if TYPE_CHECKING:
    from ratchet_api.client import GatewayClient

DEFAULT_GATEWAY = "http://127.0.0.1:8000"
_BATCH_EVENTS, _BATCH_BYTES = 500, 500_000
_SUBJECT_EVENTS = 50
"""Of one subject in a batch: below what a gateway takes of one in a minute, unless it is set otherwise."""
_SHOWN = 10

verbs = typer.Typer(help="Send feedback to a gateway, and see what it holds.", no_args_is_help=True)

Policy = Annotated[str, typer.Argument(help="Name of the RLPolicy.", metavar="POLICY")]
Gateway = Annotated[
    str | None, typer.Option("--gateway", help=rf"Its address. \[env RATCHET_GATEWAY, default {DEFAULT_GATEWAY}]")
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help=r"File with the API key or token. \[env RATCHET_GATEWAY_TOKEN: itself]"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, store nothing.")]


@verbs.command()
def add(
    policy: Policy,
    type_: Annotated[
        str,
        typer.Argument(
            metavar="TYPE", help="thumbs_up, thumbs_down, rating, score, correction, preference, comment or metric."
        ),
    ],
    rating: Annotated[int | None, typer.Option(help="1 to 5 stars.")] = None,
    score: Annotated[float | None, typer.Option(help="0 to 1.")] = None,
    correction: Annotated[str | None, typer.Option(help="The better answer, or the right label.")] = None,
    comment: Annotated[str | None, typer.Option(help="What was said.")] = None,
    chosen: Annotated[str | None, typer.Option(help="The better of two answers.")] = None,
    rejected: Annotated[str | None, typer.Option(help="The other one.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of a metric.")] = None,
    value: Annotated[float | None, typer.Option(help="Its value.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What was asked.")] = None,
    response: Annotated[str | None, typer.Option(help="What was answered.")] = None,
    interaction: Annotated[str | None, typer.Option(help="Signed id of the answer.", metavar="ID")] = None,
    subject: Annotated[str | None, typer.Option(help="Who says it; stored as a keyed hash.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key. If omitted, a new one.")] = None,
    dry_run: DryRun = False,
    gateway: Gateway = None,
    token_file: TokenFile = None,
) -> None:
    """Store one event of feedback."""
    given: Mapping[str, Any] = {
        "rating": rating,
        "score": score,
        "correction": correction,
        "comment": comment,
        "chosen": chosen,
        "rejected": rejected,
        "name": name,
        "value": value,
        "prompt": prompt,
        "response": response,
        "interactionId": interaction,
        "subject": subject,
        "tags": _tags(tag or []),
        "idempotencyKey": key,
    }
    event = {"type": type_, "policy": policy} | {name: part for name, part in given.items() if part not in (None, {})}
    with opened(gateway, token_file) as client:
        stored = client.send(event, dry_run=dry_run)
    word = "would be stored" if dry_run else "was stored before" if stored.duplicate else "stored"
    say(f"{type_} for {policy} {word}: {stored.id}")


@verbs.command(name="import")
def import_(
    policy: Policy,
    files: Annotated[
        list[Path], typer.Argument(help="JSON lines (also of older collectors) or CSV.", metavar="FILE...")
    ],
    form: Annotated[str | None, typer.Option("--format", help="jsonl or csv. If omitted, by the file's name.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unusable rows out instead of sending none.")
    ] = False,
    dry_run: DryRun = False,
    gateway: Gateway = None,
    token_file: TokenFile = None,
) -> None:
    """Store the rows of files. The same row of the same file is stored once, however often it is imported."""
    from ratchet_cli.feedback_files import read_rows

    found = [read_rows(path, policy=policy, form=form) for path in files]
    problems = [problem for rows in found for problem in rows.problems]
    for problem in problems[:_SHOWN]:
        complain(problem)
    if len(problems) > _SHOWN:
        complain(f"… and {len(problems) - _SHOWN} more")
    if problems and not skip_bad:
        raise CliError(
            f"{len(problems)} rows cannot be used, nothing was sent; mend them, or leave them out: --skip-bad"
        )
    busiest = Counter(event["subject"] for rows in found for event in rows.events if event.get("subject"))
    if (most := max(busiest.values(), default=0)) > _SUBJECT_EVENTS and not dry_run:
        say(f"one subject sent {most:,} of the events, of whom a gateway takes 60 a minute: this takes a while")
    duplicates = total = 0
    with opened(gateway, token_file) as client:
        for batch in _batches(event for rows in found for event in rows.events):
            answer = client.send_all(batch, dry_run=dry_run)
            total += len(batch)
            duplicates += sum(event.duplicate for event in answer.events)
    counts = ", ".join(f"{count} {name}" for rows in found for name, count in rows.by_type().items())
    word = "would be stored" if dry_run else "stored"
    before = f", {duplicates} were there before" if duplicates else ""
    left_out = f", {len(problems)} left out" if problems else ""
    say(f"{total - duplicates} events {word}{before}{left_out} ({counts or 'no row'})")


@verbs.command()
def undo(
    policy: Policy,
    event: Annotated[str, typer.Argument(help="Id of the event, as `add` printed it.", metavar="ID")],
    dry_run: DryRun = False,
    gateway: Gateway = None,
    token_file: TokenFile = None,
) -> None:
    """Take an event back: from now on no statistic and no data set counts it. Needs the token that sent it."""
    with opened(gateway, token_file) as client:
        stored = client.undo(policy, event, dry_run=dry_run)
    word = "would be taken back" if dry_run else "was taken back before" if stored.duplicate else "is taken back"
    say(f"{event} {word}: {stored.id}")


@verbs.command()
def stats(policy: Policy, gateway: Gateway = None, token_file: TokenFile = None) -> None:
    """Show what the log holds about a policy."""
    with opened(gateway, token_file) as client:
        found = client.stats(policy)
    table = Table(box=None, show_header=False, pad_edge=False)
    rows: list[tuple[str, str]] = [
        ("events", f"{found.events:,}"),
        *((f"  {name}", f"{count:,}") for name, count in found.by_type.items()),
        ("rated", f"{found.rated:,}"),
    ]
    if found.score_mean is not None and found.score_std is not None:
        rows.append(("score", f"{found.score_mean:.3f} ± {found.score_std:.3f}"))
    rows.append(("subjects", f"{found.subjects:,}"))
    if found.largest_share is not None:
        rows.append(("busiest subject", f"{found.largest_share:.1%} of their events"))
    rows += [("interactions", f"{found.interactions:,}"), ("newest", found.newest or "-")]
    for row in rows:
        table.add_row(*row)
    out.print(table)


@contextmanager
def opened(url: str | None, token_file: Path | None) -> Iterator[GatewayClient]:
    """Yield a client of the gateway that the options and the environment mean; its refusals end the command."""
    from ratchet_api.client import GatewayClient, GatewayError

    address = url or os.environ.get("RATCHET_GATEWAY") or DEFAULT_GATEWAY
    if not address.startswith(("http://", "https://")):
        raise UsageProblem(f"gateway {address!r} is no address; write it as {DEFAULT_GATEWAY}")
    token = os.environ.get("RATCHET_GATEWAY_TOKEN") or None
    if token_file is not None:
        if not token_file.is_file():
            raise NotFound(f"token file {token_file} does not exist")
        token = token_file.read_text().strip()
    try:
        with GatewayClient(address, token=token) as client:
            yield client
    except GatewayError as error:
        raise (NotFound if error.status == 404 else CliError)(str(error)) from error


def _tags(words: list[str]) -> dict[str, str]:
    tags = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageProblem(f"tag {word!r} must be NAME=VALUE")
        tags[name] = value
    return tags


def _batches(events: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield batches that fit a request's limits."""
    batch: list[dict[str, Any]] = []
    size, of_one = 0, Counter[str]()
    for event in events:
        length = sum(len(str(value)) * 4 for value in event.values())  # a character has at most four bytes
        subject = event.get("subject")
        crowded = subject is not None and of_one[subject] == _SUBJECT_EVENTS
        if batch and (len(batch) == _BATCH_EVENTS or size + length > _BATCH_BYTES or crowded):
            yield batch
            batch, size, of_one = [], 0, Counter()
        batch.append(event)
        size += length
        if subject is not None:
            of_one[subject] += 1
    if batch:
        yield batch
