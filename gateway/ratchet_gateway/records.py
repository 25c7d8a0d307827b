"""From a request's event to the line that is stored: ids, pseudonyms, and what the cited interaction says.

Decides what an event is called, so that a retry is the same event in whichever replica it arrives, and which fields
are written. Raw subjects, idempotency keys and signed ids never are. Pure but for the random id of an event that has
no name; called by the routes.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pydantic_core import to_json

from ratchet_api.base import format_time
from ratchet_api.feedback import Feedback, Interaction, MetricEvent
from ratchet_api.signing import BadInteraction, Exposure, KeyRing, pseudonym, sign_interaction, verify_interaction
from ratchet_web.errors import Malformed

# Of an event's own fields: what is never stored, or is put where the signed interaction may overrule it.
_NEVER_STORED = {"subject", "idempotency_key", "interaction_id", "policy", "version", "timestamp"}
_UNTAGGED = _NEVER_STORED | {"tags"}
_BODIES = {"input", "response", "label", "probabilities", "tags"}
PAIR = "pair"
ANSWERS = frozenset({"interaction", "exposure", PAIR})
"""Types of records of answers: with their texts, without, and of what two versions were asked."""
_VERDICTS = {"thumbs_up": "thumb", "thumbs_down": "thumb"}


class Record(NamedTuple):
    """One event, ready to be stored.

    Attributes:
        id: 32 hex digits.
        key: name that the idempotency key gives it, where that is not its id.
        fingerprint: of the content; equal for a retry.
        subject: pseudonym, for the rate limit.
        policy: whose feedback it is.
        type: of the event, for the metric.
        line: the JSON as it is stored.
    """

    id: str
    key: str | None
    fingerprint: str
    subject: str | None
    policy: str
    type: str
    line: bytes


@dataclass(frozen=True, slots=True)
class Recorder:
    """Turns events into records.

    Attributes:
        ring: keys of interaction ids and subjects.
        require_interaction: refuse feedback without a signed id.
        collection_rate: share of interactions whose texts are kept.
        lifetime: of a new interaction id.
    """

    ring: KeyRing
    require_interaction: bool = False
    collection_rate: float = 1.0
    lifetime: timedelta = timedelta(days=30)

    def feedback(self, event: Feedback, *, source: str, now: datetime) -> Record:
        """Return the record of one event.

        Args:
            event: as it was sent.
            source: name of the caller; idempotency keys of different callers are different.
            now: when it was received.

        Raises:
            Malformed: no policy is named, or the interaction id is not good or names another one.
        """
        exposure = self._exposure(event.interaction_id, event.policy, now)
        policy = exposure.policy if exposure else event.policy
        if policy is None:
            raise Malformed("policy: is missing; name the policy that answered, or cite the interactionId")
        if exposure is None and self.require_interaction:
            raise Malformed("interactionId: is missing; this gateway takes feedback on signed interactions only")
        common = self._common(event, policy, exposure)
        content = _content("feedback", event, common, left_out=_NEVER_STORED if event.tags else _UNTAGGED)
        key = _key_name(source, event.idempotency_key) if event.idempotency_key else None
        name, other = key or new_id(now), None
        if exposure is not None:
            parts = [_VERDICTS.get(event.type, event.type), event.name if isinstance(event, MetricEvent) else ""]
            if event.supersedes is not None:  # one event of each type counts per interaction, and per change of mind
                parts.append(event.supersedes)
            name, other = _name("vote", exposure.id, *parts), key
        subject = common.get("subject")
        return _record(event.type, content, name, other, source, now, event.timestamp, subject, policy)

    def interaction(self, event: Interaction, *, source: str, now: datetime) -> tuple[Record, str, bool]:
        """Return the record of one interaction, its signed id (none of a pair), and whether its texts are kept.

        Raises:
            Malformed: the interaction id is not good or names another policy.
        """
        key = _key_name(source, event.idempotency_key) if event.idempotency_key else None
        if event.pair is not None:
            return _paired(event, key or new_id(now), source, now), "", False
        exposure = self._exposure(event.interaction_id, event.policy, now)
        signed = event.interaction_id
        if exposure is None:
            exposure = Exposure(
                id=key or new_id(now),
                policy=event.policy or "",
                version=event.version,
                arm=event.arm,
                propensity=event.assignment_propensity,
                experiment=event.experiment,
                issued=int(now.timestamp()),
                expires=int((now + self.lifetime).timestamp()),
            )
            signed = None
        kept = is_collected(exposure.id, self.collection_rate) and event.failed is None
        left_out = _NEVER_STORED | {"arm", "assignment_propensity", "experiment"} | (set() if kept else _BODIES)
        left_out |= {name for name in ("tags", "probabilities") if not getattr(event, name)}
        kind, common = "interaction" if kept else "exposure", self._common(event, exposure.policy, exposure)
        content = _content(kind, event, common, left_out=left_out)
        name, subject = _name("interaction", exposure.id), common.get("subject")
        record = _record(kind, content, name, key, source, now, event.timestamp, subject, exposure.policy)
        return record, signed or sign_interaction(exposure, self.ring), kept

    def _exposure(self, text: str | None, policy: str | None, now: datetime) -> Exposure | None:
        if text is None:
            return None
        try:
            exposure = verify_interaction(text, self.ring, now=now)
        except BadInteraction as error:
            raise Malformed(str(error)) from error
        if policy is not None and policy != exposure.policy:
            raise Malformed(
                f"policy {policy!r}: the interactionId was signed for policy {exposure.policy!r}; send one of the two"
            )
        return exposure

    def _common(self, event: Feedback | Interaction, policy: str, exposure: Exposure | None) -> dict[str, Any]:
        fields: dict[str, Any] = {"policy": policy}
        version = exposure.version if exposure else event.version
        if version is not None:
            fields["version"] = version
        if event.subject is not None:
            fields["subject"] = pseudonym(event.subject, self.ring)
        if exposure is not None:
            fields["interaction"] = exposure.id
            if exposure.arm is not None:
                fields["arm"] = exposure.arm
            if exposure.propensity is not None:
                fields["assignmentPropensity"] = exposure.propensity
            if exposure.experiment is not None:
                fields["experiment"] = exposure.experiment
        return fields


def _paired(event: Interaction, name: str, source: str, now: datetime) -> Record:
    """The record of an answer that is compared with another one to the same text; nothing in it is of a person."""
    kept = {"label", "abstained", "failed", "pair", "policy", "version"}
    said = event.__pydantic_serializer__.to_json(event, by_alias=True, exclude_none=True, include=kept)
    assert event.policy is not None  # the model refuses a pair without
    return _record(PAIR, _joined(PAIR, said, b"{}"), name, None, source, now, policy=event.policy)


def is_collected(interaction: str, rate: float) -> bool:
    """Tell whether an interaction's texts are kept: the same answer in every replica, for `rate` of all ids."""
    place = int.from_bytes(hashlib.sha256(b"collect\0" + interaction.encode()).digest()[:8]) / 2.0**64
    return place < rate


