"""Snapshots of a feedback log: what becomes a row, what does not and why, and that a rebuild is bit-identical."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet_api.base import format_time
from ratchet_api.feedback_dataset import Split
from ratchet_gateway.training import LocalTraining
from ratchet_jobs.data import feedback_events, feedback_order
from ratchet_jobs.data.feedback_order import BATCH, whole_tables
from ratchet_jobs.data.parted import Parted
from ratchet_jobs.data.splitting import hash64, normalised, split_of
from tests.feedback_events import LogBuilder, corrections, stored_as
from tests.gateway_app import running
from tests.recipes.stage_process import NAMESPACE, StageProcess

SPLITS = ("train", "validation", "test")


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


@pytest.fixture
def log(process: StageProcess) -> LogBuilder:
    return LogBuilder(process.store, namespace=NAMESPACE)


def source(**rules: Any) -> dict[str, Any]:
    return {"feedback": {"policyRef": {"name": "router"}} | rules}


def rows_of(process: StageProcess, summary: dict[str, Any]) -> list[dict[str, Any]]:
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    return [row for split in SPLITS for row in pq.read_table(folder / f"{split}.parquet").to_pylist()]


def manifest_of(process: StageProcess, summary: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(process.store.read(f"{NAMESPACE}/snapshots/{summary['digest']}/MANIFEST.json"))
    return found


def removed(summary: dict[str, Any]) -> dict[str, int]:
    return {each["rule"]: each["count"] for each in summary.get("removed", ())}


def test_a_correction_of_a_class_becomes_a_labelled_row(process: StageProcess, log: LogBuilder) -> None:
    corrections(log)
    log.flush()
    summary = process.summary(source=source())
    rows = rows_of(process, summary)
    assert summary["counts"]["read"] == summary["counts"]["kept"] == len(rows) == 120
    assert summary["logNewest"] == format_time(log.now + timedelta(seconds=1)), "what arrives later is new"
    by_text = {row["text"]: row for row in rows}
    assert by_text["question number 3"]["label"] == "login"
    assert by_text["question number 3"]["subject"] == stored_as("person-3@example.org")
    assert [each["label"] for each in manifest_of(process, summary)["labels"]] == ["billing", "login"]
    assert not {"scoreMean", "scoreStd"} & set(summary), "a class has no score"


def test_every_event_is_a_row_or_counted_under_the_rule_that_removed_it(process: StageProcess, log: LogBuilder) -> None:
    """P24's last step: acknowledged events are in the data set once, or their absence is accounted for."""
    corrections(log)
    signed = log.interaction(input="taken back", label="billing")
    wrong = log.feedback("correction", interactionId=signed, correction="login")
    log.feedback("undo", supersedes=wrong)
    log.feedback("comment", comment="nice", prompt="a comment alone is no verdict")
    log.feedback("correction", correction="login")  # about nothing that was asked
    log.feedback("correction", correction="x" * 200, prompt="too long for a class")
    log.feedback("correction", correction="login", prompt="question number 3")  # a second time
    log.feedback("correction", correction="other", prompt="not in the list")
    log.flush()
    summary = process.summary(source=source(), labels=["billing", "login"])
    assert removed(summary) == {
        "Superseded": 1, "NoVerdict": 1, "MissingText": 1, "InvalidLabel": 1, "Duplicate": 1, "UnknownLabel": 1
    }  # fmt: skip
    assert summary["counts"]["read"] == 126 == summary["counts"]["kept"] + sum(removed(summary).values())


def test_a_key_that_was_used_for_another_content_is_told(process: StageProcess, log: LogBuilder) -> None:
    """T22, long after a gateway could have refused it: the first stays, the second is counted, a retry is not."""
    corrections(log)
    first = {"idempotencyKey": "k", "prompt": "which of the two", "correction": "login"}
    log.feedback("correction", **first)
    log.feedback("correction", **first)
    log.feedback("correction", **first | {"correction": "billing"})
    log.feedback("correction", policy="another", **first | {"correction": "other"})
    log.flush()
    summary = process.summary(source=source())
    assert removed(summary) == {"KeyReused": 1}
    assert {row["label"] for row in rows_of(process, summary) if row["text"] == "which of the two"} == {"login"}
    assert summary["counts"]["read"] == 122 == summary["counts"]["kept"] + 1


