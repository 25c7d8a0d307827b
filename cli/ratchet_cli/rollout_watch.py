"""A trial followed to its end: on a terminal as a picture, elsewhere line by line. Changes nothing; used by `watch`."""

from __future__ import annotations

import time

from rich.live import Live

from ratchet_api.kinds import RL_POLICY
from ratchet_api.policy import RLPolicyStatus
from ratchet_api.rollout import RolloutStatus
from ratchet_cli.backend import Backend, Body, must_get
from ratchet_cli.errors import CliError
from ratchet_cli.rollout_views import trial_line, verdict_text
from ratchet_cli.screen import out, say, utc_now
from ratchet_cli.views import view


def watch_trial(backend: Backend, policy: str, *, poll_seconds: float) -> bool:
    """Follow a policy until no version is on trial.

    Returns:
        Whether the version that was on trial became champion; True if none was.

    Raises:
        CliError: the policy serves nothing.
    """
    body = must_get(backend, RL_POLICY, policy)
    candidate = _rollout(body).candidate
    if not out.is_terminal:
        body = _lines(backend, body, poll_seconds)
    else:
        with Live(console=out, auto_refresh=False) as screen:
            while True:
                screen.update(view(body, now=utc_now()), refresh=True)
                if _over(_rollout(body)):
                    break
                time.sleep(poll_seconds)
                body = must_get(backend, RL_POLICY, policy)
    return candidate is None or RLPolicyStatus.model_validate(body["status"]).champion == candidate


def _lines(backend: Backend, body: Body, poll_seconds: float) -> Body:
    name, last = body["metadata"]["name"], ""
    while True:
        rollout = _rollout(body)
        judged = verdict_text(rollout)
        line = trial_line(rollout) + ("" if judged is None else f";{judged.plain.rstrip()}")
        line += " (paused)" if rollout.paused else ""
        if line != last:
            say(f"{name}: {line}")
            last = line
        if _over(rollout):
            return body
        time.sleep(poll_seconds)
        body = must_get(backend, RL_POLICY, name)


def _over(rollout: RolloutStatus) -> bool:
    return rollout.candidate is None and rollout.testing is None


def _rollout(body: Body) -> RolloutStatus:
    rollout = RLPolicyStatus.model_validate(body.get("status", {})).rollout
    if rollout is None:
        raise CliError(f"RLPolicy {body['metadata']['name']!r} serves nothing; there is no trial to watch")
    return rollout
