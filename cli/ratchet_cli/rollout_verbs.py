"""Verbs of a rollout: promote, pause, resume, abort, undo; and why, history.

Decides how a wish reaches the operator (an annotation whose every new value is obeyed once) and how its answer is
told. Nothing is decided here: what comes of a wish is the operator's to say, and is printed as it says it.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape

from ratchet_api.conditions import ConditionType, find_condition
from ratchet_api.kinds import RL_POLICY, RL_TRAINING_RUN
from ratchet_api.names import (
    ANNOTATION_ASKED_BY,
    ANNOTATION_PROMOTE,
    ANNOTATION_ROLLOUT,
    LABEL_COMPONENT,
    LABEL_POLICY,
    label_value,
)
from ratchet_api.policy import RLPolicySpec, RLPolicyStatus
from ratchet_api.rollout import Rollout, RolloutStatus, ShareRow
from ratchet_cli.backend import Backend, Body, find_kind, must_get
from ratchet_cli.errors import CliError, NotFound, UsageProblem
from ratchet_cli.objects import set_suspend
from ratchet_cli.options import Context, HomeDir, Local, Namespace, open_backend
from ratchet_cli.rollout_views import history_table, why_sentence
from ratchet_cli.screen import err, out, print_whole, say, utc_now

POLL_SECONDS = 0.5
_POLLS = 15
_ROWS = TypeAdapter(tuple[ShareRow, ...])
PolicyName = Annotated[str, typer.Argument(help="Name of the policy.")]
OnePolicy = Annotated[str | None, typer.Option("-p", "--policy", help="One policy. If omitted, all that serve.")]
LONGEST_SUBJECT = 256


def promote(
    policy: PolicyName,
    version: Annotated[
        str | None, typer.Argument(help="What shall become champion, as in 2 or v2. If omitted, the version on trial.")
    ] = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Make a version the policy's champion, on trial or not."""
    name = _policy_name(policy)
    digits = None if version is None else version.removeprefix("v")
    if digits is not None and (not digits.isdecimal() or int(digits) < 1):
        raise UsageProblem(f"version {version!r} must be a number from 1 on, as in `ratchet promote {name} 2`")
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    if digits is None:
        _tell(backend, name, "promote")
    else:
        _promote(backend, name, int(digits))


