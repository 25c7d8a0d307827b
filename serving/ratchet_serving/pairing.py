"""What two versions answer to one text: who is asked besides, and what is recorded of either's answer.

Decides what names a text, so that both servers say the same of it without knowing each other, and that nothing of who
asked, or of what was asked, is recorded. The router says when; `state` reads it, the routes of classifiers record it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ratchet_web.errors import Malformed

SHADOW_HEADER, REQUEST_HEADER = "x-ratchet-shadow", "x-request-id"
_SHADOW = re.compile(r"([1-9][0-9]{0,9})/([0-9a-f]{16})")


class Pairing(NamedTuple):
    """A request that two versions are asked."""

    version: int
    """Whose answer nobody gets."""
    experiment: str
    request: str
    """As the router names the request."""

    def name(self, place: int) -> str:
        """Name a text of the request, in a task: the same in both servers, and nothing can be read from it."""
        return hashlib.sha256(f"{self.experiment}\0{self.request}\0{place}".encode()).hexdigest()[:32]


def pairing_of(headers: Mapping[str, str]) -> Pairing | None:
    """Return whether two versions are asked this; None = only this one is.

    Args:
        headers: of a request that came from the router.

    Raises:
        Malformed: the router would not say that.
    """
    said = headers.get(SHADOW_HEADER)
    if said is None:
        return None
    match = _SHADOW.fullmatch(said)
    if match is None:
        raise Malformed(f"{SHADOW_HEADER} {said[:32]!r}: the router says VERSION/EXPERIMENT")
    request = headers.get(REQUEST_HEADER, "")
    if not request:
        raise Malformed(f"{REQUEST_HEADER}: is missing; the router names each request that two versions are asked")
    return Pairing(int(match[1]), match[2], request)


def paired(
    answers: Sequence[Mapping[str, Any]], pairing: Pairing, *, policy: str, version: int | None, seconds: float
) -> list[dict[str, Any]]:
    """Return what the gateway is told of answers that are compared.

    Args:
        answers: `label` and `abstained`, or `failed`, of each text and task in their order.
        pairing: of the request.
        policy: that answered.
        version: of it.
        seconds: that the answer took.
    """
    made = []
    for place, answer in enumerate(answers):
        record: dict[str, Any] = {name: answer[name] for name in ("label", "abstained", "failed") if name in answer}
        # what was asked is no part of a pair, and the API of answers has a place for it that must be filled
        record |= {"policy": policy, "input": "-", "idempotencyKey": secrets.token_hex(16)}
        record |= {} if version is None else {"version": version}
        record["pair"] = {
            "experiment": pairing.experiment,
            "request": pairing.name(place),
            "shadow": version == pairing.version,
            "milliseconds": 1000 * seconds,
        }
        made.append(record)
    return made
