"""The snapshot of answers to follow: from prompts or dialogues; what cannot be followed is counted by rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ratchet_api.names import snapshot_prefix
from ratchet_api.stage import DatasetRef, ExitCode
from ratchet_jobs.data.demonstrations import DEMONSTRATIONS_SCHEMA, Demonstration, read_demonstrations
from ratchet_jobs.data.snapshots import SPLITS, open_snapshot
from ratchet_jobs.data.turns import Turn
from tests.recipes.stage_process import NAMESPACE, StageProcess, many

SHOWN = {"type": "demonstrations", "source": {"objects": [{"uri": "store://shown.jsonl"}]}}


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


def pairs(count: int = 120, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"question {n}", "response": f"answer {n}", **more} for n in range(count)]


def put(process: StageProcess, rows: list[dict[str, Any]]) -> None:
    process.put("shown.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def read(process: StageProcess, summary: dict[str, Any]) -> list[Demonstration]:
    """Every row of the snapshot, as a stage reads it."""
    ref = DatasetRef(digest=summary["digest"], prefix=snapshot_prefix(NAMESPACE, summary["digest"]))
    snapshot = open_snapshot(process.store, ref, into=process.root / "read")
    return [row for split in SPLITS for row in read_demonstrations(snapshot, split)]


def test_a_prompt_and_its_answer_come_back_as_they_were_given(process: StageProcess) -> None:
    put(process, pairs())
    summary = process.summary(**SHOWN)
    assert summary["counts"]["kept"] == 120
    assert summary["classes"] == 0
    assert set(read(process, summary)) == {
        Demonstration((Turn("user", f"question {n}"),), f"answer {n}") for n in range(120)
    }


def test_columns_may_be_called_and_nested_otherwise(process: StageProcess) -> None:
    put(process, [{"q": {"body": f"q {n}"}, "a": f"a {n}"} for n in range(120)])
    rows = read(process, process.summary(**SHOWN, columns={"text": "q.body", "response": "a"}))
    assert {(row.prompt, row.response) for row in rows} == {(f"q {n}", f"a {n}") for n in range(120)}


def test_a_dialogue_keeps_its_turns_and_its_last_one_is_the_answer(process: StageProcess) -> None:
    turns = (Turn("system", "be kind"), Turn("user", "hi"), Turn("assistant", "hello"))
    rows = [
        {"chat": [*(t._asdict() for t in turns), {"role": "user", "content": f"more {n}"},
                  {"role": "assistant", "content": f"sure {n}"}]}
        for n in range(120)
    ]  # fmt: skip
    put(process, rows)
    summary = process.summary(**SHOWN, columns={"messages": "chat"})
    assert set(read(process, summary)) == {
        Demonstration((*turns, Turn("user", f"more {n}")), f"sure {n}") for n in range(120)
    }
    path = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"] / "train.parquet"
    assert (
        pq.read_table(path).column("text")[0].as_py().startswith("system: be kind\nuser: hi\nassistant: hello\nuser: ")
    )


CHAT_ENDED = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
ASKED = {"turns": "said", "response": "answer", "group": "chat", "items": "films", "emotion": "mood"}


def chats(count: int = 60) -> list[dict[str, Any]]:
    """Two answers of each dialogue."""
    rows = []
    for n in range(count):
        told = {"chat": n, "films": [" Ran ", "Ran", "Heat"], "mood": "sad"}
        rows.append({"said": [f"film {n}?"], "answer": f"Ran {n}", **told})
        rows.append({"said": [f"film {n}?", f"Ran {n}", "more?"], "answer": f"Heat {n}", "chat": n})
    return rows


def test_turns_of_two_people_become_a_dialogue_that_the_user_spoke_in_last(process: StageProcess) -> None:
    put(process, chats())
    found = {row.response: row for row in read(process, process.summary(**SHOWN, columns=ASKED))}
    first, second = found["Ran 7"], found["Heat 7"]
    assert first == Demonstration((Turn("user", "film 7?"),), "Ran 7", ("Ran", "Heat"), "sad")
    assert second.turns == (Turn("user", "film 7?"), Turn("assistant", "Ran 7"), Turn("user", "more?"))
    assert (second.items, second.emotion) == (None, None), "a row that says nothing is no row without items"


def test_turns_may_name_who_spoke(process: StageProcess) -> None:
    rows = [
        row | {"said": [{"role": "system", "content": "be kind"}, {"role": "user", "content": f"{n}"}]}
        for n, row in enumerate(chats())
    ]
    put(process, rows)
    found = read(process, process.summary(**SHOWN, columns=ASKED))
    assert {row.turns[0] for row in found} == {Turn("system", "be kind")}


def test_answers_of_one_dialogue_never_part_across_splits(process: StageProcess) -> None:
    put(process, chats(120))
    summary = process.summary(**SHOWN, columns=ASKED)
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    numbers = [
        {answer.split()[1] for answer in pq.read_table(folder / f"{split}.parquet").column("response").to_pylist()}
        for split in SPLITS
    ]
    assert all(numbers)
    assert sum(map(len, numbers)) == len(set.union(*numbers)) == 120


def test_a_snapshot_has_no_column_that_nobody_mapped_so_that_digests_stay_as_they_were(process: StageProcess) -> None:
    put(process, chats())
    digest = process.summary(**SHOWN, columns={"turns": "said", "response": "answer", "group": "chat"})["digest"]
    path = process.root / "store" / NAMESPACE / "snapshots" / digest / "test.parquet"
    assert pq.read_schema(path).names == DEMONSTRATIONS_SCHEMA.names


TOLD: dict[str, tuple[str, dict[str, Any]]] = {
    "no turns": ("MissingTurns", {"said": None}),
    "turns that are text": ("TurnsNotAList", {"said": "hi"}),
    "no turn": ("EmptyPrompt", {"said": []}),
    "a blank turn": ("EmptyPrompt", {"said": ["hi", " "]}),
    "a turn that is a number": ("InvalidMessage", {"said": ["hi", 7]}),
    "turns that the assistant ends": ("AssistantTwice", {"said": CHAT_ENDED}),
    "no answer to the turns": ("EmptyResponse", {"answer": None}),
    "an answer that is a number": ("ResponseNotString", {"answer": 5}),
    "items that are a number": ("InvalidItem", {"films": 3}),
    "an item without a name": ("InvalidItem", {"films": ["Ran", " "]}),
    "an item of a thousand letters": ("InvalidItem", {"films": ["a" * 1000]}),
    "a catalogue of items": ("TooManyItems", {"films": [f"film {n}" for n in range(65)]}),
    "an emotion that is a list": ("InvalidEmotion", {"mood": ["sad"]}),
    "an emotion with a zero byte": ("InvalidEmotion", {"mood": "s\0d"}),
}


@pytest.mark.parametrize(("rule", "row"), TOLD.values(), ids=TOLD.keys())
def test_a_row_of_a_dialogue_that_says_no_such_thing_is_counted_by_its_rule(
    rule: str, row: dict[str, Any], process: StageProcess
) -> None:
    """P39."""
    good = chats(30)
    put(process, [*good, good[0] | row])
    summary = process.summary(**SHOWN, columns=ASKED)
    assert summary["counts"]["kept"] == 60
    assert [(each["rule"], each["example"]) for each in summary["removed"]] == [(rule, "store://shown.jsonl row 61")]


def test_answers_to_one_prompt_never_part_across_splits_and_equal_rows_count_once(process: StageProcess) -> None:
    rows = [{"text": f"question {n % 60}", "response": f"answer {n % 120}"} for n in range(240)]
    put(process, rows)
    summary = process.summary(**SHOWN)
    assert summary["counts"]["kept"] == 120
    assert summary["removed"][0]["rule"] == "Duplicate"
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    seen = [set(pq.read_table(folder / f"{split}.parquet").column("text").to_pylist()) for split in SPLITS]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 60


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "no prompt": ("EmptyPrompt", {"text": None}),
    "an empty prompt": ("EmptyPrompt", {"text": ""}),
    "a prompt of blanks": ("EmptyPrompt", {"text": " \n"}),
    "a prompt that is no text": ("PromptNotString", {"text": 7}),
    "no answer": ("EmptyResponse", {"response": None}),
    "an answer of blanks": ("EmptyResponse", {"response": "\t "}),
    "an answer that is a list": ("ResponseNotString", {"response": ["a"]}),
    "an answer with a zero byte": ("ControlCharacter", {"response": "a\0b"}),
    "half a surrogate pair": ("ControlCharacter", {"text": "a\ud800"}),
    "no dialogue": ("MissingMessages", {"chat": None}),
    "a dialogue that is text": ("MessagesNotAList", {"chat": "hi"}),
    "one turn alone": ("TooFewMessages", {"chat": CHAT[1:]}),
    "a turn that is text": ("InvalidMessage", {"chat": ["hi", "hello"]}),
    "a role that nobody has": ("InvalidMessage", {"chat": [{"role": "bot", "content": "hi"}, CHAT[1]]}),
    "a turn without content": ("InvalidMessage", {"chat": [{"role": "user"}, CHAT[1]]}),
    "an empty turn": ("EmptyPrompt", {"chat": [{"role": "user", "content": " "}, CHAT[1]]}),
    "an empty last turn": ("EmptyResponse", {"chat": [CHAT[0], {"role": "assistant", "content": ""}]}),
    "a dialogue that the user ends": ("LastNotAssistant", {"chat": [*CHAT, CHAT[0]]}),
    "an assistant that speaks twice": ("AssistantTwice", {"chat": [*CHAT, CHAT[1]]}),
}


@pytest.mark.parametrize(("rule", "row"), BROKEN.values(), ids=BROKEN.keys())
def test_a_row_that_cannot_be_followed_is_counted_by_its_rule(
    rule: str, row: dict[str, Any], process: StageProcess
) -> None:
    """P39."""
    chatty = "chat" in row
    good = [{"chat": [{"role": "user", "content": f"hi {n}"}, CHAT[1]]} for n in range(60)] if chatty else pairs(60)
    put(process, [*good, (good[0] | row)])
    summary = process.summary(**SHOWN, columns={"messages": "chat"} if chatty else {})
    assert summary["counts"]["kept"] == 60
    assert [(each["rule"], each["example"]) for each in summary["removed"]] == [(rule, "store://shown.jsonl row 61")]


def test_bytes_that_are_no_utf8_are_counted(process: StageProcess) -> None:
    good = "".join(json.dumps(row) + "\n" for row in pairs(60)).encode()
    process.put("shown.jsonl", good + b'{"text": "\xff", "response": "a"}\n')
    summary = process.summary(**SHOWN)
    assert [each["rule"] for each in summary["removed"]] == ["InvalidUtf8"]


def test_a_file_without_the_column_is_refused_with_the_columns_it_has(process: StageProcess) -> None:
    process.put("shown.csv", "text,label\n" + "".join(f"{a},{b}\n" for a, b in many()))
    code, message = process.snapshot(type="demonstrations", source={"objects": [{"uri": "store://shown.csv"}]})
    assert code == ExitCode.BAD_DATA
    assert "no column 'response' (spec.columns.response); it has: label, text" in message["message"]


def test_inline_rows_show_answers_too(process: StageProcess) -> None:
    rows = [{"text": f"question {n}", "response": f"answer {n}"} for n in range(100)]
    summary = process.summary(type="demonstrations", source={"inline": rows})
    assert len(read(process, summary)) == 100


def test_too_few_rows_are_refused_with_what_was_removed(process: StageProcess) -> None:
    put(process, [*pairs(5), *({"text": f"t {n}", "response": ""} for n in range(7))])
    code, message = process.snapshot(**SHOWN)
    assert code == ExitCode.BAD_DATA
    assert "at least 10 are needed" in message["message"]
    assert "EmptyResponse 7 (by spec.columns.response" in message["message"]


def test_a_split_without_rows_is_refused_with_what_to_raise(process: StageProcess) -> None:
    put(process, pairs(30))
    code, message = process.snapshot(**SHOWN, split={"trainPercent": 98, "validationPercent": 1, "testPercent": 1})
    assert code == ExitCode.BAD_DATA
    assert "split is empty (30 rows in all" in message["message"]
    assert "Percent" in message["message"]
