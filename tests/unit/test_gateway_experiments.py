"""What the gateway tells of a rollout: the operator's status as it is, the analyst's counts as verdicts read them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.contenders import free_port
from ratchet_api.assign import experiment_of, salt_of
from ratchet_api.environment import SettingsError
from ratchet_api.evidence import EventCounts, Paces
from ratchet_api.rollout import ERRORS, Judged, rules_of
from ratchet_api.stats.verdict import judge
from ratchet_gateway.analyst_http import HttpAnalyst
from ratchet_gateway.experiments import Silent, counted, view_of_rollout
from ratchet_gateway.policies import FixedPolicies, PolicyView, view_of
from ratchet_gateway.settings import Settings
from tests.gateway_app import running
from tests.rollout_case import JUDGED, TRIAL, UID, CountedTrial, policy, split, under_test

EXPERIMENT = experiment_of(salt_of(UID, TRIAL))


def told(analyst: CountedTrial | None = None, *, view: PolicyView | None = None) -> Any:
    """What the gateway answers, as it goes over the wire."""
    shown = asyncio.run(view_of_rollout(view or policy(), analyst or CountedTrial()))
    return json.loads(shown.model_dump_json(by_alias=True))


def test_the_bounds_shown_are_those_that_decide() -> None:
    """The last point and the goal's row are the reading on which the verdict rests."""
    series = asyncio.run(CountedTrial().series("router", EXPERIMENT))
    rules = rules_of(Judged.model_validate(JUDGED))
    reading = judge(rules, series.now.evidence(rules)).readings[0]
    seen = told()["trial"]
    goal, last = seen["metrics"][0], seen["points"][-1]
    assert reading.band is not None
    assert (goal["improvement"], goal["low"], goal["high"]) == (reading.improvement, *reading.band)
    assert (last["difference"], last["low"], last["high"]) == (reading.improvement, *reading.band)
    assert goal["low"] < 0 < goal["improvement"] < goal["high"]
    assert (goal["name"], goal["role"], goal["standing"], goal["margin"]) == ("feedback", "goal", "open", 0.02)


def test_before_enough_have_spoken_a_point_has_counts_and_no_bounds() -> None:
    first = told()["trial"]["points"][0]
    assert (first["candidate"], first["champion"]) == (20, 20)
    assert not {name for name in ("difference", "low", "high") if first.get(name) is not None}


def test_every_guardrail_is_told_with_both_arms_and_its_bound() -> None:
    _, errors, rate = told()["trial"]["metrics"]
    assert (errors["name"], errors["role"], errors["ratio"], errors["standing"]) == ("errors", "guardrail", 2.0, "open")
    assert (errors["candidateSubjects"], errors["candidate"]) == (480, 3 / 480)
    assert (rate["name"], rate["margin"], rate["candidate"], rate["champion"]) == ("feedbackRate", 0.1, 0.5, 0.52)


@pytest.mark.parametrize(("means", "standing"), [((0.9, 0.5), "better"), ((0.3, 0.8), "worse"), ((0.7, 0.7), "open")])
def test_what_a_metric_has_shown_is_one_word(means: tuple[float, float], standing: str) -> None:
    assert told(CountedTrial((20, 400), means=means))["trial"]["metrics"][0]["standing"] == standing


def test_a_split_that_is_not_as_told_is_said() -> None:
    healthy = told()["trial"]["split"]
    assert (healthy["healthy"], healthy["candidate"], healthy["champion"]) == (True, 484, 480)
    ill = told(CountedTrial(split=split(600, 300)))["trial"]["split"]
    assert (ill["healthy"], ill["pValue"] < ill["alarm"]) == (False, True)


def test_the_operators_status_is_told_as_it_is() -> None:
    seen = told()
    assert seen["rollout"]["verdict"]["message"] == "feedback: 0.71 against 0.66"
    assert [row["percent"] for row in seen["rollout"]["history"]] == [0, 1, 5, 25]
    assert (seen["steps"], seen["goal"], seen["promotion"], seen["problem"]) == (
        [1, 5, 25, 50],
        "superior",
        "automatic",
        "",
    )


def test_the_trial_is_asked_for_by_the_id_that_servers_sign() -> None:
    analyst = CountedTrial()
    told(analyst)
    assert analyst.asked == [("router", EXPERIMENT)]


@pytest.mark.parametrize(
    ("view", "analyst", "want"),
    [
        (policy(), CountedTrial(silent="the analyst is away"), "the analyst is away"),
        (policy(asked=False), CountedTrial(), "spec.rollout was removed"),
        (policy(), CountedTrial(rare={ERRORS: EventCounts(candidate_events=5)}), "cannot be"),
    ],
    ids=["away", "removed", "impossible counts"],
)
def test_what_is_missing_leaves_the_rest(view: PolicyView, analyst: CountedTrial, want: str) -> None:
    """P37's like: shares and ledger are told while the analyst is away."""
    seen = told(analyst, view=view)
    assert want in seen["problem"]
    assert seen.get("trial") is None
    assert len(seen["rollout"]["history"]) == 4


def test_what_speaks_against_the_counts_is_told_with_them() -> None:
    seen = told(CountedTrial(problem="3 of 9 subjects met both arms"))
    assert seen["problem"] == "3 of 9 subjects met both arms"
    assert seen["trial"]["points"]