def test_ratings_thumbs_and_scores_become_rated_rows_with_the_logged_propensity(
    process: StageProcess, log: LogBuilder
) -> None:
    for number in range(100):
        signed = log.interaction(input=f"question {number}", label="billing", actionPropensity=0.8, version=2)
        log.feedback(("thumbs_up", "thumbs_down")[number % 2], interactionId=signed)
    lonely = log.interaction(input="nobody knows how likely this was", label="billing")
    log.feedback("thumbs_up", interactionId=lonely)
    log.feedback("rating", rating=4, prompt="say hello", response="Hello!")
    log.feedback("score", score=0.25, prompt="say goodbye", response="Bye.")
    log.feedback("correction", correction="Farewell", prompt="unrated corrections score nothing", response="Bye.")
    log.flush()
    summary = process.summary(type="ratings", source=source())
    rows = {row["text"]: row for row in rows_of(process, summary)}
    assert removed(summary) == {"MissingPropensity": 1, "NoVerdict": 1}
    assert (rows["question 0"]["score"], rows["question 1"]["score"]) == (1.0, 0.0)
    assert (rows["question 0"]["label"], rows["question 0"]["propensity"]) == ("billing", 0.8)
    assert rows["question 0"]["policy"] == "router@2"
    assert (rows["say hello"]["score"], rows["say goodbye"]["score"]) == (0.75, 0.25)
    assert rows["say hello"]["propensity"] is None
    assert summary["scoreMean"] == pytest.approx((50 + 0.75 + 0.25) / 102, abs=1e-6)


def test_a_correction_is_a_preference_pair_and_a_demonstration(process: StageProcess, log: LogBuilder) -> None:
    for number in range(60):
        words = {"prompt": f"q{number}", "response": "bad answer", "correction": f"good answer {number}"}
        log.feedback("correction", tags={"price": "$least"}, **words)
    for number in range(60, 80):
        log.feedback("preference", prompt=f"q{number}", chosen="this", rejected="that")
    log.feedback("correction", prompt="same", response="as it was", correction="as it was")
    log.feedback("rating", rating=5, prompt="rated", response="fine answer")
    log.feedback("rating", rating=2, prompt="rated low", response="poor answer")
    log.flush()
    pairs = {r["text"]: r for r in rows_of(process, process.summary(type="preferences", source=source(), target="p"))}
    assert len(pairs) == 80
    assert (pairs["q1"]["chosen"], pairs["q1"]["rejected"]) == ("good answer 1", "bad answer")
    assert (pairs["q61"]["chosen"], pairs["q61"]["rejected"]) == ("this", "that")
    tagged = source(tags=[{"name": "price", "value": "$least"}])  # a name of ours in a user's words
    assert process.summary(type="preferences", source=tagged, target="t")["counts"]["kept"] == 60
    shown = process.summary(type="demonstrations", source=source(), target="d")
    assert {r["text"] for r in rows_of(process, shown)} == {*(f"q{n}" for n in range(60)), "same"}
    more = process.summary(type="demonstrations", source=source(minRating=4), target="m")
    assert {r["text"]: r["response"] for r in rows_of(process, more)}["rated"] == "fine answer"
    assert "rated low" not in {r["text"] for r in rows_of(process, more)}


@pytest.mark.parametrize(
    ("rules", "rule", "left"),
    [
        ({"types": ["rating"]}, "OtherType", 60),
        ({"versions": [2]}, "OtherVersion", 80),
        ({"tags": [{"name": "team", "value": "it's A"}]}, "OtherTags", 40),
        ({"minRating": 4}, "BelowMinRating", 90),
    ],
    ids=["types", "versions", "tags", "minRating"],
)
def test_a_filter_removes_what_it_names_and_says_how_many(
    process: StageProcess, log: LogBuilder, rules: dict[str, Any], rule: str, left: int
) -> None:
    for number in range(120):
        log.feedback(
            "rating" if number < 60 else "score",
            **({"rating": 4} if number < 60 else {"score": 0.9 if number < 90 else 0.1}),
            prompt=f"question {number}",
            response="answer",
            version=2 if number % 3 else 1,
            tags={"team": "it's A" if number % 3 == 0 else "B"},
        )
    log.flush()
    summary = process.summary(type="ratings", source=source(**rules))
    assert (summary["counts"]["kept"], removed(summary)) == (left, {rule: 120 - left})


