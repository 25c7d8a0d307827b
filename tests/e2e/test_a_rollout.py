"""From feedback to promotion on the real cluster: the tutorial, typed as it stands, and what must be true meanwhile.

Its people ask through Envoy and vote through the gateway. The first version has hardly learned; what people said of it
teaches the second, which is promoted step by step; the third has not learned either, and is taken out. All three were
trained, evaluated and published by runs, on a model small enough for a test.
"""

from __future__ import annotations

import csv
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx2
import pytest

from ratchet_api.assign import experiment_of, salt_of
from ratchet_api.evidence import ExperimentEvidence
from ratchet_api.names import LABEL_COMPONENT, LABEL_POLICY, ROUTER_PORT
from ratchet_api.rollout import FEEDBACK, Judged, rules_of
from ratchet_api.stats.relative import relative_change
from ratchet_jobs.feedback_log.segment import content_of, log_prefix, parse_key
from tests.e2e.platform import Platform
from tests.tutorials import FOLDER, Typist

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2700)]

PAGE = FOLDER / "from-feedback-to-promotion.md"
A_WORSE_ONE, TWO_AT_ONCE, CLEAN_UP = "## 6. A worse one is taken out", "## 7. Two at once", "## 8. Clean up"
POLICY = "desk"
STEPS = [10, 25, 50]
PATIENCE_SECONDS = 2400
"""For a part of the page, on a machine that is busy with other things; on an idle one it takes a tenth."""


class Met(NamedTuple):
    """One answer that one of the page's people got, in the order in which they came."""

    person: int
    version: int


@dataclass
class Trial:
    """A trial that is over.

    Attributes:
        status: the policy's, at its end.
        met: who met which version while it lasted.
        unprinted: lines that the page shows and no command printed.
        evidence: what the analyst counted.
    """

    status: dict[str, Any]
    met: list[Met]
    unprinted: dict[str, list[str]]
    evidence: ExperimentEvidence


@dataclass
class Desk:
    """The policy of the page, and who types the page."""

    platform: Platform
    typist: Typist
    before: int = 0
    """Answers of earlier trials."""

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.platform.get("rlp", POLICY).get("status", {})
        return found

    def trial(self, heading: str, *, ends_with: int) -> Trial:
        """Type the page up to a heading; then everybody gets that version again."""
        unprinted = self.typist.type_until(heading, patience_seconds=PATIENCE_SECONDS)
        self.platform.wait(f"version {ends_with} to serve alone", lambda: self._alone(ends_with), PATIENCE_SECONDS)
        with (self.typist.work / "met.csv").open(newline="") as file:
            met = [Met(int(person), int(version)) for person, version, _ in csv.reader(file)]
        fresh, self.before = met[self.before :], len(met)
        status = self.status
        return Trial(status, fresh, unprinted, self._counted(status["rollout"]["experiment"]))

    def _alone(self, version: int) -> bool:
        status = self.status
        names = {each["metadata"]["name"] for each in self.platform.items("deployments", f"{LABEL_POLICY}={POLICY}")}
        at_rest = status.get("state") == "Ready" and status["rollout"].get("serving") == version
        return at_rest and names == {f"{POLICY}-router", f"{POLICY}-v{version}"}

    def _counted(self, trial: str) -> ExperimentEvidence:
        uid = self.platform.get("rlp", POLICY)["metadata"]["uid"]
        service = self.platform.get("service", "ratchet-analyst")["spec"]
        url = f"http://{service['clusterIP']}:{service['ports'][0]['port']}/v1/policies/{POLICY}/experiments"
        with (
            self.platform.lab.inside(),
            urllib.request.urlopen(f"{url}/{experiment_of(salt_of(uid, trial))}") as answer,
        ):
            return ExperimentEvidence.model_validate_json(answer.read())

    def answers(self) -> list[dict[str, Any]]:
        """What the log holds of the policy's answers."""
        prefix = log_prefix(self.platform.namespace)
        found: list[dict[str, Any]] = []
        for key in self.platform.keys(f"{prefix}/"):
            if (segment := parse_key(self.platform.namespace, key)) is not None:
                lines = content_of(segment, self.platform.read_object(key)).splitlines()
                found += [event for event in map(json.loads, lines) if event["kind"] == "interaction"]
        return [event for event in found if event["policy"] == POLICY]

    def versions_by_router(self) -> list[set[int]]:
        """Which versions twenty people get from each router."""
        found = []
        for pod in self.platform.items("pods", f"{LABEL_POLICY}={POLICY},{LABEL_COMPONENT}=router"):
            url = f"http://{pod['status']['podIP']}:{ROUTER_PORT}"
            with self.platform.lab.inside(), httpx2.Client(base_url=url, timeout=60) as http:
                who = ({"x-ratchet-subject": f"stranger-{n}"} for n in range(20))
                answers = [http.post("/v1/classify", json={"text": "my card"}, headers=each) for each in who]
            found.append({int(answer.raise_for_status().headers["x-ratchet-version"]) for answer in answers})
        return found


