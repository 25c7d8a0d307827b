"""The verbs of a rollout: what they ask of the operator, how its answer is told, and that `why` tells the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ratchet_api.assign import canary_split, place, salt_of
from ratchet_api.fixed_shares import AbTestStatus, ArmStatus, split_of_test
from ratchet_api.generation import KeptGeneration, config_row
from ratchet_api.kinds import RL_POLICY, RL_TRAINING_RUN, Kind
from ratchet_api.names import ANNOTATION_ROLLOUT, LABEL_COMPONENT, LABEL_POLICY, asked_by
from ratchet_api.queries import QuerySeen
from ratchet_api.rollout import ArmRow, Rollout, RolloutStatus, ShareRow, VerdictStatus
from ratchet_api.shadow import Confusion, ShadowReport
from ratchet_cli.backend import Body
from ratchet_cli.main import run_command
from ratchet_operator.plan.rollout import plan_rollout
from ratchet_operator.plan.rollout.world import RolloutWorld

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
UID, EXPERIMENT = "uid-1", "1-v1-v2"
SPLIT = canary_split(salt_of(UID, EXPERIMENT), champion=1, candidate=2, share=500)
ROWS = (
    ShareRow(number=1, version=1, since=NOW - timedelta(days=3), why="Everybody gets version 1.", by="operator"),
    ShareRow(number=2, version=1, candidate=2, percent=1, since=NOW - timedelta(hours=5), why="1 %", by="operator"),
    ShareRow(number=3, version=1, candidate=2, percent=5, since=NOW - timedelta(hours=2), why="5 %", by="operator"),
)
TRIAL = RolloutStatus(
    serving=1,
    candidate=2,
    experiment=EXPERIMENT,
    experiments=1,
    step=1,
    percent=5,
    began=NOW - timedelta(hours=6),
    exposed=NOW - timedelta(hours=5),
    step_since=NOW - timedelta(hours=2),
    verdict=VerdictStatus(
        outcome="Inconclusive", reason="Undecided", message="no difference yet", samples=412, needed=90
    ),
    history=ROWS,
    rows=3,
)
Command = Callable[..., tuple[int, str]]


class Cluster:
    """A namespace with one policy, and an operator that decides by its own rules as soon as something is asked."""

    namespace, where = "team", "a test"

    def __init__(self, rollout: RolloutStatus | None) -> None:
        self.rollout, self.champion, self.answers = rollout, 1, True
        self.maps: list[Body] = []
        self.conditions: list[Body] = []
        self.versions: list[Body] = []
        self.told: list[str] = []
        self.others: dict[str, list[Body]] = {}

    def notice(self) -> str:
        return ""

    def get(self, kind: Kind[Any, Any], name: str) -> Body | None:
        return next((each for each in self.list(kind) if each["metadata"]["name"] == name), None)

    def list(self, kind: Kind[Any, Any]) -> Sequence[Body]:
        if kind is not RL_POLICY:
            return self.others.get(kind.kind, [])
        status: dict[str, Any] = {"champion": self.champion, "state": "Ramping", "conditions": self.conditions}
        status["versions"] = self.versions
        spec: dict[str, Any] = {"type": "classifier"}
        if self.rollout is not None:
            status["rollout"] = self.rollout.to_wire()
            spec |= {"serving": {}, "rollout": {}}
        return [{"kind": "RLPolicy", "metadata": {"name": "p", "uid": UID}, "spec": spec, "status": status}]

    def who(self) -> str:
        return "ann@example.org"

    def patch(self, kind: Kind[Any, Any], name: str, patch: Mapping[str, Any]) -> None:
        annotations = patch["metadata"]["annotations"]
        told = annotations[ANNOTATION_ROLLOUT]
        self.told.append(told)
        if not self.answers:
            return
        assert self.rollout is not None
        world = RolloutWorld(
            now=NOW, namespace="team", policy="p", uid=UID, spec=Rollout(), status=self.rollout, champion=self.champion,
            versions={1: "a" * 64, 2: "b" * 64}, command=told, asked_by=asked_by(annotations, told),
        )  # fmt: skip
        decided = plan_rollout(world)
        self.rollout, self.champion = decided.status, decided.champion or self.champion

    def config_maps(self, labels: Mapping[str, str], *, owner_uid: str) -> Sequence[Body]:
        assert (labels, owner_uid) == ({LABEL_COMPONENT: "history", LABEL_POLICY: "p"}, UID)
        return self.maps


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(TRIAL)
    for module in ("rollout_verbs", "objects"):
        monkeypatch.setattr(f"ratchet_cli.{module}.open_backend", lambda **_: made)
    monkeypatch.setattr("ratchet_cli.rollout_verbs.POLL_SECONDS", 0)
    monkeypatch.setattr("ratchet_cli.objects.POLL_SECONDS", 0)
    return made


@pytest.fixture
def ratchet(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    for name in ("out", "err"):
        monkeypatch.setattr(f"ratchet_cli.screen.{name}.width", 300)
    for name in ("rollout_verbs", "objects"):
        monkeypatch.setattr(f"ratchet_cli.{name}.utc_now", lambda: NOW)

    def command(*words: str) -> tuple[int, str]:
        code = run_command(list(words))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return command


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (("pause", "p"), "p: Version 2 stays at 5 %."),
        (("abort", "policy/p"), "p: Version 2 was taken out on request of ann@example.org; version 1 stays."),
    ],
)
def test_what_the_operator_did_is_told_in_its_own_words(ratchet: Command, words: tuple[str, ...], want: str) -> None:
    assert ratchet(*words) == (0, f"{want}\n")


def test_a_trial_can_be_paused_and_goes_on_and_each_wish_is_another(ratchet: Command, cluster: Cluster) -> None:
    assert ratchet("pause", "p")[0] == 0
    assert cluster.rollout is not None
    assert cluster.rollout.paused
    assert "paused" in ratchet("status", "policy/p")[1]
    assert ratchet("resume", "p") == (0, "p: Version 2 goes on.\n")
    assert not cluster.rollout.paused
    assert ratchet("pause", "p")[0] == ratchet("pause", "p")[0] == 0
    assert len(set(cluster.told)) == 4


@pytest.mark.parametrize(
    ("words", "want_code", "want"),
    [
        (("resume", "policy/p"), 1, "RLPolicy 'p': resume: nothing is paused"),
        (("promote", "p"), 1, "RLPolicy 'p': promote: version 2 does not answer every router; abort it, or wait"),
        (("undo", "p"), 1, "RLPolicy 'p': undo: no earlier version that served is still there"),
        (("pause", "nobody"), 4, "RLPolicy 'nobody' is not in namespace 'team' of a test; there are: p"),
        (("pause", "run/p"), 2, "'run/p' names no policy; write its name, or policy/NAME"),
        (("pause", "policy/"), 2, "'policy/' names no policy"),
        (("resume", "dataset/p"), 2, "'dataset/p' is neither a run nor policy/NAME; only these can be resumed"),
        (("resume", "nobody"), 4, "RLTrainingRun 'nobody' is not in namespace"),
        (("history", "p", "-o", "yaml"), 2, "--output 'yaml' is unknown; use one of table, json"),
        (("why", ""), 2, "USER has 0 characters; a subject has 1 to 256"),
        (("why", "x" * 257), 2, "USER has 257 characters"),
        (("why", "me", "-p", "nobody"), 4, "there are: p"),
        (("watch", "dataset/p"), 2, "'dataset/p' is neither a run nor policy/NAME"),
    ],
)
def test_a_refusal_is_a_failure_with_the_reason(
    ratchet: Command, words: tuple[str, ...], want_code: int, want: str
) -> None:
    """P39."""
    code, printed = ratchet(*words)
    assert want in printed
    assert code == want_code


@pytest.mark.parametrize("words", [("pause", "p"), ("why", "me", "-p", "p"), ("promote", "p"), ("watch", "policy/p")])
def test_a_policy_that_serves_nothing_has_no_rollout(
    ratchet: Command, cluster: Cluster, words: tuple[str, ...]
) -> None:
    cluster.rollout = None
    code, printed = ratchet(*words)
    assert (code, cluster.told) == (1, [])
    assert "RLPolicy 'p' serves nothing" in printed
    assert ratchet("why", "me")[0] == 4
    assert ratchet("history", "p") == (0, "no version of p has served yet\n")


def test_a_silent_operator_is_not_taken_for_a_success(ratchet: Command, cluster: Cluster) -> None:
    cluster.answers = False
    code, printed = ratchet("abort", "p")
    assert (code, len(cluster.told)) == (0, 1)
    assert "the operator has not answered yet, see `ratchet status policy/p`" in printed


def test_resume_means_the_run_where_run_and_policy_have_one_name(ratchet: Command, cluster: Cluster) -> None:
    run = {"kind": "RLTrainingRun", "metadata": {"name": "p"}, "spec": {}, "status": {"state": "Running"}}
    cluster.others[RL_TRAINING_RUN.kind] = [run]
    assert ratchet("resume", "p") == (0, "p is resumed already\n")
    assert cluster.told == []


@pytest.mark.parametrize(
    ("arm", "want"),
    [
        (
            "canary",
            "gets version 2, arm canary: {trial}, and its place {at} of 0 to 9999 is below 500, the 5 % that try it",
        ),
        (
            "control",
            "gets version 1, arm control: {trial}, and its place {at} of 0 to 9999 is not below 9500, the 5 % that "
            "canary is held against",
        ),
    ],
)
def test_why_says_the_arm_and_the_place_by_which_it_is_dealt(ratchet: Command, arm: str, want: str) -> None:
    """P31: by the same numbers as the router."""
    subject = next(f"user-{n}" for n in range(999) if SPLIT.slot(f"user-{n}").arm == arm)
    at = place(subject, SPLIT.salt)
    trial = f"version 2 is on trial in experiment {EXPERIMENT}"
    assert ratchet("why", subject) == (0, f"p: {subject} {want.format(at=at, trial=trial)}\n")


def test_why_foretells_the_step_that_takes_a_subject_in(ratchet: Command) -> None:
    said = {}
    for number in range(40):
        subject = f"user-{number}"
        if SPLIT.slot(subject).arm == "champion":
            said[subject] = ratchet("why", subject, "-p", "p")[1]
    assert all("neither below 500 (canary) nor from 9500 on (control)" in each for each in said.values())
    for subject, sentence in said.items():
        arms = [
            (percent, canary_split(SPLIT.salt, champion=1, candidate=2, share=100 * percent).slot(subject).arm)
            for percent in (10, 25, 50)
        ]
        percent, arm = next((each for each in arms if each[1] != "champion"), (0, ""))
        assert f"at {percent} % it is taken into {arm}" in sentence


@pytest.mark.parametrize(
    ("change", "subject", "want"),
    [
        ({"candidate": None, "percent": 0}, "me", "me gets version 1, as everybody does: no version is on trial"),
        ({"percent": 0, "step": -1}, "me", "but nobody gets it yet"),
        ({"serving": None}, "me", "me gets no version: none serves yet"),
        ({}, "me and you", "outside the comparison: the router deals subjects of printable ASCII"),
        ({"step_since": None}, "me", "not every router has applied this share yet"),
    ],
)
def test_why_knows_when_nobody_is_dealt(
    ratchet: Command, cluster: Cluster, change: dict[str, Any], subject: str, want: str
) -> None:
    cluster.rollout = TRIAL.model_copy(update=change)
    code, printed = ratchet("why", subject)
    assert code == 0
    assert want in printed


def test_why_knows_no_place_where_gateways_throw_dice(ratchet: Command, cluster: Cluster) -> None:
    sticky = {"type": "Sticky", "status": "False", "reason": "DealtByGateways", "message": "-", "observedGeneration": 1}
    cluster.conditions = [sticky | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]
    dice = "p: nobody can say which version me gets: a Gateway throws dice for each request, "
    assert ratchet("why", "me")[1].startswith(f"{dice}version 2 with 5 %, else version 1 (")
    cluster.rollout = under_test(running=True)
    assert ratchet("why", "me")[1].startswith(f"{dice}version 2 with 20 %, else version 1 ("), "version 3 is out"
    cluster.rollout = TRIAL.model_copy(update={"percent": 0, "step": -1})
    assert "me gets version 1, as everybody does: nobody gets another one yet" in ratchet("why", "me")[1]
    cluster.rollout = TRIAL.model_copy(update={"candidate": None, "percent": 0})
    assert "no version is on trial" in ratchet("why", "me")[1]


def test_history_shows_who_got_what_from_when_to_when(ratchet: Command) -> None:
    code, printed = ratchet("history", "p")
    assert code == 0
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    assert rows == [
        "SINCE FOR EVERYBODY ON TRIAL BY WHY",
        "2025-12-29 12:00:00Z 2d19h version 1 - operator Everybody gets version 1.",
        "2026-01-01 07:00:00Z 3h version 1 version 2 at 1 % operator 1 %",
        "2026-01-01 10:00:00Z 2h version 1 version 2 at 5 % operator 5 %",
    ]
    assert [row["number"] for row in json.loads(ratchet("history", "p", "-o", "json")[1])] == [1, 2, 3]


def test_history_and_status_tell_the_config_that_makes_a_version(ratchet: Command, cluster: Cluster) -> None:
    config = KeptGeneration(temperature=0.2)
    row = ROWS[2].model_copy(update={"configs": (config_row(2, config),)})
    cluster.rollout = TRIAL.model_copy(update={"history": (row,), "rows": 1})
    assert "version 1 version 2 (temperature 0.2) at 5 %" in " ".join(ratchet("history", "p")[1].split())
    plain = {"version": 1, "run": "r", "runUid": "u", "uri": "s3://b/r", "digest": "1" * 64, "datasetDigest": "d" * 64}
    variant = plain | {"version": 2, "variantOf": 1, "generation": config.to_wire()}
    cluster.versions = [each | {"published": NOW.isoformat()} for each in (plain, variant)]
    assert "version 2: version 1 with temperature 0.2" in ratchet("status", "policy/p")[1]


def test_history_has_the_rows_that_left_the_status_and_says_which_are_gone(ratchet: Command, cluster: Cluster) -> None:
    cluster.rollout = TRIAL.model_copy(update={"history": ROWS[2:]})
    archived = json.dumps([row.to_wire() for row in ROWS[:2]])
    cluster.maps = [{"metadata": {"name": "p-history-1"}, "data": {"rows.json": archived}}]
    assert [row["number"] for row in json.loads(ratchet("history", "p", "-o", "json")[1])] == [1, 2, 3]
    cluster.maps = []
    assert "2 older rows are gone: their ConfigMaps were deleted" in ratchet("history", "p")[1]
    cluster.maps = [{"metadata": {"name": "p-history-1"}, "data": {"rows.json": "[{}]"}}]
    assert "ConfigMap 'p-history-1' holds no rows of a history" in ratchet("history", "p")[1]


def test_the_status_of_a_policy_shows_its_trial(ratchet: Command) -> None:
    code, printed = ratchet("status", "policy/p")
    assert code == 0
    assert "version 2 is on trial against version 1: 5 % get version 2, step 2 of 5 for 2h" in printed
    assert "Inconclusive (Undecided): no difference yet  [412 subjects, about 90 more are needed]" in printed


def test_the_status_of_a_policy_shows_its_users_own_numbers(ratchet: Command, cluster: Cluster) -> None:
    rows = (
        QuerySeen(name="load", version=2, value=0.25, alive=None, at=NOW),
        QuerySeen(name="lost carts", version=2, value=0.9, alive=None, beyond_since=NOW - timedelta(hours=1), at=NOW),
        QuerySeen(name="tickets", version=2, value=None, alive=None, problem="the query gives no series", at=NOW),
    )
    cluster.rollout = TRIAL.model_copy(update={"queries": rows})
    printed = ratchet("status", "policy/p")[1]
    assert "load: 0.25\n" in printed
    assert "lost carts: 0.9, beyond its bound for 1h" in printed
    assert "tickets: not known: the query gives no series" in printed


def test_the_status_of_a_shadow_shows_what_it_answers_otherwise(ratchet: Command, cluster: Cluster) -> None:
    report = ShadowReport(
        pairs=1200,
        flips=30,
        failures=2,
        confusions=(
            Confusion(champion="card", candidate="loan", pairs=20, of=400),
            Confusion(champion="loan", candidate="", pairs=8, of=100),
        ),
        champion_p99_ms=9.5,
        candidate_p99_ms=21.0,
    )
    asked = {"step": -1, "percent": 0, "step_since": None, "shadow": report, "shadow_since": NOW - timedelta(hours=1)}
    cluster.rollout = TRIAL.model_copy(update=asked)
    code, printed = ratchet("status", "policy/p")
    assert code == 0
    assert "version 2 is asked beside version 1, and nobody gets its answers" in printed
    assert "30 of 1,200 texts (2.5%) were answered otherwise, 2 of them not at all" in printed
    assert "99 % within 21 ms, the champion's within 9.5 ms" in printed
    assert "card → loan: 20 of 400 (5.0%)" in printed
    assert "loan → abstains: 8 of 100 (8.0%)" in printed


@pytest.mark.parametrize(("champion", "want"), [(2, 0), (1, 1)])
def test_watching_a_trial_ends_with_it_and_fails_unless_it_was_promoted(
    ratchet: Command, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, champion: int, want: int
) -> None:
    polls = iter([TRIAL, TRIAL.model_copy(update={"percent": 10.0, "step": 2})])

    def goes_on(_: float) -> None:
        cluster.rollout = next(polls, TRIAL.model_copy(update={"candidate": None, "percent": 0, "serving": champion}))
        cluster.champion = champion if cluster.rollout.candidate is None else 1

    monkeypatch.setattr("ratchet_cli.rollout_watch.time.sleep", goes_on)
    code, printed = ratchet("watch", "policy/p")
    assert code == want
    lines = printed.splitlines()
    assert len(lines) == 3
    assert "5 % get version 2" in lines[0]
    assert "10 % get version 2" in lines[1]
    assert lines[2].startswith(f"p: everybody gets version {champion};")


def under_test(*, running: bool) -> RolloutStatus:
    arms = (
        ArmStatus(version=2, digest="2", percent=20, verdict=TRIAL.verdict),
        ArmStatus(version=3, digest="3", percent=10, out="Version 3 is taken out: it did not answer for 60 s."),
    )
    test = AbTestStatus(
        asked="a",
        experiment="2-ab-0",
        running=running,
        dealt=running,
        arms=arms,
        began=NOW,
        exposed=NOW - timedelta(hours=2),
        result="" if running else "The test of versions 2 and 3 is over: none of them passed.",
    )
    row = ROWS[0].model_copy(update={"arms": (ArmRow(version=2, percent=20), ArmRow(version=3, percent=10))})
    nobody = {"candidate": None, "step": -1, "percent": 0, "experiment": "2-ab-0"}
    return TRIAL.model_copy(update=nobody | {"ab_test": test, "history": (row,), "rows": 1})


def test_the_status_of_a_test_shows_every_version(ratchet: Command, cluster: Cluster) -> None:
    cluster.rollout = under_test(running=True)
    printed = ratchet("status", "policy/p")[1]
    assert "tested against version 1: version 2 at 20 %" in printed
    assert "the test runs for 2h" in printed
    assert "version 2, 20 %: Inconclusive (Undecided): no difference yet  [412 subjects]" in printed
    assert "version 3, 10 %: Version 3 is taken out: it did not answer for 60 s." in printed
    cluster.rollout = under_test(running=False)
    assert "last test: The test of versions 2 and 3 is over: none of them passed." in ratchet("status", "policy/p")[1]
    assert "version 2 at 20 %, version 3 at 10 %" in ratchet("history", "p")[1]


def test_why_says_what_a_test_deals_a_subject(ratchet: Command, cluster: Cluster) -> None:
    cluster.rollout = under_test(running=True)
    assert cluster.rollout.testing is not None
    split = split_of_test(cluster.rollout.testing, policy_uid=UID, champion=1)
    assert split is not None
    told = {slot: f"user-{n}" for n in range(40) for slot in [split.slot(f"user-{n}")]}
    assert {(slot.arm, slot.version) for slot in told} == {("canary", 2), ("control", 1), ("champion", 1)}
    for slot, user in told.items():
        said = ratchet("why", user, "-p", "p")[1]
        assert f"{user} gets version {slot.version}, arm {slot.arm}" in said
        assert "until the test ends" in said