def test_a_rebuild_of_the_same_position_is_bit_identical_though_the_log_went_on(
    process: StageProcess, log: LogBuilder
) -> None:
    """P28: also when a segment of another writer arrives late, in an older folder."""
    corrections(log)
    log.flush()
    log.restart()
    log.feedback("correction", correction="login", prompt="from another process")
    log.flush()
    first = process.summary(source=source(), target="1")
    stored = {i.key: process.store.read(i.key) for i in process.store.list(f"{NAMESPACE}/snapshots")}
    late = LogBuilder(process.store, namespace=NAMESPACE)
    corrections(late, 30, classes=("login", "billing"))
    late.flush()
    for key in stored:
        if key.endswith(".parquet"):
            process.store.delete([key])
    grown = process.summary(source=source(), target="2")
    assert grown["digest"] != first["digest"]
    again = process.summary(source=source(asOf=first["digest"]), target="3")
    assert again["digest"] == first["digest"]
    assert again["logPosition"] == first["logPosition"] != grown["logPosition"]


def test_equal_logs_give_equal_bytes_however_they_were_cut_into_segments(tmp_path: Path) -> None:
    """P28."""
    digests = set()
    for cuts in (1, 7):
        folder = tmp_path / str(cuts)
        folder.mkdir()
        process = StageProcess(folder)
        log = LogBuilder(process.store, namespace=NAMESPACE)
        for number in range(100):
            log.feedback("correction", correction="ab"[number % 2], prompt=f"q {number}", idempotencyKey=f"k{number}")
            if number % cuts == 0:
                log.flush()
        log.flush() if log.lines else None
        digests.add(process.summary(source=source())["digest"])
    assert len(digests) == 1


def test_where_the_engines_pieces_end_shows_in_no_table() -> None:
    """P28: 122,880 rows of DuckDB come as pieces of 65,536 and 57,344, and go on as whole tables."""
    pieces = [pa.record_batch({"n": pa.array(range(start, start + 35_000))}) for start in range(0, 140_000, 35_000)]
    tables = list(whole_tables(pieces))
    assert [table.num_rows for table in tables] == [BATCH, BATCH, 140_000 - 2 * BATCH]
    assert [table["n"].num_chunks for table in tables] == [1, 1, 1]
    assert [number for table in tables for number in table["n"].to_pylist()] == list(range(140_000))


def test_a_retry_that_reached_another_replica_is_one_row(process: StageProcess, log: LogBuilder) -> None:
    """P24: the reader counts an event once."""
    corrections(log)
    once = list(log.lines)
    log.flush()
    log.restart()
    log.lines = once[:50]
    log.flush()
    summary = process.summary(source=source())
    assert summary["counts"] == {"read": 120, "kept": 120} | {s: summary["counts"][s] for s in SPLITS}


def test_one_person_has_no_more_than_their_share(process: StageProcess, log: LogBuilder) -> None:
    """P29: 10,000 events of one person do not move the data set."""
    corrections(log, 200)
    for number in range(10_000):
        log.feedback("correction", correction="login", prompt=f"flood {number}", subject="mallory")
    for number in range(50):  # who gives no name is nobody in particular, not one person
        log.feedback("correction", correction="billing", prompt=f"nameless {number}")
    log.flush()
    summary = process.summary(source=source(), filters={"maxSubjectSharePercent": 5})
    rows = rows_of(process, summary)
    flood = sum(row["subject"] == stored_as("mallory") for row in rows)
    assert 0 < flood <= 0.05 * len(rows)
    assert removed(summary) == {"SubjectShare": 10_000 - flood}


def test_a_flooder_keeps_a_share_of_what_train_policy_trains_on(process: StageProcess, tmp_path: Path) -> None:
    """P29 from the door to the rows: what a training asks for when nobody says anything about shares."""
    made: list[dict[str, Any]] = []
    port = LocalTraining(made.append, lambda *_: None)
    with running(tmp_path, store=process.store, namespace=NAMESPACE, training=port) as gateway:
        for person in ("mallory", *map(str, range(10))):
            said = {"type": "correction", "policy": "router", "subject": person}
            words = [
                {"prompt": f"{person} asks about {n}", "correction": ("login", "billing")[n % 2]}
                for n in range(60 if person == "mallory" else 12)
            ]
            sent = gateway.post("/v1/feedback", {"events": [said | text for text in words]})
            assert sent.status_code == 200, sent.text
        assert gateway.post("/api/policies/train_policy/router", {}).status_code == 202
    spec = made[0]["spec"]
    summary = process.summary(source=spec["source"], filters=spec["filters"])
    rows = rows_of(process, summary)
    flood = sum(row["text"].startswith("mallory") for row in rows)
    assert spec["filters"] == {"maxSubjectSharePercent": 19}
    assert (len(rows) - flood, flood) == (120, int(0.19 * len(rows))), "mallory sent a third"
    assert removed(summary) == {"SubjectShare": 60 - flood}


