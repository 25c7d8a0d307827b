"""The gateway's API for Python programs: send feedback, record answers, ask about policies.

Decides what is tried again: an answer of 429 or 503 (after its Retry-After) and a lost connection, always with the
same idempotency key, so that a retry is never a second event. Needs the extra `client`. Used by applications and by
`ratchet feedback`.

    with GatewayClient("http://127.0.0.1:8000", token=KEY) as gateway:
        answer = gateway.record({"policy": "router", "input": question, "label": label})
        gateway.send({"type": "thumbs_up", "interactionId": answer.interaction_id})
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter

from ratchet_api.erasure import ErasureAnswer
from ratchet_api.feedback import (
    FeedbackAnswer,
    FeedbackStats,
    InteractionAnswer,
    InteractionStored,
    Stored,
    TrainEstimate,
    VersionView,
)
from ratchet_api.train_answers import NotTrained, TrainAnswer, Trained, TrainRunning, TrainStarted

_TRAINING: TypeAdapter[TrainRunning | Trained | NotTrained] = TypeAdapter(TrainAnswer)
Event = Mapping[str, Any] | BaseModel
"""An event as plain data in the API's names, or one of the models of `ratchet_api.feedback`."""

_AGAIN = {429, 503}
_VERSIONS: TypeAdapter[list[VersionView]] = TypeAdapter(list[VersionView])
ModelT = TypeVar("ModelT", bound=BaseModel)


class GatewayError(Exception):
    """The gateway refused, or could not be reached.

    Attributes:
        status: HTTP status; None when there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class GatewayClient:
    """One gateway.

    Args:
        url: its address, such as http://127.0.0.1:8000.
        token: API key or Kubernetes token; None where the gateway asks for none.
        patience_seconds: how long one call tries again before it raises.
        timeout_seconds: of one request; above the gateway's own patience with its store.
        transport: for tests.
        sleep: for tests.
        clock: monotonic seconds, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        patience_seconds: float = 60.0,
        timeout_seconds: float = 30.0,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout_seconds, transport=transport)
        self._url, self._patience, self._sleep, self._clock = url, patience_seconds, sleep, clock

    def send(self, event: Event, *, dry_run: bool = False) -> Stored:
        """Store one event of feedback; return when it is stored.

        Raises:
            GatewayError: it was refused, or nobody answered in time. Sending the same event with the same
                idempotencyKey later is safe.
        """
        return self.send_all([event], dry_run=dry_run).events[0]

    def send_all(self, events: Sequence[Event], *, dry_run: bool = False) -> FeedbackAnswer:
        """Store up to 1000 events, all or none.

        Raises:
            GatewayError: as for `send`.
        """
        path = "/v1/feedback" + ("?dryRun=true" if dry_run else "")
        return self._ask(FeedbackAnswer, "POST", path, {"events": [_named(event) for event in events]})

    def undo(self, policy: str, event_id: str, *, dry_run: bool = False) -> Stored:
        """Take an event back that this token sent; doing it twice changes nothing.

        Args:
            policy: that the event is about.
            event_id: as the answer to the event gave it.
            dry_run: check only.

        Raises:
            GatewayError: as for `send`.
        """
        event = {"type": "undo", "policy": policy, "supersedes": event_id, "idempotencyKey": f"undo-{event_id}"}
        return self.send(event, dry_run=dry_run)

    def record(self, interaction: Event) -> InteractionStored:
        """Record one answer of a policy; the result carries the signed id by which it can be rated.

        Raises:
            GatewayError: as for `send`.
        """
        return self.record_all([interaction]).events[0]

    def record_all(self, interactions: Sequence[Event]) -> InteractionAnswer:
        """Record up to 1000 answers, all or none.

        Raises:
            GatewayError: as for `send`.
        """
        body = {"events": [_named(each) for each in interactions]}
        return self._ask(InteractionAnswer, "POST", "/v1/interactions", body)

    def versions(self, policy: str) -> list[VersionView]:
        """Return a policy's published versions, oldest first.

        Raises:
            GatewayError: it was refused, or nobody answered in time.
        """
        return _VERSIONS.validate_json(self._call("GET", f"/api/policies/{policy}", None))

    def stats(self, policy: str) -> FeedbackStats:
        """Return what the log holds about a policy.

        Raises:
            GatewayError: it was refused, or nobody answered in time.
        """
        return self._ask(FeedbackStats, "GET", f"/api/policies/{policy}/feedback", None)

    def training_estimate(self, policy: str, **more: Any) -> TrainEstimate:
        """Return what training on the feedback so far would be; `more` may hold maxSteps and learningRate.

        Raises:
            GatewayError: it was refused (fewer than ten samples, for one), or nobody answered in time.
        """
        body = {"dryRun": True, **more}
        return self._ask(TrainEstimate, "POST", f"/api/policies/train_policy/{policy}", body)

    def train(self, policy: str, **more: Any) -> TrainStarted:
        """Start a run of the policy's template on its feedback; `more` may hold maxSteps and learningRate.

        The same request on the same feedback is the same run, so calling again is safe.

        Raises:
            GatewayError: it was refused (fewer than ten samples, for one), or nobody answered in time.
        """
        return self._ask(TrainStarted, "POST", f"/api/policies/train_policy/{policy}", more)

    def training(self, policy: str, run: str) -> TrainRunning | Trained | NotTrained:
        """Return how far a run is.

        Raises:
            GatewayError: there is no such run, it was refused, or nobody answered in time.
        """
        return _TRAINING.validate_json(self._call("GET", f"/api/policies/train_policy/{policy}/{run}", None))

    def erase(self, subject: str) -> ErasureAnswer:
        """Ask that a person be erased; from then on nothing of them is read.

        Args:
            subject: as the events named the person.

        Raises:
            GatewayError: it was refused, or nobody answered in time. Asking again is the same erasure.
        """
        return self._ask(ErasureAnswer, "POST", "/v1/erasures", {"subject": subject})

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _ask(self, model: type[ModelT], method: str, path: str, body: Any) -> ModelT:
        return model.model_validate_json(self._call(method, path, body))

    def _call(self, method: str, path: str, body: Any) -> bytes:
        end, pause = self._clock() + self._patience, 0.2
        while True:
            try:
                answer = self._http.request(method, path, json=body)
            except httpx2.TransportError as error:
                problem = GatewayError(f"gateway {self._url}: {type(error).__name__}: {error}; is the address right?")
                wait = pause
            else:
                if answer.is_success:
                    return answer.content
                problem = GatewayError(_detail(answer), status=answer.status_code)
                if answer.status_code not in _AGAIN:
                    raise problem
                wait = max(pause, float(answer.headers.get("Retry-After", "0")))
            if self._clock() + wait > end:
                raise problem
            self._sleep(wait)
            pause = min(pause * 2, 5.0)


def _named(event: Event) -> dict[str, Any]:
    """Return the event as plain data, under a key of its own if it has none."""
    plain = event.model_dump(mode="json", by_alias=True, exclude_none=True) if isinstance(event, BaseModel) else event
    return {"idempotencyKey": secrets.token_hex(16), **plain}


def _detail(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code} from something that is no gateway; is the address right?"