def new_id(now: datetime) -> str:
    """Return an id that sorts by time: 48 bits of milliseconds, 80 random ones, in hex."""
    return f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(10)}"


def _name(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_counted(part))
    return digest.hexdigest()[:32]


def _key_name(source: str, key: str) -> str:
    """The name that a sender's idempotency key gives an event."""
    digest = _keys_of(source).copy()
    digest.update(_counted(key))
    return digest.hexdigest()[:32]


@functools.lru_cache(maxsize=256)
def _keys_of(source: str) -> hashlib._Hash:
    """How the names of all keys of a sender begin."""
    return hashlib.sha256(_counted("key") + _counted(source))


def _counted(part: str) -> bytes:
    data = part.encode()
    return len(data).to_bytes(4) + data


def _content(kind: str, event: Feedback | Interaction, common: dict[str, Any], *, left_out: set[str]) -> bytes:
    """Everything of an event that makes a retry the same one: what was said, and what we make of it."""
    said = event.__pydantic_serializer__.to_json(event, by_alias=True, exclude_none=True, exclude=left_out)
    return _joined(kind, said, to_json(common))


def _joined(kind: str, *objects: bytes) -> bytes:
    """Put objects in JSON into one; as Python's dicts they would cost more than all else that is done to an event."""
    parts = [each[1:-1] for each in objects if each != b"{}"]
    return b'{"kind":"%b",%b}' % (kind.encode(), b",".join(parts))


def _record(
    kind: str,
    content: bytes,
    name: str,
    key: str | None,
    source: str,
    now: datetime,
    timestamp: datetime | None = None,
    subject: str | None = None,
    policy: str = "",
) -> Record:
    fingerprint = hashlib.sha256(content).hexdigest()[:16]
    stored = {"id": name, "source": source, "received": _milliseconds(now), "fingerprint": fingerprint}
    if timestamp is not None:
        stored["timestamp"] = format_time(timestamp)
    if key is not None and key != name:
        stored["key"] = key
    line = to_json(stored)[:-1] + b"," + content[1:]  # both are objects with something in them
    return Record(name, stored.get("key"), fingerprint, subject, policy, kind, line)


@functools.lru_cache(maxsize=16)
def _milliseconds(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