def test_a_person_who_disagrees_with_everybody_is_set_aside_until_released(
    process: StageProcess, log: LogBuilder
) -> None:
    """P29: the list is in the manifest, by pseudonym."""
    for number in range(40):
        good = number % 2
        for person in ("ann", "bob", "cy", "troll"):
            opinion = good if person != "troll" else 1 - good
            log.feedback("score", score=float(opinion), prompt=f"q{number}", response="a", subject=person)
    log.flush()
    rules = {"minAgreement": 0.5, "minComparisons": 5}
    summary = process.summary(type="ratings", source=source(quarantine=rules), target="1")
    assert removed(summary) == {"Quarantined": 40}
    [aside] = manifest_of(process, summary)["settings"]["quarantined"]
    assert aside == {"subject": stored_as("troll"), "comparisons": 40, "agreement": 0.0, "released": False}
    released = rules | {"release": [stored_as("troll")]}
    assert process.summary(type="ratings", source=source(quarantine=released), target="2")["counts"]["kept"] == 160


def test_what_identifies_people_is_redacted_before_anything_is_written(process: StageProcess, log: LogBuilder) -> None:
    secrets = ("jo.doe@mail.example.org", "+49 30 901820", "4111 1111 1111 1111", "ghp_" + "a1" * 18)
    for number in range(60):
        text = f"question {number}: write to {secrets[0]} or call {secrets[1]}, card {secrets[2]}, token {secrets[3]}"
        log.feedback("correction", prompt=text, response=text, correction=f"ask {secrets[0]}, please")
    log.flush()
    summary = process.summary(type="preferences", source=source())
    counted = manifest_of(process, summary)["settings"]["redacted"]
    assert counted == {"card": 120, "email": 180, "key": 120, "phone": 120}
    rows = rows_of(process, summary)
    assert rows[0]["chosen"] == "ask [EMAIL], please"
    assert not [row for row in rows for secret in secrets if secret in json.dumps(row, default=str)]


@pytest.mark.parametrize("group", ["prompt", "subject"])
def test_equal_prompts_and_if_wanted_all_rows_of_a_person_stay_in_one_split(
    process: StageProcess, log: LogBuilder, group: str
) -> None:
    for number in range(600):
        text = f"Question  {number // 2}" if number % 2 else f"question {number // 2}"
        log.feedback("rating", rating=1 + number % 5, prompt=text, response="a", subject=f"person {number // 6}")
    log.flush()
    summary = process.summary(type="ratings", source=source(groupBy=group))
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    texts, people = {}, {}
    for split in SPLITS:
        for row in pq.read_table(folder / f"{split}.parquet").to_pylist():
            texts.setdefault(" ".join(row["text"].casefold().split()), set()).add(split)
            people.setdefault(row["subject"], set()).add(split)
    assert all(len(splits) == 1 for splits in texts.values())
    assert all(len(splits) == 1 for splits in people.values()) == (group == "subject")


