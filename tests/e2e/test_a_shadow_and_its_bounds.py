"""What a trial asks of the cluster, on the real one: a shadow behind Envoy, own numbers in Prometheus, an HTTPRoute.

One trial of one version passes through all three. It is first asked beside the champion, which nobody notices; then
Prometheus is away and holds its first share; then Gateways deal in place of routers, here by a few lines that do with
the HTTPRoute what the Gateway API says; and in the end a number beyond its bound takes it out.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from ratchet_api.names import ANNOTATION_ROLLOUT, LABEL_COMPONENT, LABEL_POLICY, ROUTER_PORT, SERVER_PORT, route_name
from ratchet_jobs.data.base_model import local_digest
from tests.e2e.platform import Object, Platform
from tests.e2e.shell import RATCHET
from tests.lab import binaries
from tests.tiny_bert import reviews, write_tiny_bert

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

POLICY, ROUTE = "sorter", route_name("sorter")
SMALL = {"cpu": 0.6, "memoryGi": 2}
LABELS = 'namespace="{{namespace}}",policy="{{policy}}",version="{{version}}"'
STEPS, STEP_SECONDS = [10, 25, 50], 2
SHADOWED, FIRST_SHARE = 40, 60
"""Texts after which the test looks at the report, and after which the version gets its first share."""
WELL = {
    "name": "records lost",
    "query": f'sum(ratchet_serving_records_total{{outcome="dropped",{LABELS}}})',
    "alive": f"sum(ratchet_serving_answers_total{{{LABELS}}})",
    "most": 0,
    "seconds": 3,
}
ILL = {
    "name": "seconds per answer",
    "query": f"sum(ratchet_serving_request_seconds_sum{{{LABELS}}})"
    f" / sum(ratchet_serving_request_seconds_count{{{LABELS}}})",
    "most": 1e-6,
    "seconds": 3,
}
CRD = "httproutes.gateway.networking.k8s.io"
PARENTS = [{"name": "edge", "namespace": "infra", "sectionName": "https"}]


class Answer(NamedTuple):
    """What somebody got who asked."""

    text: str
    label: str
    version: int


def manifests(digest: str) -> list[Object]:
    """One policy, and a run that hardly learns beside one that learns; which is the first version is all the same."""
    dataset = {
        "type": "classification",
        "source": {"objects": [{"uri": f"store://{POLICY}/rows.csv"}]},
        "columns": {"text": "body", "label": "team"},
        "split": {"trainPercent": 60, "validationPercent": 20, "testPercent": 20},
        "resources": SMALL,
    }
    policy = {
        "type": "classifier",
        "serving": {
            "resources": {"cpu": 0.4, "memoryGi": 1.5, "ephemeralStorageGi": 1},
            "routers": {"replicas": 1, "cpu": 0.15, "memoryGi": 0.25},
        },
        "rollout": {
            "shadow": {"percent": 100, "seconds": 1, "minPairs": FIRST_SHARE},
            "canary": {"steps": STEPS, "stepSeconds": STEP_SECONDS},
            "judged": {"queries": [WELL]},
        },
    }
    return [
        _object("FeedbackDataset", POLICY, dataset),
        _object("RLPolicy", POLICY, policy),
        _object("RLTrainingRun", f"{POLICY}-hasty", _run(digest, epochs=1, rate=1e-4)),
        _object("RLTrainingRun", f"{POLICY}-patient", _run(digest, epochs=8, rate=5e-3)),
    ]


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": "ratchet.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _run(digest: str, *, epochs: int, rate: float) -> Object:
    learning = {"epochs": epochs, "batchSize": 8, "learningRate": rate, "maxTokens": 32}
    return {
        "policyType": "classifier",
        "baseModel": {"uri": f"store://{POLICY}/base", "sha256": digest},
        "datasetRef": {"name": POLICY},
        "publishTo": {"name": POLICY},
        "stages": {"supervised": learning | {"resources": SMALL}, "evaluate": {"resources": SMALL}},
    }


def inputs(folder: Path) -> tuple[str, dict[str, bytes | Path]]:
    """Return the base model's digest, and key below the team's prefix -> content."""
    base, rows = write_tiny_bert(folder / "base"), io.StringIO()
    csv.writer(rows).writerows([("body", "team"), *reviews(120, seed=1)])
    files: dict[str, bytes | Path] = {f"{POLICY}/base/{path.name}": path for path in base.iterdir()}
    return local_digest(base), files | {f"{POLICY}/rows.csv": rows.getvalue().encode()}


@dataclass
class Trial:
    """The trial of version 2 against version 1, and the people who ask."""

    platform: Platform
    came: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def status(self) -> Object:
        found: Object = self.platform.get("rlp", POLICY).get("status", {})
        return found

    @property
    def rollout(self) -> Object:
        found: Object = self.status.get("rollout", {})
        return found

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = self.platform.condition("rlp", POLICY, kind)
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def patch(self, **spec: Any) -> None:
        self.platform.kubectl("patch", "rlp", POLICY, "--type=merge", "-p", json.dumps({"spec": spec}))

    def tell(self, verb: str) -> None:
        self.platform.kubectl("annotate", "rlp", POLICY, f"{ANNOTATION_ROLLOUT}={verb}", "--overwrite")

    def ratchet(self, *words: str) -> str:
        """What a person sees who types `ratchet` with these words; lines are not folded."""
        command = ["env", "COLUMNS=300", *RATCHET, *words, "-n", self.platform.namespace]
        return self.platform.lab.in_netns(command)

    def deployments(self) -> set[str]:
        found = self.platform.items("deployments", f"{LABEL_POLICY}={POLICY}")
        return {each["metadata"]["name"].removeprefix(f"{POLICY}-") for each in found}

    def ask_router(self, people: int) -> list[Answer]:
        """Let so many new people ask through Envoy."""
        host = self._address(f"{LABEL_POLICY}={POLICY},{LABEL_COMPONENT}=router")
        return [self._ask(f"{host}:{ROUTER_PORT}", text, {}) for text in self._texts(people)]

    def ask_gateway(self, people: int) -> list[Answer]:
        """Let so many new people ask through a Gateway, which does with each request what the HTTPRoute says."""
        (rule,) = self.platform.get("httproute", ROUTE)["spec"]["rules"]
        backends = rule["backendRefs"]
        hosts = {name: self._address(self._selector(name)) for name in {each["name"] for each in backends}}
        weights = [each["weight"] for each in backends]
        answers = []
        for text in self._texts(people):
            (backend,) = self.dice.choices(backends, weights)
            changes = [
                each["requestHeaderModifier"] for each in (*rule.get("filters", ()), *backend.get("filters", ()))
            ]
            said = {header["name"]: header["value"] for change in changes for header in change.get("set", ())}
            answers.append(self._ask(f"{hosts[backend['name']]}:{backend['port']}", text, said))
        return answers

    def answers_of(self, version: int, texts: Sequence[str]) -> list[str]:
        """What a version's server answers when it is asked by nobody else."""
        host = self._address(self._selector(f"{POLICY}-v{version}"))
        return [self._ask(f"{host}:{SERVER_PORT}", text, {}).label for text in texts]

    def take_route(self) -> None:
        """Say what a Gateway's controller says of a route that it has taken as it is."""
        route = self.platform.get("httproute", ROUTE)
        seen = {"observedGeneration": route["metadata"]["generation"], "lastTransitionTime": "2026-01-01T00:00:00Z"}
        said = [
            {"type": kind, "status": "True", "reason": kind, "message": ""} | seen
            for kind in ("Accepted", "ResolvedRefs")
        ]
        rows = [{"controllerName": "example.com/edge", "parentRef": each, "conditions": said} for each in PARENTS]
        patch = json.dumps({"status": {"parents": rows}})
        self.platform.kubectl("patch", "httproute", ROUTE, "--subresource=status", "--type=merge", "-p", patch)

    def shares(self) -> list[tuple[str, int]]:
        """Whom the route sends how many of ten thousand requests."""
        rule = self.platform.get("httproute", ROUTE)["spec"]["rules"][-1]
        return [(each["name"].removeprefix(f"{POLICY}-"), each["weight"]) for each in rule["backendRefs"]]

    def _selector(self, service: str) -> str:
        selector = self.platform.get("service", service)["spec"]["selector"]
        return ",".join(f"{key}={value}" for key, value in selector.items())

    def _address(self, selector: str) -> str:
        """Of the one pod that is there; while a Deployment changes there may be two."""
        found: list[str] = []

        def alone() -> bool:
            pods = [
                each for each in self.platform.items("pods", selector) if not each["metadata"].get("deletionTimestamp")
            ]
            found[:] = [each["status"]["podIP"] for each in pods if each["status"].get("podIP")]
            return len(pods) == len(found) == 1

        self.platform.wait(f"one pod of {selector}", alone, 120)
        return f"http://{found[0]}"

    def _texts(self, people: int) -> list[str]:
        return [text for text, _ in reviews(people, seed=1000 + self.came)]

    def _ask(self, url: str, text: str, headers: dict[str, str]) -> Answer:
        self.came += 1
        who = {"x-ratchet-subject": f"person-{self.came}"}
        with self.platform.lab.inside():
            found = httpx2.post(f"{url}/v1/classify", json={"text": text}, headers=who | headers, timeout=60)
        answer = found.raise_for_status()
        return Answer(text, answer.json()["label"] or "", int(answer.headers["x-ratchet-version"]))


