"""Which runs and versions an erasure marks: whatever the person went into, by whichever way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from ratchet_api.erasure import ErasureReport
from ratchet_api.kinds import RL_POLICY, RL_TRAINING_RUN, Kind
from ratchet_cli.erasing import mark

STORE, NAMESPACE = "s3://bucket/ratchet", "team-a"
ERASED, CLEAN = "e" * 64, "c" * 64
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Body = dict[str, Any]


class Objects:
    """A backend that remembers what was marked."""

    def __init__(self, runs: Sequence[Body], policies: Sequence[Body] = ()) -> None:
        self.bodies = {RL_TRAINING_RUN.plural: [*runs], RL_POLICY.plural: [*policies]}
        self.marked: list[str] = []

    def list(self, kind: Kind[Any, Any]) -> Sequence[Body]:
        return self.bodies.get(kind.plural, ())

    def patch(self, kind: Kind[Any, Any], name: str, patch: Mapping[str, Any]) -> None:
        self.marked.append(f"{kind.plural}/{name}={patch['metadata']['annotations']['ratchet.dev/erased']}")


def digest(name: str, stage: str) -> str:
    return f"{name}-{stage}-".ljust(64, "0")


def at(name: str, stage: str) -> str:
    return f"{STORE}/{NAMESPACE}/runs/{name}/{stage}/1-pod"


def run(
    name: str,
    *stages: str,
    data: str = CLEAN,
    log: str | None = None,
    start: Body | None = None,
    spec: Body | None = None,
) -> Body:
    """A finished run as the operator leaves it."""
    fixed: Body = {"specDigest": "0" * 64, "image": "i", "codeVersion": "1", "datasetUri": "u", "storeUri": STORE}
    fixed |= {"datasetDigest": data}
    fixed |= {} if log is None else {"log": {"digest": log, "uri": "u"}}
    fixed |= {} if start is None else {"start": start}
    done = [
        {"name": stage, "state": "Succeeded", "artifact": {"uri": at(name, stage), "digest": digest(name, stage)}}
        for stage in (*stages, "evaluate")
    ]
    status = {"resolved": fixed, "stages": done, "artifact": done[-1]["artifact"]}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec or {}, "status": status}


def policy(*versions: Body) -> Body:
    return {"metadata": {"name": "router"}, "status": {"versions": [*versions], "nextVersion": len(versions) + 1}}


def version(number: int, name: str, *, data: str = CLEAN) -> Body:
    made = {"uri": at(name, "evaluate"), "digest": digest(name, "evaluate"), "datasetDigest": data}
    return {"version": number, "run": name, "runUid": "u", "published": "2026-01-01T00:00:00Z"} | made


PROOF = ErasureReport(
    id="a" * 32, subjects=("h",), requested=NOW, finished=NOW, answers=0, events=0, segments=0, snapshots=(), left=0
)
"""Of an erasure, before anything is marked."""

JUDGED = run("judged", "supervised", "reward-model", "rl", log=ERASED)
"""Its reward model learned from the person, and then its policy; its supervised policy did not."""


def artifact(uri: str, sha256: str = CLEAN) -> Body:
    return {"uri": uri, "sha256": sha256}


def rewarded_by(model: Body) -> Body:
    return {"stages": {"rlhf": {"rewards": [{"type": "length"}, {"type": "rewardModel", "model": model}]}}}


def agent_rewarded_by(model: Body) -> Body:
    return {"stages": {"rlhf": {"agents": [{"name": "kind"}, {"name": "terse", "rewards": [{"model": model}]}]}}}


OWN = f"{STORE}/{NAMESPACE}/"
REWARD = at("judged", "reward-model")
AGENT = f"{at('judged', 'evaluate')}/agents/kind"


@pytest.mark.parametrize(
    ("other", "want"),
    [
        (run("other", data=ERASED), True),
        (run("other", "rl", log=ERASED), True),
        (run("other", spec=rewarded_by(artifact("store://copied", digest("judged", "reward-model")))), True),
        (run("other", spec=rewarded_by(artifact(REWARD.replace(OWN, "store://") + "/"))), True),
        (run("other", spec=agent_rewarded_by(artifact(REWARD))), True),
        (run("other", spec={"startFrom": {"artifact": artifact(AGENT.replace(OWN, "store://"))}}), True),
        (run("other", start={"uri": AGENT, "digest": CLEAN}), True),
        (run("other", start={"uri": "s3://moved", "digest": digest("judged", "rl")}), True),
        (run("other", spec={"baseModel": artifact(f"{at('judged', 'evaluate')}/merged")}), True),
        (run("other", start={"uri": at("judged", "supervised"), "digest": digest("judged", "supervised")}), False),
        (run("other", spec=rewarded_by(artifact(f"{REWARD}-of-another"))), False),
        (run("other", "rl", log=CLEAN, spec=rewarded_by(artifact("store://copied"))), False),
        ({"metadata": {"name": "other", "namespace": NAMESPACE}, "spec": rewarded_by(artifact(REWARD))}, False),
    ],
    ids=[
        "trained on the snapshot",
        "its judged answers were the person's, too",
        "rewarded by such a reward model, named by digest",
        "rewarded by such a reward model, named below the namespace",
        "an agent is rewarded by it",
        "started from an agent, as the spec names it",
        "started from an agent, as it was resolved",
        "started from such a policy that was moved",
        "stands on such a policy as its base",
        "started from what such a run made before it read the judged answers",
        "rewarded by a model beside it whose name begins alike",
        "nothing of it was the person's",
        "it has not started",
    ],
)
def test_a_run_is_marked_exactly_if_the_person_went_into_it(other: Body, want: bool) -> None:
    """P30."""
    objects = Objects([other, JUDGED])
    report = mark(objects, PROOF, {ERASED})
    assert report.runs == (("judged", "other") if want else ("judged",))
    assert objects.marked == [f"rltrainingruns/{name}={report.id}" for name in report.runs]


def test_what_goes_on_from_a_marked_run_is_marked_however_far_and_in_whatever_order() -> None:
    """P30: judged answers, the run that their reward model rewards, and those that go on with its policy."""
    runs = [
        run("fourth", start={"uri": at("third", "rl"), "digest": digest("third", "rl")}),
        run("third", "rl", start={"uri": at("second", "evaluate"), "digest": digest("second", "evaluate")}),
        run("second", "rl", spec=rewarded_by(artifact(REWARD))),
        JUDGED,
        run("stranger"),
    ]
    names = ("judged", "second", "third", "fourth", "stranger")
    objects = Objects(runs, [policy(*(version(number, name) for number, name in enumerate(names, start=1)))])
    report = mark(objects, PROOF, {ERASED})
    assert report.runs == ("fourth", "judged", "second", "third")
    assert report.versions == ("router@1", "router@2", "router@3", "router@4")
    assert objects.marked[-1] == "rlpolicies/router=1,2,3,4"


def test_a_run_that_started_from_the_supervised_policy_of_a_run_on_the_snapshot_is_marked() -> None:
    """P30: not from its artifact, but from what one of its stages left."""
    trained = run("trained", "supervised", "rl", data=ERASED)
    heir = run("heir", start={"uri": "s3://moved", "digest": digest("trained", "supervised")})
    assert mark(Objects([heir, trained]), PROOF, {ERASED}).runs == ("heir", "trained")


def test_a_version_whose_run_was_deleted_still_leads_to_the_runs_that_started_from_it() -> None:
    """P30: runs may be deleted once they are done, versions stay."""
    gone = version(1, "gone", data=ERASED)
    heir = run("heir", start={"policy": "router", "version": 1, "uri": gone["uri"], "digest": gone["digest"]})
    report = mark(Objects([heir], [policy(gone, version(2, "heir"))]), PROOF, {ERASED})
    assert (report.runs, report.versions) == (("heir",), ("router@1", "router@2"))
