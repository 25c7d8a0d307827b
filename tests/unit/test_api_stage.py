"""The stage contract: exit codes, digests, termination messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ratchet_api.attempts import Artifact
from ratchet_api.base import METRICS_LIMIT, canonical_json, digest_of, format_time, parse_time
from ratchet_api.comparison import Choice
from ratchet_api.conditions import REASONS, Reason
from ratchet_api.label_sets import LabelSet
from ratchet_api.snapshot_summary import LabelCount, Removed, SnapshotCounts, SnapshotSummary
from ratchet_api.stage import (
    STAGE_REVISION,
    TERMINATION_LIMIT,
    UNCOUNTED_EXITS,
    EndState,
    ExitCode,
    Retry,
    Stage,
    StageHit,
    StageResult,
    TerminationMessage,
    artifact_digest,
    exit_rule,
    input_digest,
)
from ratchet_api.training_run import GATED_LABEL_BYTES

# exit codes


def want_retry(code: int) -> Retry:
    """The table of the design, written down a second time, row by row."""
    if code in (75, 143):
        return Retry.UNCOUNTED
    if code == 137:
        return Retry.ONCE
    if code in (1, 2) or 10 <= code <= 19 or 30 <= code <= 39:
        return Retry.NEVER
    if 20 <= code <= 29 or 50 <= code <= 59:
        return Retry.COUNTED
    return Retry.OTHER_NODE if 40 <= code <= 49 else Retry.LIMITED


@pytest.mark.parametrize("code", range(1, 256))
def test_every_exit_code_has_one_meaning(code: int) -> None:
    """P13: whether a failure is tried again follows from its code alone."""
    rule = exit_rule(code)
    assert rule.retry is want_retry(code)
    assert rule.reason in REASONS


def test_only_preemption_is_replaced_by_the_job_itself() -> None:
    uncounted = {code for code in range(1, 256) if exit_rule(code).retry is Retry.UNCOUNTED}
    assert uncounted == set(UNCOUNTED_EXITS) == {75, 143}


def test_every_named_code_has_a_reason_of_its_own_except_the_two_preemptions() -> None:
    named = [exit_rule(code).reason for code in ExitCode if code not in (ExitCode.OK, ExitCode.TERMINATED)]
    assert len(set(named)) == len(named)
    assert exit_rule(ExitCode.TERMINATED).reason is exit_rule(ExitCode.PREEMPTED).reason is Reason.PREEMPTED


def test_a_bare_code_outside_the_contract_is_unknown() -> None:
    assert [exit_rule(code).reason for code in (3, 9, 60, 126, 127, 139, 255)] == [Reason.UNKNOWN_EXIT] * 7


# digests


def test_canonical_json_by_hand() -> None:
    assert canonical_json({"b": 1, "a": ["ü", None, 1e-05, True]}) == '{"a":["ü",null,1e-05,true],"b":1}'.encode()


def test_a_digest_by_hand() -> None:
    # printf '{"a":1}' | sha256sum
    assert digest_of({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_no_digest_is_taken_of_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        digest_of({"loss": float("nan")})


@given(st.dictionaries(st.text(max_size=8), st.integers(), max_size=8))
def test_the_order_of_keys_changes_no_digest(value: dict[str, int]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))


def test_an_artifacts_digest_by_hand() -> None:
    # printf '[["a","x"],["b","y"]]' | sha256sum
    assert artifact_digest({"b": "y", "a": "x"}) == "8f43cdab4d0c9f2d659b0b2b75255154a70855740963dc55b528a54980b53d79"


INPUT = {
    "stage": Stage.SUPERVISED,
    "config": {"epochs": 2.0, "seed": 0},
    "parents": {"dataset": "d1", "baseModel": "b1"},
    "code_version": "0.1.0",
}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"stage": Stage.EVALUATE}, id="the stage"),
        pytest.param({"config": {"epochs": 3.0, "seed": 0}}, id="a setting"),
        pytest.param({"config": {"epochs": 2.0}}, id="a setting left out"),
        pytest.param({"parents": {"dataset": "d2", "baseModel": "b1"}}, id="the data"),
        pytest.param({"parents": {"dataset": "d1", "baseModel": "b2"}}, id="the base model"),
        pytest.param({"parents": {"dataset": "b1", "baseModel": "d1"}}, id="parents that changed places"),
        pytest.param({"code_version": "0.1.1"}, id="the code"),
    ],
)
def test_the_input_digest_changes_with(change: dict[str, object]) -> None:
    """P6: a stage is skipped only when everything that decides its result is the same."""
    assert input_digest(**{**INPUT, **change}) != input_digest(**INPUT)  # type: ignore[arg-type] # a table of arguments


def test_the_input_digest_changes_with_the_recipes_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    before = input_digest(**INPUT)  # type: ignore[arg-type] # a table of arguments
    monkeypatch.setitem(STAGE_REVISION, Stage.SUPERVISED, STAGE_REVISION[Stage.SUPERVISED] + 1)  # type: ignore[arg-type] # a Mapping to everybody else
    assert input_digest(**INPUT) != before  # type: ignore[arg-type] # a table of arguments


def test_the_input_digest_is_the_same_in_every_process() -> None:
    revision = STAGE_REVISION[Stage.SUPERVISED]
    assert input_digest(Stage.SUPERVISED, {"a": 1}, parents={"d": "1"}, code_version="v") == digest_of(
        {"code": "v", "config": {"a": 1}, "parents": {"d": "1"}, "revision": revision, "stage": "supervised"}
    )


# termination messages

artifacts = st.builds(
    Artifact, uri=st.text(min_size=1, max_size=400).map(lambda text: f"s3://b/{text}"), digest=st.just("d" * 64)
)
metrics = st.dictionaries(st.text(max_size=64), st.floats(allow_nan=False, allow_infinity=False), max_size=32)
snapshots = st.builds(
    SnapshotSummary,
    digest=st.just("d" * 64),
    uri=st.text(max_size=300),
    counts=st.just(SnapshotCounts()),
    smallest_labels=st.lists(st.builds(LabelCount, label=st.text(max_size=128)), max_size=10).map(tuple),
    removed=st.lists(
        st.builds(Removed, rule=st.text(max_size=64), count=st.just(1), example=st.text(max_size=200)), max_size=16
    ).map(tuple),
)
messages = st.builds(
    TerminationMessage,
    state=st.sampled_from(EndState),
    reason=st.text(max_size=64),
    message=st.text(max_size=20_000),
    artifact=st.none() | artifacts,
    result=st.builds(StageResult, metrics=metrics, snapshot=st.none() | snapshots),
)


@given(messages)
def test_a_termination_message_always_fits_and_can_be_read_back(message: TerminationMessage) -> None:
    data = message.fit()
    assert len(data) <= TERMINATION_LIMIT
    back = TerminationMessage.model_validate_json(data)
    assert (back.state, back.reason, back.artifact) == (message.state, message.reason, message.artifact)
    if message.result.snapshot is not None:
        assert back.result.snapshot is not None
        assert back.result.snapshot.digest == message.result.snapshot.digest


def test_a_short_message_is_sent_whole() -> None:
    message = TerminationMessage(state=EndState.FAILED, reason="BadData", message="row 7 of train.csv has no label")
    assert TerminationMessage.model_validate_json(message.fit()) == message
    assert json.loads(message.fit())["contract"] == "ratchet.dev/stage-v1"


@pytest.mark.parametrize("label", ["x" * 128, "ж" * 64, "返" * 40], ids=["ascii", "two bytes", "three bytes"])
def test_the_f1_of_every_class_that_gates_may_name_reaches_the_operator(label: str) -> None:
    size = len(label.encode()) + 2
    labels = [f"{label}{n:02}" for n in range(min(32, GATED_LABEL_BYTES // size))]
    numbers = {f"f1/{name}": 0.123456789 for name in labels} | {f"whole{n}": 0.123456789 for n in range(10)}
    artifact = Artifact(uri="s3://bucket/" + "p" * 400, digest="d" * 64)
    committed = TerminationMessage(
        state=EndState.COMMITTED, message="m" * 2000, artifact=artifact, result=StageResult(metrics=numbers)
    )
    assert TerminationMessage.model_validate_json(committed.fit()).result.metrics == numbers
    hit = StageHit(artifact=artifact, metrics=numbers)
    resolved = TerminationMessage(
        state=EndState.COMMITTED,
        result=StageResult(hits={"supervised": StageHit(artifact=artifact, metrics={"loss": 0.5}), "evaluate": hit}),
    )
    assert TerminationMessage.model_validate_json(resolved.fit()).result.hits["evaluate"] == hit


def test_what_a_comparison_says_gives_way_to_what_gates_judge() -> None:
    """The longest names of classes that gates may have leave room for the choice, not for all of its numbers."""
    judged = {f"f1/{n:050}": 0.123456789 for n in range(32)} | {f"whole{n}": 0.123456789 for n in range(12)}
    compared = {f"diff/some_metric_{n}": 0.123456 for n in range(17)}
    choice = Choice(candidate="rl", baseline="supervised", chosen="rl", why="w" * 400)
    artifact = Artifact(uri="s3://bucket/" + "p" * 400, digest="d" * 64)
    result = StageResult(metrics=judged | compared, choice=choice)
    message = TerminationMessage(state=EndState.COMMITTED, artifact=artifact, result=result)
    assert len(result.metrics) <= METRICS_LIMIT
    back = TerminationMessage.model_validate_json(message.fit()).result
    assert back.choice is not None
    assert (back.choice.chosen, back.metrics.keys() & judged.keys()) == ("rl", judged.keys())
    small = message.model_copy(update={"result": StageResult(metrics=compared, choice=choice)})
    assert TerminationMessage.model_validate_json(small.fit()) == small


def test_names_of_labels_give_way_to_what_gates_judge_and_their_digest_goes_last() -> None:
    labels = LabelSet.of([f"{n:02}" + "x" * 40 for n in range(40)])
    artifact = Artifact(uri="s3://bucket/" + "p" * 400, digest="d" * 64)
    for classes, left in ((20, labels), (45, labels.without_names()), (51, None)):
        judged = {f"f1/{n:050}": 0.123456789 for n in range(classes)}
        result = StageResult(metrics=judged, labels=labels)
        message = TerminationMessage(state=EndState.COMMITTED, artifact=artifact, result=result)
        back = TerminationMessage.model_validate_json(message.fit()).result
        assert (back.labels, back.metrics) == (left, judged)
    hit = StageHit(artifact=artifact, metrics={f"f1/{n:050}": 0.123456789 for n in range(45)}, labels=labels)
    resolved = TerminationMessage(state=EndState.COMMITTED, result=StageResult(hits={"evaluate": hit}))
    told = TerminationMessage.model_validate_json(resolved.fit()).result.hits["evaluate"].labels
    assert told == labels.without_names()


def test_of_hits_that_are_too_long_what_decides_is_told_first() -> None:
    artifact = Artifact(uri="s3://bucket/" + "p" * 400, digest="d" * 64)
    judged = {f"f1/{n:030}": 0.123456789 for n in range(24)}
    compared = {f"diff/some_metric_{n}": 0.123456 for n in range(17)}
    choice = Choice(candidate="rl", baseline="supervised", chosen="supervised", why="w" * 400)
    hits = {
        "supervised": StageHit(artifact=artifact, metrics={"loss": 0.5}),
        "rl": StageHit(artifact=artifact, metrics={f"some_number_{n}": 0.123456789 for n in range(20)}),
        "evaluate": StageHit(artifact=artifact, metrics=judged | compared, choice=choice),
    }
    message = TerminationMessage(state=EndState.COMMITTED, result=StageResult(hits=hits))
    back = TerminationMessage.model_validate_json(message.fit()).result.hits
    assert back.keys() == hits.keys()
    assert back["evaluate"].metrics == judged
    assert back["evaluate"].choice is not None
    assert back["evaluate"].choice.chosen == "supervised"
    assert (back["supervised"].artifact, back["rl"].metrics) == (artifact, {})


def test_hits_that_do_not_fit_are_left_for_their_stages_to_find() -> None:
    hits = {name: StageHit(artifact=Artifact(uri="s3://b/" + "x" * 2000, digest="d" * 64)) for name in ("a", "b", "c")}
    message = TerminationMessage(state=EndState.COMMITTED, result=StageResult(hits=hits, metrics={"train_rows": 8}))
    assert TerminationMessage.model_validate_json(message.fit()).result == StageResult(metrics={"train_rows": 8})


def test_what_cannot_fit_is_a_defect_and_says_so() -> None:
    with pytest.raises(ValueError, match=r"termination message of \d+ bytes does not fit 4096"):
        TerminationMessage(state=EndState.COMMITTED, reason="x" * 4096).fit()


# times


def test_times_are_utc_with_whole_seconds() -> None:
    assert format_time(parse_time("2026-01-31T13:00:00.9+01:00")) == "2026-01-31T12:00:00Z"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a zone"):
        parse_time("2026-01-31T12:00:00")
    with pytest.raises(ValidationError, match="needs a zone"):
        SnapshotSummary.model_validate({"digest": "d" * 64, "uri": "u", "counts": {}, "oldest": "2026-01-31T12:00:00"})