@pytest.mark.parametrize("group", ["prompt", "subject"])
@pytest.mark.parametrize(("type", "least"), [("ratings", None), ("demonstrations", 2)])
def test_rows_that_are_joined_and_sorted_in_pieces_make_the_same_snapshot(
    process: StageProcess, log: LogBuilder, monkeypatch: pytest.MonkeyPatch, group: str, type: str, least: int | None
) -> None:
    """P28: what fits into memory at once decides no byte; one prompt is asked more often than a piece has rows."""
    for number in range(400):
        text = "question that everybody asks" if number % 5 == 0 else f"quéstion {number} of a@example.org"
        if number % 9 == 0:
            text += " at length" * 50
        signed = log.interaction(input=text, response=f"answer {number}", subject=f"person {number // 3}")
        name = log.feedback("rating", rating=1 + number % 5, interactionId=signed, subject=f"person {number // 3}")
        if number % 11 == 0:
            log.feedback("undo", supersedes=name)
    log.flush()
    rules: dict[str, Any] = {
        "type": type,
        "source": source(groupBy=group, quarantine={"minAgreement": 0.1}, minRating=least),
        "filters": {"maxTextChars": 200, "maxSamples": 100, "maxSubjectSharePercent": 0.8},
    }
    whole = process.summary(**rules, target="whole")
    taken: list[int] = []
    take = Parted.take

    def noted(self: Parted, part: int) -> pa.Table:
        rows = take(self, part)
        taken.append(len(rows))
        return rows

    monkeypatch.setattr(Parted, "take", noted)
    monkeypatch.setattr(feedback_events, "PART_EVENTS", 50)
    monkeypatch.setattr(feedback_order, "_SORTED", 20)
    pieces = process.summary(**rules, target="pieces")
    assert len(taken) >= 2 * 800 // 50 + 100 // 20, "events were not joined, or rows not sorted, in pieces"
    assert {name: pieces[name] for name in ("digest", "removed", "counts")} == {
        name: whole[name] for name in ("digest", "removed", "counts")
    }
    assert {"Superseded", "TextTooLong", "SubjectShare", "MaxSamples"} <= removed(pieces).keys()
    assert manifest_of(process, pieces)["settings"]["redacted"] == manifest_of(process, whole)["settings"]["redacted"]
    assert len(rows_of(process, pieces)) == 100


def test_old_events_and_too_many_are_left_out_alike_in_every_rebuild(process: StageProcess, log: LogBuilder) -> None:
    corrections(log, 100)
    log.now = log.now.replace(day=27)
    for number in range(100):
        log.feedback("correction", correction="ab"[number % 2], prompt=f"new question {number}")
    log.flush()
    summary = process.summary(source=source(), filters={"maxAgeDays": 2, "maxSamples": 80}, target="1")
    assert removed(summary) == {"TooOld": 100, "MaxSamples": 20}
    assert {row["label"] for row in rows_of(process, summary)} == {"a", "b"}


BAD = {
    "an empty log": (lambda log: None, {}, "the feedback log of namespace 'ns' is empty"),
    "a log of other policies": (
        lambda log: log.feedback("thumbs_up", policy="other", prompt="x", response="y"),
        {},
        "0 train rows are left of 0 events of policy 'router'",
    ),
    "too few samples": (lambda log: corrections(log, 5), {}, "at least 10 are needed"),
    "one class only": (lambda log: corrections(log, 60, classes=("a",)), {}, "needs at least two classes"),
    "a position that nobody read": (lambda log: corrections(log), {"asOf": "0" * 64}, "does not exist"),
}


@pytest.mark.parametrize(("fill", "rules", "words"), BAD.values(), ids=BAD.keys())
def test_a_log_that_nothing_can_be_learned_from_is_refused_with_the_reason(
    process: StageProcess, log: LogBuilder, fill: Any, rules: dict[str, Any], words: str
) -> None:
    fill(log)
    if log.lines:
        log.flush()
    code, message = process.snapshot(source=source(**rules))
    assert code in (10, 12, 22)
    assert words in message["message"]


def test_a_damaged_segment_ends_the_stage_instead_of_thinning_the_data(process: StageProcess, log: LogBuilder) -> None:
    corrections(log)
    key = log.flush()
    process.store.write(key, process.store.read(key)[:-4] + b"\0\0\0\0")
    code, message = process.snapshot(source=source())
    assert code == 23
    assert key.rsplit("/", 1)[1] in message["message"]


