"""What the routes work with, made once per process and handed to each request.

Decides nothing; holds the parts and the two steps that all ingesting routes share: `admit` before anything is stored,
and `store`, which answers only when the log has confirmed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, NamedTuple

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ratchet_gateway.auth import Authenticator, Caller, authenticate
from ratchet_gateway.datasets import Datasets
from ratchet_gateway.errors import Away, Conflict, TooMany, UnknownPolicy
from ratchet_gateway.experiments import Analyst
from ratchet_gateway.known import KnownEvents, Seen
from ratchet_gateway.log.writer import LogWriter, NotAccepted
from ratchet_gateway.metrics import GatewayMetrics
from ratchet_gateway.policies import Policies, PolicyView
from ratchet_gateway.ratelimit import RateLimit
from ratchet_gateway.records import ANSWERS, Record, Recorder
from ratchet_gateway.review import ReviewIndex
from ratchet_gateway.tally import Tally
from ratchet_gateway.training import Training
from ratchet_jobs.runtime.store import Store
from ratchet_web.errors import Malformed


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one gateway process."""

    writer: LogWriter
    recorder: Recorder
    known: KnownEvents
    policies: Policies
    ways: tuple[Authenticator, ...]
    training: Training | None
    store_of_log: Store
    namespace: str
    key_limit: RateLimit
    subject_limit: RateLimit
    tally: Tally
    review: ReviewIndex
    analyst: Analyst
    datasets: Datasets
    metrics: GatewayMetrics
    ask_seconds: float
    now: Callable[[], datetime]

    async def policy(self, name: str) -> PolicyView:
        """Return a policy.

        Raises:
            UnknownPolicy: there is none of that name.
        """
        view = await self.policies.find(name)
        if view is None:
            raise UnknownPolicy(f"policy {name!r}: there is no RLPolicy of that name here; correct it or create it")
        return view

    async def admit(self, caller: Caller, records: Sequence[Record]) -> None:
        """Let events pass to the log.

        Raises:
            UnknownPolicy: one of them is about no policy.
            Malformed: more events of one subject than ever pass at once.
            TooMany: the caller or a subject sends too much.
        """
        for name in {record.policy for record in records}:
            await self.policy(name)
        if wait := self.key_limit.take({caller.name: len(records)}):
            raise TooMany(f"token {caller.name!r} sends too many events; send fewer, or later", retry_after=wait)
        # what a person was answered is the server's word, and one refusal would hold up everybody's records behind it
        said = (record for record in records if record.type not in ANSWERS)
        subjects = Counter(record.subject for record in said if record.subject is not None)
        most, limit = max(subjects.values(), default=0), self.subject_limit.per_minute
        if most > limit:  # no waiting would help
            raise Malformed(f"events: {most} of one subject in one request, at most {limit} pass; send smaller batches")
        if wait := self.subject_limit.take(subjects):
            raise TooMany("one subject sends too many events; send fewer, or later", retry_after=wait)

    def look(self, records: Sequence[Record]) -> list[bool]:
        """Tell which events are in the log already, and keep nothing of the others.

        Raises:
            Conflict: another content has one of the names.
        """
        known, claimed = self._claim(records)
        self._release(claimed)
        return known

    async def store(self, records: Sequence[Record]) -> list[bool]:
        """Write what is new to the log; return which events were there before.

        Raises:
            Conflict: another content has one of the names; nothing is written.
            Away: the log did not confirm.
        """
        known, claimed = self._claim(records)
        new = {record.id: record for record, is_known in zip(records, known, strict=True) if not is_known}
        if new:
            try:
                await self.writer.append([record.line for record in new.values()])
            except NotAccepted as error:
                self._release(claimed)
                raise Away(str(error), retry_after=error.retry_after) from error
        for record in new.values():
            for name in _names(record):
                self.known.stored(name, record.fingerprint)
        for (policy, kind), count in Counter((record.policy, record.type) for record in new.values()).items():
            self.metrics.events.labels(policy, kind).inc(count)
        self.metrics.duplicates.inc(len(records) - len(new))
        if len(new) == len(records):
            return known
        first = {id(record) for record in {record.id: record for record in reversed(records)}.values()}
        return [is_known or id(record) not in first for record, is_known in zip(records, known, strict=True)]

    def _claim(self, records: Sequence[Record]) -> tuple[list[bool], list[tuple[str, str]]]:
        """Claim the names of new events; return which events are in the log already, and the claims."""
        claimed: list[tuple[str, str]] = []
        found: list[bool] = []
        for number, record in enumerate(records):
            seen = Seen.NEW
            for name in _names(record):
                seen = self.known.claim(name, record.fingerprint)
                if seen is Seen.OTHER:
                    self._release(claimed)
                    what = "idempotencyKey" if name == record.key else "interactionId or idempotencyKey"
                    which = f"events[{number}]" if len(records) > 1 else "the event"
                    raise Conflict(
                        f"{which} ({record.type}): its {what} was used for another content before; "
                        "one event of each type counts per interaction, and a new event needs a new key"
                    )
                if seen is Seen.NEW:
                    claimed.append((name, record.fingerprint))
            found.append(seen is Seen.STORED)
        return found, claimed

    def _release(self, claimed: Iterable[tuple[str, str]]) -> None:
        for name, fingerprint in claimed:
            self.known.release(name, fingerprint)


def _names(record: Record) -> list[str]:
    """Names of an event, its id last."""
    return [record.id] if record.key is None else [record.key, record.id]


class Call(NamedTuple):
    """One request: what it works with, and who sent it."""

    services: Services
    caller: Caller


_bearer = HTTPBearer(
    auto_error=False, description="An API key, or a Kubernetes token for the audience ratchet-gateway."
)


def services_of(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    found: Services = request.app.state.services
    return found


async def _call(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Call:
    """Find out who calls. Async, since what is not runs in a thread, which costs more than all it does."""
    services = services_of(request)
    return Call(services, await authenticate(services.ways, credentials.credentials if credentials else None))


Calling = Annotated[Call, Depends(_call)]