@pytest.fixture(scope="module")
def trial(platform: Platform, serving_image: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Version 1 serves, and version 2 is only asked besides."""
    platform.lab.kubectl("delete", "crd", CRD, "--ignore-not-found")
    digest, files = inputs(tmp_path_factory.mktemp("sorter"))
    platform.upload(files)
    platform.apply(*manifests(digest))
    for run in ("hasty", "patient"):
        platform.finish(f"{POLICY}-{run}", 600)
    platform.kubectl("annotate", "rlp", POLICY, "ratchet.dev/promote=1", "--overwrite")
    made = Trial(platform)
    platform.wait("version 2 to be asked besides", lambda: "shadowSince" in made.rollout, 600)
    yield made
    platform.kubectl("delete", "rlp", POLICY, "--ignore-not-found", "--wait=false")
    platform.kubectl("delete", "rltr", f"{POLICY}-hasty", f"{POLICY}-patient", "--wait=false")
    platform.kubectl("delete", "fbd", POLICY, "--wait=false")
    platform.lab.kubectl("delete", "crd", CRD, "--ignore-not-found")


@pytest.fixture(scope="module")
def asked_besides(trial: Trial) -> list[Answer]:
    """What people got while version 2 was asked what they asked."""
    answers = trial.ask_router(SHADOWED)
    trial.platform.wait(
        "all pairs to be counted", lambda: trial.rollout.get("shadow", {}).get("pairs", 0) >= SHADOWED, 120
    )
    return answers


def test_nobody_gets_the_answers_of_a_shadow(trial: Trial, asked_besides: list[Answer]) -> None:
    assert {answer.version for answer in asked_besides} == {1}
    assert [answer.label for answer in asked_besides] == trial.answers_of(1, [each.text for each in asked_besides])
    assert (trial.status["state"], trial.rollout["percent"]) == ("Shadowing", 0)


def test_the_report_of_a_shadow_is_what_both_versions_answer_to_the_same_texts(
    trial: Trial, asked_besides: list[Answer]
) -> None:
    report = trial.rollout["shadow"]
    said = [answer.label for answer in asked_besides]
    pairs = list(zip(said, trial.answers_of(2, [each.text for each in asked_besides]), strict=True))
    flips = Counter(pair for pair in pairs if pair[0] != pair[1])
    assert flips, "two versions that always agree show nothing"
    assert (report["pairs"], report["flips"], report["failures"]) == (SHADOWED, flips.total(), 0)
    told = {(row["champion"], row["candidate"]): (row["pairs"], row["of"]) for row in report["confusions"]}
    assert told == {pair: (count, said.count(pair[0])) for pair, count in flips.items()}
    for who in ("champion", "candidate"):
        assert 0 < report[f"{who}P50Ms"] <= report[f"{who}P99Ms"]


def test_a_person_sees_how_often_the_shadow_differed_where_and_how_long_it_took(
    trial: Trial, asked_besides: list[Answer]
) -> None:
    printed, report = trial.ratchet("status", f"policy/{POLICY}"), trial.rollout["shadow"]
    assert "version 2 is asked beside version 1, and nobody gets its answers" in printed
    assert f"{report['flips']} of {SHADOWED} texts" in printed
    assert "the champion's within" in printed
    first = report["confusions"][0]
    assert f"{first['champion']} → {first['candidate']}: {first['pairs']} of {first['of']}" in printed


@pytest.fixture(scope="module")
def unmeasured(trial: Trial, asked_besides: list[Answer]) -> list[Answer]:
    """What people got while version 2 had its first share and Prometheus was away, for longer than a step."""
    met: list[Answer] = []

    def held() -> bool:
        met.extend(trial.ask_router(10))
        _, reason, message = trial.condition("RolledOut")
        return reason == "Holding" and "does not answer" in message and Counter(a.version for a in met)[2] > 5

    with trial.platform.lab.without("prometheus"):
        trial.ask_router(FIRST_SHARE - SHADOWED)
        trial.platform.wait("the first share", lambda: trial.rollout.get("percent", 0) > 0, 120)
        trial.platform.wait("the share to be held", held, 180)
        met.extend(trial.ask_router(40))
        trial.tell("pause")
        trial.platform.wait("the pause", lambda: trial.rollout.get("paused", False), 60)
    return met


def test_a_number_that_prometheus_does_not_tell_holds_the_share_and_blames_nobody(
    trial: Trial, unmeasured: list[Answer]
) -> None:
    """P35, with a real Prometheus that is away."""
    assert {answer.version for answer in unmeasured} == {1, 2}
    given = [(row["candidate"], row["percent"]) for row in trial.rollout["history"] if "candidate" in row]
    assert given == [(2, STEPS[0])]
    assert trial.rollout["candidate"] == 2


def test_a_number_within_its_bounds_is_told_as_prometheus_has_it(trial: Trial, unmeasured: list[Answer]) -> None:
    def known() -> bool:
        trial.ask_router(10)
        rows = trial.rollout["queries"]
        return [(row["name"], row["version"], row.get("value")) for row in rows] == [(WELL["name"], 2, 0)]

    trial.platform.wait("the number to be known", known, 180)
    trial.platform.wait("the pause to be all that holds", lambda: trial.status["state"] == "Paused", 60)
    assert f"{WELL['name']}: 0" in trial.ratchet("status", f"policy/{POLICY}")
    assert trial.rollout["verdict"]["outcome"] != "Failed"


@pytest.fixture(scope="module")
def routed(trial: Trial, unmeasured: list[Answer]) -> Trial:
    """The trial goes on, and a Gateway is to deal in place of the routers."""
    trial.patch(serving={"routers": None, "httpRoute": {"parentRefs": PARENTS}}, rollout={"shadow": None})
    trial.platform.wait("it to miss the kind", lambda: trial.condition("Stalled")[1] == "GatewayAPIMissing", 120)
    assert {answer.version for answer in trial.ask_router(40)} == {1, 2}, "whoever dealt before deals on"
    source = binaries.source_of(binaries.GATEWAY_API, "sigs.k8s.io/gateway-api")
    crd = source / "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
    trial.platform.lab.kubectl("apply", "--server-side", "-f", str(crd))
    trial.platform.wait("the route", lambda: bool(trial.platform.get("httproute", ROUTE)), 180)
    return trial


def test_the_route_has_the_shares_of_the_trial_and_routers_deal_until_a_gateway_took_it(routed: Trial) -> None:
    assert routed.shares() == [("v2", 1000), ("v1", 8000), ("v1", 1000)]
    routed.platform.wait("it to wait", lambda: "says nothing of it" in routed.condition("RolledOut")[2], 120)
    assert routed.condition("Sticky")[:2] == ("False", "DealtByGateways")
    assert "throws dice for each request, version 2 with 10 %, else version 1" in routed.ratchet("why", "person-1")
    assert routed.deployments() == {"v1", "v2", "router"}
    routed.take_route()
    routed.platform.wait("the routers to end", lambda: routed.deployments() == {"v1", "v2"}, 120)


def test_the_weights_of_the_route_rise_with_the_share(routed: Trial) -> None:
    """The analyst counts whom the Gateway sent where, by what the route has it say to the servers."""
    met: list[Answer] = []

    def next_step() -> bool:
        met.extend(routed.ask_gateway(10))
        return bool(routed.rollout["percent"] == STEPS[1])

    routed.tell("resume")
    routed.platform.wait("the second share", next_step, 180)
    routed.platform.wait("the weights", lambda: dict(routed.shares()[:1]) == {"v2": 2500}, 60)
    assert routed.shares() == [("v2", 2500), ("v1", 5000), ("v1", 2500)]
    assert {answer.version for answer in met} == {1, 2}
    routed.platform.wait(
        "it to wait again", lambda: "has not seen its last change" in routed.condition("RolledOut")[2], 60
    )
    routed.take_route()


@pytest.fixture(scope="module")
def taken_out(routed: Trial) -> Trial:
    """One number more, which is beyond its bound."""
    routed.patch(rollout={"judged": {"queries": [WELL, ILL]}})

    def over() -> bool:
        routed.take_route()
        routed.ask_gateway(5)
        return "candidate" not in routed.rollout

    routed.platform.wait("version 2 to be taken out", over, 180)
    return routed


def test_a_number_beyond_its_bound_takes_the_version_out_and_the_history_says_which(taken_out: Trial) -> None:
    last = taken_out.rollout["history"][-1]
    assert (last["version"], last.get("candidate"), last["by"]) == (1, None, "operator")
    assert f"Version 2 is taken out: {ILL['name']} is " in last["why"], last
    assert "above 1e-06 for" in last["why"], last
    assert WELL["name"] not in last["why"]
    assert taken_out.rollout["verdict"]["outcome"] == "Failed"
    assert f"{ILL['name']} is " in taken_out.ratchet("history", POLICY)
    events = taken_out.platform.kubectl("get", "events", "-o", "json", "--field-selector=reason=RolledBack")
    assert [each["type"] for each in json.loads(events)["items"] if each["involvedObject"]["name"] == POLICY] == [
        "Warning"
    ]


def test_the_route_sends_everybody_to_the_champion_and_goes_with_the_policy(taken_out: Trial) -> None:
    trial = taken_out
    trial.platform.wait("the weights", lambda: trial.shares() == [("v1", 1)], 60)
    trial.take_route()
    trial.platform.wait("the servers of version 2 to end", lambda: trial.deployments() == {"v1"}, 120)
    trial.platform.wait("rest", lambda: trial.status["state"] == "Ready", 60)
    assert {answer.version for answer in trial.ask_gateway(10)} == {1}
    trial.platform.kubectl("delete", "rlp", POLICY, "--timeout=60s")
    trial.platform.wait("the route to be gone", lambda: not trial.platform.get("httproute", ROUTE), 120)
    trial.platform.wait("the servers to be gone", lambda: not trial.deployments(), 120)