@pytest.mark.parametrize("view", [PolicyView("router"), policy(experiment="")], ids=["not served", "never tried"])
def test_without_a_trial_nobody_is_asked(view: PolicyView) -> None:
    analyst = CountedTrial()
    seen = told(analyst, view=view)
    assert (analyst.asked, seen.get("trial"), seen["problem"]) == ([], None, "")


def test_a_policy_is_read_with_its_rollout() -> None:
    body = {
        "metadata": {"name": "router", "uid": UID},
        "spec": {"type": "classifier", "serving": {}, "rollout": {"promotion": "manual"}},
        "status": {"rollout": {"serving": 3, "experiment": TRIAL}},
    }
    view = view_of(body)
    assert view.asked is not None
    assert view.rollout is not None
    assert (view.uid, view.asked.promotion, view.rollout.experiment) == (UID, "manual", TRIAL)


def test_whoever_may_read_is_told_over_http(tmp_path: Path) -> None:
    with running(tmp_path, policies=FixedPolicies({"router": policy()}), analyst=CountedTrial()) as gateway:
        answer = gateway.get("/api/policies/router/rollout", token="reader")
        assert answer.status_code == 200
        assert answer.json()["trial"]["split"]["healthy"] is True
        assert gateway.get("/api/policies/router/rollout", token="app").status_code == 403
        assert gateway.get("/api/policies/router/rollout", token=None).status_code == 401
        assert gateway.get("/api/policies/other/rollout").status_code == 404
    with running(tmp_path, policies=FixedPolicies({"router": policy()})) as gateway:
        assert "RATCHET_GATEWAY_ANALYST_URL" in gateway.get("/api/policies/router/rollout").json()["problem"]


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """A server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_counts_come_over_http_as_they_were_sent() -> None:
    sent = asyncio.run(CountedTrial().series("router", EXPERIMENT))
    with answering(200, sent.model_dump_json(by_alias=True).encode()) as url:
        assert asyncio.run(HttpAnalyst(url).series("router", EXPERIMENT)) == sent
    assert len(counted(sent, Judged.model_validate(JUDGED)).points) == 4


@pytest.mark.parametrize(
    ("status", "body", "want"),
    [
        (503, b"{}", "reads the log"),
        (500, b"oops", "answers 500"),
        (404, b"{}", "of this version"),
        (302, b"", "answers 302"),
        (200, b"<html>", "gives no counts"),
        (200, b'{"now": {}}', "gives no counts"),
        (200, b" " * (1 << 20) + b"{}", "of this version"),
    ],
)
def test_an_answer_that_is_none_is_worded(status: int, body: bytes, want: str) -> None:
    with answering(status, body, Location="http://127.0.0.1:1/") as url, pytest.raises(Silent, match=want) as said:
        asyncio.run(HttpAnalyst(url).series("router", EXPERIMENT))
    assert url in str(said.value)


def test_nobody_at_the_address_is_worded() -> None:
    with pytest.raises(Silent, match="does not answer"):
        asyncio.run(HttpAnalyst(f"http://127.0.0.1:{free_port()}").series("router", EXPERIMENT))


@pytest.mark.parametrize(
    "text", ["analyst", "ftp://analyst", "http://a b", "http://analyst/path", "http://analyst:port"]
)
def test_an_address_that_is_none_is_refused_by_name(text: str) -> None:
    environment = {
        "RATCHET_STORE_URI": "file:///x",
        "RATCHET_GATEWAY_NAMESPACE": "ns",
        "RATCHET_GATEWAY_SIGNING_KEYS": "/keys",
        "RATCHET_GATEWAY_KEYS_FILE": "/keys.json",
    }
    assert (
        Settings.from_env(environment | {"RATCHET_GATEWAY_ANALYST_URL": "http://a:8090/"}).analyst_url
        == "http://a:8090"
    )
    with pytest.raises(SettingsError, match="RATCHET_GATEWAY_ANALYST_URL"):
        Settings.from_env(environment | {"RATCHET_GATEWAY_ANALYST_URL": text})


def test_of_a_test_with_fixed_shares_the_status_is_told_and_no_trial_of_one_version() -> None:
    analyst = CountedTrial()
    seen = told(analyst, view=under_test())
    assert analyst.asked == []
    assert (seen.get("trial"), seen["problem"]) == (None, "")
    assert [arm["version"] for arm in seen["rollout"]["abTest"]["arms"]] == [4, 5]


def test_how_long_answers_took_is_shown_where_it_is_judged() -> None:
    judged = Judged.model_validate(JUDGED | {"latency": {"p99Milliseconds": 100}})
    series = asyncio.run(CountedTrial().series("router", EXPERIMENT))
    waited = [{"milliseconds": 200, "subjects": 3}, {"milliseconds": 9, "subjects": 97}]
    now = series.now.model_copy(update={"paces": Paces.model_validate({"candidate": waited})})
    slow = counted(series.model_copy(update={"now": now}), judged).metrics[-1]
    assert (slow.name, slow.candidate, slow.candidate_subjects) == ("slow", 0.03, 100)
