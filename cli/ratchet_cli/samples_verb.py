"""`ratchet feedback samples`: a version's evaluated answers and others to the same prompts, for the review page.

Decides which two answers to a prompt are shown: the version's, and that of the policy before RL, or of the base model.
They are recorded as answers like any others, so that the page, its votes and what is learned from them know no second
kind. Meant for the time before two versions are live.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from ratchet_api.feedback import SAMPLE_TAG
from ratchet_cli.committed import read_committed
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.feedback_verbs import Gateway, TokenFile, opened
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.results import REPORT_FILE
from ratchet_cli.screen import say
from ratchet_cli.versions import VERSION_HELP, Place, Version, find_version
from ratchet_jobs.data.erase_artifacts import BLOT

_BATCH = 50
_OTHERS = ("supervised", "start", "rl", "base")
"""Whose answer is held against the version's: the first of these that differs."""


class Pair(NamedTuple):
    """Two answers to one prompt."""

    prompt: str
    answer: str
    other: str
    whose: str
    """Who gave the other one."""


def samples(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    policy: Annotated[
        str | None, typer.Option(help="RLPolicy whose answers they are. Needed for a run or a folder.", metavar="NAME")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many prompts.", min=1, max=10_000)] = 50,
    gateway: Gateway = None,
    token_file: TokenFile = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Let people compare a generator's evaluated answers on the review page. Repeating it adds nothing."""
    found = find_version(version, Place(namespace, local, context, home))
    name = policy or found.policy
    if name is None:
        raise UsageProblem(f"{found.title} is no version of an RLPolicy; say whose answers they are: --policy NAME")
    data = read_committed(found, REPORT_FILE)
    pairs = pairs_of(data, found)[:limit]
    if not pairs:
        raise CliError(f"{found.title}: its answers in {REPORT_FILE} are those of its base model; nothing to compare")
    events = events_of(pairs, policy=name, version=found.number, digest=hashlib.sha256(data).hexdigest())
    known = 0
    with opened(gateway, token_file) as client:
        for start in range(0, len(events), _BATCH):
            stored = client.record_all(events[start : start + _BATCH]).events
            known += sum(each.duplicate for each in stored)
    before = f" ({known // 2} were there before)" if known else ""
    say(f"{len(pairs)} pairs of answers of {found.title} to compare{before}: open /review#compare at the gateway")


def pairs_of(data: bytes, version: Version) -> list[Pair]:
    """Return the pairs of differing answers in an evaluation.

    Args:
        data: of evaluation.json.
        version: whose it is.

    Raises:
        CliError: it holds no answers.
    """
    try:
        answers: Sequence[Mapping[str, str]] = json.loads(data)["answers"]
        return [pair for each in answers if (pair := _pair(each)) is not None]
    except KeyError as error:
        raise CliError(
            f"{version.title}: {REPORT_FILE} holds no answers, as that of a classifier; what a classifier answers can "
            "be compared once two versions are asked: record it at /v1/interactions"
        ) from error
    except (ValueError, TypeError) as error:
        raise CliError(f"{version.title}: {REPORT_FILE} cannot be read: {error}; make a new run") from error


def _pair(entry: Mapping[str, str]) -> Pair | None:
    """Return the pair of one prompt; neither an empty answer nor what an erasure took away can be judged."""
    prompt, answer = entry["prompt"], entry["answer"]
    others = ((entry.get(whose, BLOT), whose) for whose in _OTHERS)
    other = next(((text, whose) for text, whose in others if text.strip() not in ("", BLOT, answer.strip())), None)
    shown = prompt != BLOT and answer.strip() not in ("", BLOT)
    return Pair(prompt, answer, *other) if shown and other is not None else None


def events_of(pairs: Sequence[Pair], *, policy: str, version: int | None, digest: str) -> list[dict[str, Any]]:
    """Return two interactions per pair, named so that each is stored once.

    Args:
        pairs: of one evaluation.
        policy: whose answers they are.
        version: that answered; None = not published.
        digest: of the evaluation, SHA-256.
    """
    events = []
    for place, pair in enumerate(pairs):
        for text, whose in ((pair.other, pair.whose), (pair.answer, "version")):
            event: dict[str, Any] = {
                "policy": policy,
                "input": pair.prompt,
                "response": text,
                "tags": {SAMPLE_TAG: whose},
            }
            event["idempotencyKey"] = f"sample-{digest[:32]}-{place}-{whose}"
            if whose == "version" and version is not None:
                event["version"] = version
            events.append(event)
    return events