def test_what_the_database_hashes_is_what_python_hashes(process: StageProcess, log: LogBuilder) -> None:
    """Plain texts never leave the database, others pass through Python: both must fall into splits alike."""
    for number in range(200):
        # up to 165 bytes long: from 128 on the length in front of a text is no text any more
        plain, other = f"Plain  question\t{number % 90}" + "x" * (3 * number // 4), f"Straße und\u00a0Platz {number}"
        text = (plain, other, f"call +49 30 9018{number:03}")[number % 3]
        log.feedback("rating", rating=3, prompt=text, response="a")
    log.flush()
    summary = process.summary(type="ratings", source=source(), split={"salt": "it's"})
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    split = Split(salt="it's")
    for name in SPLITS:
        for row in pq.read_table(folder / f"{name}.parquet").to_pylist():
            assert row["component"] == hash64("text", normalised(row["text"]))
            assert split_of(row["component"], split) == name


EVEN = {"trainPercent": 50, "validationPercent": 25, "testPercent": 25}


def test_disputed_prompts_are_preferred_up_to_their_share_the_most_disputed_first(
    process: StageProcess, log: LogBuilder
) -> None:
    """Of 300 rows 60 are kept. Up against down is 1, five stars against three 0.5, all else agrees."""

    def rate(number: int, *stars: int, version: int = 1, answer: str = "billing") -> None:
        for person, rating in enumerate(stars):
            words = {"prompt": f"question {number}", "response": answer, "subject": f"p{person}", "version": version}
            log.feedback("rating", rating=rating, **words)

    for number in range(10):
        rate(number, 5, 1)
    for number in range(10, 20):
        rate(number, 5, 3)
    for number in range(20, 30):
        rate(number, 5, version=1)
        rate(number, 5, version=2, answer="login")
    for number in range(30, 150):
        rate(number, 4, 4)
    log.flush()

    def kept(share: float | None, most: int | None = 60) -> tuple[dict[str, Any], list[int]]:
        rules = {} if share is None else {"sampling": {"disagreement": {"sharePercent": share}}}
        summary = process.summary(
            type="ratings",
            source=source(**rules),
            filters={} if most is None else {"maxSamples": most},
            split=EVEN,
            target=f"{share}-{most}",
        )
        return summary, sorted(int(row["text"].split()[1]) for row in rows_of(process, summary))

    plain, by_chance = kept(None)
    half, chosen = kept(50)
    whole, all_disputed = kept(100)
    assert "disputed" not in plain
    assert sum(n < 30 for n in by_chance) < 25 < 30 <= sum(n < 30 for n in chosen)
    # 40 rows dispute with 1 (up against down, and versions that answer differently), 20 with half of it
    assert half["disputed"]["found"] == whole["disputed"]["found"] == 60
    assert half["disputed"]["kept"] == sum(n < 30 for n in chosen)
    assert [n for n in all_disputed if n >= 30] == []
    assert kept(50)[0]["digest"] == half["digest"]
    assert len(chosen) == len(all_disputed) == removed_from(whole, 300) == 60
    few, most_disputed = kept(100, most=40)
    assert set(most_disputed) == {*range(10), *range(20, 30)}
    assert few["disputed"] == {"found": 60, "kept": 40}


def removed_from(summary: dict[str, Any], rows: int) -> int:
    return rows - sum(removed(summary).values())


def test_nobody_quarrels_with_itself_and_who_was_set_aside_is_not_heard(process: StageProcess, log: LogBuilder) -> None:
    for number in range(40):
        for rating in (5, 1):  # one person changes its mind, and nobody in particular says two things
            log.feedback("rating", rating=rating, prompt=f"q{number}", response="a", subject="one")
            log.feedback("rating", rating=rating, prompt=f"r{number}", response="a")
        for person, rating in (("x", 5), ("y", 5), ("troll", 1)):
            log.feedback("rating", rating=rating, prompt=f"s{number}", response="a", subject=person)
    log.flush()
    rules = {"sampling": {"disagreement": {"sharePercent": 100}}, "quarantine": {"minAgreement": 0.4}}
    summary = process.summary(type="ratings", source=source(**rules), filters={"maxSamples": 100}, split=EVEN)
    assert removed(summary)["Quarantined"] == 40
    assert summary["disputed"] == {"found": 0, "kept": 0}


def test_what_people_want_instead_is_heard_among_ratings_though_it_rates_nothing(
    process: StageProcess, log: LogBuilder
) -> None:
    for number in range(60):
        log.feedback("rating", rating=4, prompt=f"question {number}", response="billing", subject="a")
    for number in range(10):
        for person, wanted in (("b", "login"), ("c", "shipping")):
            words = {"prompt": f"question {number}", "response": "billing", "subject": person}
            log.feedback("correction", correction=wanted, **words)
    log.flush()
    rules = {"sampling": {"disagreement": {"sharePercent": 100}}}
    summary = process.summary(type="ratings", source=source(**rules), filters={"maxSamples": 50}, split=EVEN)
    assert summary["disputed"] == {"found": 10, "kept": 10}
    assert removed(summary) == {"MaxSamples": 10, "NoVerdict": 20}