@pytest.fixture(scope="module")
def desk(platform: Platform, serving_image: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Somebody before a shell, with the rights and the store's credentials of the team's namespace."""
    lab, folder = platform.lab, tmp_path_factory.mktemp("tutorial")
    config = json.loads(lab.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = platform.namespace
    (folder / "kubeconfig").write_text(json.dumps(config))
    environment = {name: value for name, value in lab.environment().items() if name != "RATCHET_HOME"}
    environment |= {
        "KUBECONFIG": str(folder / "kubeconfig"),
        "NAMESPACE": platform.namespace,
        "RATCHET_STORE": f"s3://{lab.s3_bucket}",
        "RATCHET_STORE_ENDPOINT": lab.s3_endpoint,
    }
    with Typist(PAGE, folder, environment, enter=lab.enter) as typist:
        yield Desk(platform, typist)
    platform.kubectl("delete", "rlp", POLICY, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def better(desk: Desk) -> Trial:
    return desk.trial(A_WORSE_ONE, ends_with=2)


@pytest.fixture(scope="module")
def worse(desk: Desk, better: Trial) -> Trial:
    return desk.trial(TWO_AT_ONCE, ends_with=2)


@pytest.fixture(scope="module")
def two(desk: Desk, worse: Trial) -> Trial:
    return desk.trial(CLEAN_UP, ends_with=2)


def shares(status: dict[str, Any], candidate: int) -> list[float]:
    return [row["percent"] for row in status["rollout"]["history"] if row.get("candidate") == candidate]


def test_the_page_shows_what_its_commands_print(desk: Desk, better: Trial) -> None:
    assert better.unprinted == {}, "\n".join(desk.typist.printed)


def test_what_people_said_is_what_the_second_version_learned_from(desk: Desk, better: Trial) -> None:
    snapshot = desk.platform.get("fbd", "said")["status"]["snapshot"]
    people = {met.person for met in better.met if met.version == 1}
    assert 200 < snapshot["counts"]["kept"] <= len(people), "most of the first three hundred, each once"
    assert snapshot["classes"] == 3
    assert better.status["versions"][1]["datasetDigest"] == snapshot["digest"]


def test_a_version_that_people_like_better_is_promoted_step_by_step_until_everybody_gets_it(
    desk: Desk, better: Trial
) -> None:
    status = better.status
    assert (status["champion"], status["rollout"]["serving"]) == (2, 2)
    assert shares(status, 2) == STEPS
    last = status["rollout"]["history"][-1]
    assert (last["version"], last.get("candidate"), last["by"]) == (2, None, "operator")
    verdict = status["rollout"]["verdict"]
    assert (verdict["outcome"], verdict["reason"]) == ("Successful", "GoodEnough"), verdict
    assert status["ledger"][-1]["version"] == 2
    assert {met.version for met in better.met} == {1, 2}
    assert desk.versions_by_router() == [{2}, {2}]


def test_the_promoted_version_ends_with_a_fifth_more_positive_feedback_at_least(better: Trial) -> None:
    """As a relative change, whose interval may be looked at all the time."""
    counted, rules = better.evidence, rules_of(Judged())
    assert (counted.champion, counted.candidate, counted.problem) == (1, 2, "")
    assert (counted.dropped, counted.crossed) == (0, 0)
    change = relative_change(counted.evidence(rules).means[FEEDBACK], alpha=rules.alpha, tuned_to=rules.tuned_to)
    assert change.low >= 0.2, change


def test_whoever_met_a_version_on_trial_meets_it_again_while_its_share_rises(better: Trial) -> None:
    """P31, as people see it."""
    last = max(place for place, met in enumerate(better.met) if met.version == 1)
    answers: dict[int, list[int]] = {}
    for met in better.met[:last]:
        answers.setdefault(met.person, []).append(met.version)
    back = [versions for versions in answers.values() if versions[0] == 2 and len(versions) > 1]
    assert back
    assert all(set(versions) == {2} for versions in back), back


def test_servers_and_routers_that_are_several_have_a_budget_for_drained_nodes(desk: Desk, better: Trial) -> None:
    budgets = desk.platform.items("poddisruptionbudgets", f"{LABEL_POLICY}={POLICY}")
    assert [each["metadata"]["name"] for each in budgets] == [f"{POLICY}-router"]
    desk.platform.wait(
        "the budget to have counted the routers",
        lambda: desk.platform.get("pdb", f"{POLICY}-router")["status"].get("currentHealthy") == 2,
    )
    assert desk.platform.get("pdb", f"{POLICY}-router")["status"]["disruptionsAllowed"] == 1


def test_a_version_that_people_like_less_is_taken_out_before_most_of_them_met_it(desk: Desk, worse: Trial) -> None:
    status = worse.status
    assert worse.unprinted == {}, "\n".join(desk.typist.printed)
    assert (status["champion"], status["rollout"]["serving"]) == (2, 2)
    verdict = status["rollout"]["verdict"]
    assert (verdict["outcome"], verdict["reason"]) == ("Failed", "Harm"), verdict
    assert (worse.evidence.champion, worse.evidence.candidate) == (2, 3)
    given = shares(status, 3)
    assert given == STEPS[: len(given)]
    last = status["rollout"]["history"][-1]
    assert (last["version"], last.get("candidate"), last["by"]) == (2, None, "operator")
    assert "taken out" in last["why"]
    end = max(place for place, met in enumerate(worse.met) if met.version == 3)
    unlucky = sum(met.version == 3 for met in worse.met[: end + 1])
    assert 0 < unlucky < (end + 1) / 2
    assert desk.versions_by_router() == [{2}, {2}]


def test_several_versions_with_fixed_shares_are_taken_out_one_by_one_and_nobody_else_changes_sides(
    desk: Desk, two: Trial
) -> None:
    """P31, P34 on a real cluster."""
    assert two.unprinted == {}, "\n".join(desk.typist.printed)
    rollout = two.status["rollout"]
    assert (two.status["champion"], rollout["serving"], rollout["abTest"]["running"]) == (2, 2, False)
    arms = {arm["version"]: arm for arm in rollout["abTest"]["arms"]}
    assert all("worse by more than its margin" in arms[version]["out"] for version in (1, 3)), arms
    met: dict[int, list[int]] = {}
    for each in two.met:
        met.setdefault(each.person, []).append(each.version)
    assert {version for versions in met.values() for version in versions} == {1, 2, 3}
    moved = [versions for versions in met.values() if len(set(versions)) > 1]
    assert all(versions[-1] == 2 for versions in moved), "whoever met a version that was taken out gets the champion"
    assert desk.versions_by_router() == [{2}, {2}]


def test_some_answers_are_drawn_and_say_with_which_probability(desk: Desk, two: Trial) -> None:
    said = [event["actionPropensity"] for event in desk.answers() if "actionPropensity" in event]
    drawn = [propensity for propensity in said if propensity < 1]
    assert drawn
    assert all(propensity > 0 for propensity in said)


def test_what_the_page_made_is_gone_when_it_has_cleaned_up(desk: Desk, two: Trial) -> None:
    assert desk.typist.type_until(patience_seconds=PATIENCE_SECONDS) == {}
    of_it = f"{LABEL_POLICY}={POLICY}"
    desk.platform.wait(
        "servers, routers and their budget to be gone",
        lambda: not any(desk.platform.items(kind, of_it) for kind in ("deployments", "services", "pods", "pdb")),
    )