def pause(
    policy: PolicyName,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Hold a trial at its present share; a candidate that proves bad is rolled back all the same."""
    _tell(open_backend(local=local, context=context, namespace=namespace, home=home), _policy_name(policy), "pause")


def resume(
    name: Annotated[str, typer.Argument(help="A suspended run, or policy/NAME whose trial is paused.")],
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Let a suspended run, or a paused trial, go on."""
    word, separator, rest = name.partition("/")
    kind = find_kind(word) if separator else None
    if kind not in (None, RL_TRAINING_RUN, RL_POLICY) or (separator and not rest):
        raise UsageProblem(f"{name!r} is neither a run nor policy/NAME; only these can be resumed")
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    if kind is None and backend.get(RL_TRAINING_RUN, name) is None and backend.get(RL_POLICY, name) is not None:
        kind = RL_POLICY
    if kind is RL_POLICY:
        _tell(backend, rest or name, "resume")
    else:
        set_suspend(backend, rest or name, False)


def abort(
    policy: PolicyName,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """End a trial: everybody gets the champion, and the candidate is not tried again."""
    _tell(open_backend(local=local, context=context, namespace=namespace, home=home), _policy_name(policy), "abort")


def undo(
    policy: PolicyName,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Go back to the version that everybody got before the present one."""
    _tell(open_backend(local=local, context=context, namespace=namespace, home=home), _policy_name(policy), "undo")


def history(
    policy: PolicyName,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """List what served what share, from when to when, why, and decided by whom."""
    if output not in ("table", "json"):
        raise UsageProblem(f"--output {output!r} is unknown; use one of table, json")
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    name = _policy_name(policy)
    body = must_get(backend, RL_POLICY, name)
    status = _status(body)
    rows = _rows(backend, body, status)
    if output == "json":
        sys.stdout.write(json.dumps([row.to_wire() for row in rows], ensure_ascii=False, indent=2) + "\n")
    elif rows:
        print_whole(history_table(rows, utc_now()))
    else:
        say(f"no version of {name} has served yet")


def why(
    user: Annotated[str, typer.Argument(help="Subject, as the router is told it by header or cookie.")],
    policy: OnePolicy = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Say which version a user gets, and why."""
    if not user or len(user) > LONGEST_SUBJECT:
        raise UsageProblem(f"USER has {len(user)} characters; a subject has 1 to {LONGEST_SUBJECT}")
    backend = open_backend(local=local, context=context, namespace=namespace, home=home)
    if policy is not None:
        bodies: Sequence[Body] = [must_get(backend, RL_POLICY, _policy_name(policy))]
        _rollout(bodies[0])
    else:
        bodies = [body for body in backend.list(RL_POLICY) if _status(body).rollout is not None]
    if not bodies:
        raise NotFound(
            f"no policy in namespace {backend.namespace!r} of {backend.where} serves; add spec.serving to one"
        )
    for body in bodies:
        rollout, spec = _rollout(body)
        uid, diced = body["metadata"]["uid"], _gateways_deal(_status(body))
        sentence = why_sentence(user, policy_uid=uid, rollout=rollout, spec=spec, diced=diced)
        out.print(f"[name]{escape(body['metadata']['name'])}[/]: {escape(sentence)}", soft_wrap=True)


def _tell(backend: Backend, policy: str, verb: str) -> None:
    """Ask the operator for something, and print its answer.

    Raises:
        CliError: it refused, with its sentence.
    """
    _rollout(must_get(backend, RL_POLICY, policy))
    told = f"{verb}:{secrets.token_hex(4)}"
    backend.patch(RL_POLICY, policy, _asked(backend, ANNOTATION_ROLLOUT, told))
    now = _answer(backend, policy, lambda seen: seen.rollout is not None and seen.rollout.observed_command == told)
    if now is None or now.rollout is None:
        say(f"asked {policy} to {verb}; the operator has not answered yet, see `ratchet status policy/{policy}`")
        return
    answer = now.rollout.answer
    if answer.startswith(f"{verb}:"):
        raise CliError(f"RLPolicy {policy!r}: {answer}")
    say(f"{policy}: {answer}")


def _asked(backend: Backend, annotation: str, value: str | None) -> dict[str, Any]:
    """A patch that asks for something, and says who does."""
    who = f"{value} {backend.who()}".strip() if value is not None else None
    return {"metadata": {"annotations": {annotation: value, ANNOTATION_ASKED_BY: who}}}


def _promote(backend: Backend, policy: str, version: int) -> None:
    seen = _status(must_get(backend, RL_POLICY, policy))
    known = [each.version for each in seen.versions]
    if version not in known:
        there = f"it has {', '.join(map(str, known))}" if known else "it has none yet; publish a run to it first"
        raise NotFound(f"RLPolicy {policy!r} has no version {version}; {there}")
    if seen.champion == version:
        say(f"version {version} is champion of {policy} already")
        return
    late = f"the operator has not answered yet, see `ratchet status policy/{policy}`"
    if seen.observed_promote == str(version):
        # it was asked for before it existed; each value is acted upon once, so the old wish goes first
        _ask(backend, policy, None)
        if _answer(backend, policy, lambda now: now.observed_promote != str(version)) is None:
            say(f"took the earlier wish for version {version} away; {late}, then ask again")
            return
    _ask(backend, policy, str(version))
    if _answer(backend, policy, lambda now: now.champion == version) is None:
        say(f"asked for version {version}; {late}")
        return
    before = f" (before: {seen.champion})" if seen.champion else ""
    out.print(f"[good]version {version} is champion[/] of [name]{escape(policy)}[/]{before}")


def _ask(backend: Backend, policy: str, value: str | None) -> None:
    backend.patch(RL_POLICY, policy, _asked(backend, ANNOTATION_PROMOTE, value))


def _answer(backend: Backend, policy: str, wanted: Callable[[RLPolicyStatus], bool]) -> RLPolicyStatus | None:
    """Wait some seconds for the operator to do what was asked; None = not yet."""
    for _ in range(_POLLS):
        now = _status(must_get(backend, RL_POLICY, policy))
        if wanted(now):
            return now
        time.sleep(POLL_SECONDS)
    return None


def _rows(backend: Backend, body: Body, status: RLPolicyStatus) -> tuple[ShareRow, ...]:
    """Return every row of the history that there still is, oldest first."""
    if status.rollout is None:
        return ()
    rows = {row.number: row for row in status.rollout.history}
    if len(rows) < status.rollout.rows:
        labels = {LABEL_COMPONENT: "history", LABEL_POLICY: label_value(body["metadata"]["name"])}
        for each in backend.config_maps(labels, owner_uid=body["metadata"]["uid"]):
            try:
                old = _ROWS.validate_json(each["data"]["rows.json"])
            except (KeyError, ValidationError) as error:
                raise CliError(f"ConfigMap {each['metadata']['name']!r} holds no rows of a history: {error}") from error
            rows |= {row.number: row for row in old if row.number not in rows}
        if missing := status.rollout.rows - len(rows):
            err.print(f"{missing} older rows are gone: their ConfigMaps were deleted", style="idle", soft_wrap=True)
    return tuple(rows[number] for number in sorted(rows))


def _policy_name(text: str) -> str:
    kind, separator, name = text.partition("/")
    if not separator:
        return text
    if find_kind(kind) is not RL_POLICY or not name:
        raise UsageProblem(f"{text!r} names no policy; write its name, or policy/NAME")
    return name


def _gateways_deal(status: RLPolicyStatus) -> bool:
    sticky = find_condition(status.conditions, ConditionType.STICKY)
    return sticky is not None and sticky.status == "False"


def _status(body: Body) -> RLPolicyStatus:
    return RLPolicyStatus.model_validate(body.get("status", {}))


def _rollout(body: Body) -> tuple[RolloutStatus, Rollout | None]:
    """Return where the policy's rollout stands and what was asked of it.

    Raises:
        CliError: it serves nothing.
    """
    rollout = _status(body).rollout
    if rollout is None:
        name = body["metadata"]["name"]
        raise CliError(f"RLPolicy {name!r} serves nothing, so that it has no rollout; add spec.serving to it")
    return rollout, RLPolicySpec.model_validate(body["spec"]).rollout
