"""The client: what it sends, what it tries again, and what it gives up on."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx2
import pytest

from ratchet_api.client import GatewayClient, GatewayError
from ratchet_api.feedback import Rating

STORED = {"status": "stored", "events": [{"id": "a" * 32, "duplicate": False}]}


class Server:
    """Answers from a list, the last one for ever; remembers what it was sent."""

    def __init__(self, *answers: Callable[[], httpx2.Response]) -> None:
        self.answers = list(answers)
        self.bodies: list[dict[str, object]] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(json.loads(request.content or b"{}"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer()

    def client(self, **more: float) -> GatewayClient:
        transport = httpx2.MockTransport(self)
        return GatewayClient(
            "http://gateway", transport=transport, sleep=self.slept.append, clock=lambda: sum(self.slept), **more
        )


def good() -> httpx2.Response:
    return httpx2.Response(200, json=STORED)


def busy(seconds: str = "3") -> httpx2.Response:
    return httpx2.Response(503, json={"detail": "too many"}, headers={"Retry-After": seconds})


def lost() -> httpx2.Response:
    raise httpx2.ReadError("connection reset")


@pytest.mark.parametrize("trouble", [busy, lost, lambda: httpx2.Response(429, json={"detail": "slow"})])
def test_a_retry_carries_the_same_key(trouble: Callable[[], httpx2.Response]) -> None:
    server = Server(trouble, trouble, good)
    assert server.client().send({"type": "thumbs_up", "policy": "p"}).id == "a" * 32
    keys = {json.dumps(body) for body in server.bodies}
    assert (len(server.bodies), len(keys)) == (3, 1)
    assert "idempotencyKey" in keys.pop()


def test_a_given_key_is_kept_and_models_are_sent_in_the_apis_names() -> None:
    server = Server(good)
    server.client().send(Rating(type="rating", rating=4, policy="p", idempotency_key="mine", run_id="7"))
    [event] = server.bodies[0]["events"]  # type: ignore[misc]
    assert {k: event[k] for k in ("type", "rating", "policy", "idempotencyKey", "runId")} == {
        "type": "rating",
        "rating": 4,
        "policy": "p",
        "idempotencyKey": "mine",
        "runId": "7",
    }


def test_it_waits_as_long_as_it_is_told() -> None:
    server = Server(busy, good)
    server.client().send({"type": "thumbs_up"})
    assert server.slept == [3.0]


def test_it_gives_up_when_its_patience_ends_and_says_what_the_gateway_said() -> None:
    server = Server(busy)
    with pytest.raises(GatewayError, match="too many") as error:
        server.client(patience_seconds=10).send({"type": "thumbs_up"})
    assert (error.value.status, server.slept) == (503, [3.0, 3.0, 3.0])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_a_refusal_is_final(status: int) -> None:
    server = Server(lambda: httpx2.Response(status, json={"detail": "no"}))
    with pytest.raises(GatewayError, match="no") as error:
        server.client().send({"type": "thumbs_up"})
    assert (error.value.status, len(server.bodies)) == (status, 1)


def test_a_page_of_something_else_is_told_from_a_gateway() -> None:
    server = Server(lambda: httpx2.Response(404, text="<html>"))
    with pytest.raises(GatewayError, match="something that is no gateway"):
        server.client().versions("p")


def test_nobody_there_is_said_with_the_address() -> None:
    with pytest.raises(GatewayError, match=r"http://gateway.*is the address right"):
        Server(lost).client(patience_seconds=0).stats("p")
