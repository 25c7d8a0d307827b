"""`ratchet feedback`: what the verbs send, which files are understood, and what is said about the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet_cli.errors import CliError, NotFound, UsageProblem
from ratchet_cli.feedback_files import read_rows
from ratchet_cli.feedback_verbs import _batches
from ratchet_cli.main import run_command
from ratchet_jobs.feedback_log.reader import LogReader
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.gateway_app import key_of, listening

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("gateway")
    with listening(folder) as url:
        yield url, folder


@pytest.fixture
def ratchet(
    gateway: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command line against the gateway; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_GATEWAY", gateway[0])
    monkeypatch.setenv("RATCHET_GATEWAY_TOKEN", key_of("all"))
    monkeypatch.setattr("ratchet_cli.screen.out.width", 300)
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)

    def run(*words: str) -> tuple[int, str]:
        code = run_command(["feedback", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def log(gateway: tuple[str, Path]) -> list[dict[str, Any]]:
    return list(LogReader(DirectoryStore(gateway[1] / "store"), "ns").events())


def test_add_stores_what_the_options_say(ratchet: Command, gateway: tuple[str, Path]) -> None:
    words = ("correction", "--correction", "refund", "--prompt", "q", "--rating", "2", "--tag", "channel=chat")
    code, printed = ratchet("add", "router", *words, "--key", "k1")
    assert (code, "correction for router stored" in printed) == (0, True)
    stored = log(gateway)[-1]
    want = {"type": "correction", "correction": "refund", "prompt": "q", "rating": 2, "tags": {"channel": "chat"}}
    assert {name: stored[name] for name in want} == want
    assert "was stored before" in ratchet("add", "router", *words, "--key", "k1")[1]
    before = len(log(gateway))
    assert "would be stored" in ratchet("add", "router", "thumbs_up", "--dry-run")[1]
    assert len(log(gateway)) == before


@pytest.mark.parametrize(
    ("words", "want_code", "want"),
    [
        pytest.param(("add", "router", "rating", "--rating", "9"), 1, "less than or equal to 5", id="rating 9"),
        pytest.param(("add", "nope", "thumbs_up"), 4, "'nope': there is no RLPolicy", id="unknown policy"),
        pytest.param(
            ("add", "router", "applause"), 1, "type: is none of 'thumbs_up', 'thumbs_down'", id="unknown type"
        ),
        pytest.param(
            ("add", "router", "thumbs_up", "--tag", "x"), 2, "'x' must be NAME=VALUE", id="a tag without value"
        ),
        pytest.param(("add", "router", "thumbs_up", "--gateway", "gw"), 2, "'gw' is no address", id="no address"),
        pytest.param(("add", "router", "thumbs_up", "--token-file", "absent"), 4, "does not exist", id="no token file"),
        pytest.param(("stats", "nope"), 4, "there is no RLPolicy", id="statistics of nothing"),
        pytest.param(("import", "router", "absent.jsonl"), 4, "absent.jsonl does not exist", id="no file"),
        pytest.param(("import", "router", "rows.txt"), 2, "give --format", id="a file of no form"),
    ],
)
def test_a_wrong_command_is_explained(ratchet: Command, words: tuple[str, ...], want_code: int, want: str) -> None:
    code, printed = ratchet(*words)
    assert want in printed
    assert code == want_code


def test_a_wrong_token_is_said(ratchet: Command, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong\n")
    code, printed = ratchet("stats", "router", "--token-file", "token")
    assert (code, "not known here" in printed) == (1, True)


MORNING = "2024-05-01T10:00:00"
OLDER: list[dict[str, Any]] = [
    {
        "query": "q1",
        "response": "r1",
        "feedback_type": "thumbs_up",
        "rating": None,
        "correction": None,
        "timestamp": MORNING,
        "metadata": {"user_id": "anna", "model": "m1"},
    },
    {
        "query": "q2",
        "response": "r2",
        "feedback_type": "rating",
        "rating": 4,
        "correction": "",
        "timestamp": 1714557600,
        "metadata": {},
    },
    {
        "query": "q3",
        "response": "",
        "feedback_type": "correction",
        "rating": 2,
        "correction": "better",
        "timestamp": MORNING + "Z",
        "metadata": None,
    },
    {"query": "q4", "response": "r4", "feedback_type": "comment", "metadata": {"comment": "hm", "a b": [1]}},
]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_what_older_collectors_wrote_is_understood(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text(lines(*OLDER))
    rows = read_rows(tmp_path / "old.jsonl", policy="router")
    assert rows.problems == []
    assert rows.by_type() == {"comment": 1, "correction": 1, "rating": 1, "thumbs_up": 1}
    thumb, rating, correction, comment = rows.events
    want = {"prompt": "q1", "response": "r1", "subject": "anna", "tags": {"model": "m1"}}
    assert {name: thumb[name] for name in want} == want
    assert thumb["timestamp"] == rating["timestamp"] == correction["timestamp"] == "2024-05-01T10:00:00Z"
    assert ("rating" in thumb, rating["rating"], correction["rating"]) == (False, 4, 2)
    assert (correction["correction"], "response" in correction) == ("better", False)
    assert (comment["comment"], comment["tags"]) == ("hm", {"a_b": "[1]"})


def test_what_older_collectors_wrote_beside_an_answer_is_what_its_type_says(tmp_path: Path) -> None:
    """One field held what somebody wrote: a comment's text, and the better answer of a preference."""
    asked = {"query": "q", "response": "poor", "correction": "good", "metadata": {"user_id": "anna"}}
    named = {"chosen": "this", "rejected": "that", "channel": "chat"}
    kinds: list[dict[str, Any]] = [
        {"feedback_type": "comment"},
        {"feedback_type": "preference"},
        {"feedback_type": "preference", "metadata": named},
        {"feedback_type": "preference", "correction": None},
        {"feedback_type": "preference", "response": "", "metadata": None},
        {"feedback_type": "comment", "correction": ""},
    ]
    (tmp_path / "old.jsonl").write_text(lines(*(asked | kind for kind in kinds)))
    rows = read_rows(tmp_path / "old.jsonl", policy="router")
    comment, pair, other = rows.events
    assert (comment["comment"], comment["response"], comment["subject"]) == ("good", "poor", "anna")
    assert (pair["chosen"], pair["rejected"]) == ("good", "poor")
    assert not {"response", "correction"} & pair.keys()
    assert (other["chosen"], other["rejected"], other["tags"]) == ("this", "that", {"channel": "chat"})
    assert [problem.partition(": ")[2] for problem in rows.problems] == [
        "feedback_type 'preference': has neither metadata.chosen nor correction; add one of them",
        "feedback_type 'preference': has neither metadata.rejected nor response; add one of them",
        "comment: Field required",
    ]


def test_csv_has_the_apis_names_and_typed_cells(tmp_path: Path) -> None:
    text = "type,prompt,rating,score,value,name,tags.channel\nrating,q,4,,,,chat\nscore,q,,0.5,,,\nmetric,,,,1e3,m,\n"
    (tmp_path / "rows.csv").write_text("\ufeff" + text, encoding="utf-8")
    rows = read_rows(tmp_path / "rows.csv", policy="router")
    assert rows.problems == []
    plain = [{k: v for k, v in event.items() if k != "idempotencyKey"} for event in rows.events]
    assert plain == [
        {"type": "rating", "policy": "router", "prompt": "q", "rating": 4, "tags": {"channel": "chat"}},
        {"type": "score", "policy": "router", "prompt": "q", "score": 0.5, "tags": {}},
        {"type": "metric", "policy": "router", "name": "m", "value": 1000.0, "tags": {}},
    ]


def test_equal_rows_are_different_events_and_the_same_file_gives_the_same_keys(tmp_path: Path) -> None:
    row = {"type": "thumbs_up", "prompt": "q"}
    (tmp_path / "a.jsonl").write_text(lines(row, row))
    (tmp_path / "b.jsonl").write_text(lines(row, row, row))
    one, two = (
        [event["idempotencyKey"] for event in read_rows(tmp_path / name, policy="p").events]
        for name in ("a.jsonl", "b.jsonl")
    )
    assert len(set(two)) == 3
    assert two[:2] == one


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("a.jsonl", "{\n", "a.jsonl:1: is no JSON"),
        ("a.jsonl", "\n[]\n", "a.jsonl:2: is no JSON object"),
        ("a.jsonl", '{"type":"rating","rating":0}\n', "rating: Input should be greater"),
        ("a.jsonl", '{"type":"score","score":NaN}\n', "finite"),
        ("a.jsonl", '{"type":"thumbs_up","policy":"other"}\n', "policy: is 'other'"),
        ("a.jsonl", '{"query":"q","feedback_type":"love"}\n', "feedback_type: is 'love'"),
        ("a.jsonl", '{"query":"q","feedback_type":"correction","correction":""}\n', "correction: Field required"),
        ("a.csv", "type,rating\nrating,good\n", "invalid literal"),
        ("a.csv", "type,rating\nrating\n", "not as many cells"),
        ("a.csv", "type,rating\nrating,4,5\n", "not as many cells"),
        ("a.csv", "type,stars\nrating,4\n", "stars"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, name: str, text: str, want: str) -> None:
    (tmp_path / name).write_text(text)
    rows = read_rows(tmp_path / name, policy="router")
    assert rows.events == []
    [problem] = rows.problems
    assert want in problem


def test_a_file_in_another_encoding_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"type":"comment","comment":"é"}'.encode("latin-1"))
    with pytest.raises(CliError, match="UTF-8"):
        read_rows(tmp_path / "a.jsonl", policy="router")


@pytest.mark.parametrize(("name", "error"), [("absent.csv", NotFound), ("x.parquet", UsageProblem)])
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, name: str, error: type[CliError]) -> None:
    with pytest.raises(error):
        read_rows(tmp_path / name, policy="router")


def test_importing_twice_stores_once(ratchet: Command, gateway: tuple[str, Path], tmp_path: Path) -> None:
    rows = [{"type": "rating", "rating": n % 5 + 1, "prompt": f"import {n}"} for n in range(1200)]
    (tmp_path / "rows.jsonl").write_text(lines(*rows))
    assert ratchet("import", "router", "rows.jsonl") == (0, "1200 events stored (1200 rating)\n")
    assert ratchet("import", "router", "rows.jsonl") == (0, "0 events stored, 1200 were there before (1200 rating)\n")
    assert sum(str(event.get("prompt", "")).startswith("import ") for event in log(gateway)) == 1200


def test_rows_of_one_person_are_sent_in_batches_that_pass() -> None:
    """A gateway takes 60 of one subject at once; a batch with more would never pass."""
    rows = [{"subject": "anna" if n % 3 else f"other {n}", "prompt": "p"} for n in range(180)]
    batches = list(_batches(iter(rows)))
    assert [len(batch) for batch in batches] == [76, 75, 29]
    assert [row for batch in batches for row in batch] == rows
    assert [sum(row["subject"] == "anna" for row in batch) for batch in batches] == [50, 50, 20]


def test_an_import_of_one_busy_person_says_that_it_takes_a_while(
    ratchet: Command, gateway: tuple[str, Path], tmp_path: Path
) -> None:
    rows = [{"type": "rating", "rating": 3, "prompt": f"busy {n}", "subject": "anna"} for n in range(55)]
    (tmp_path / "rows.jsonl").write_text(lines(*rows))
    code, printed = ratchet("import", "router", "rows.jsonl")
    assert code == 0
    assert "one subject sent 55 of the events, of whom a gateway takes 60 a minute" in printed
    assert sum(str(event.get("prompt", "")).startswith("busy ") for event in log(gateway)) == 55


def test_bad_rows_stop_an_import_unless_they_may_be_left_out(
    ratchet: Command, gateway: tuple[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(
        lines({"type": "rating", "rating": 3, "prompt": "mixed"}, *[{"type": "rating"}] * 12)
    )
    before = len(log(gateway))
    code, printed = ratchet("import", "router", "rows.jsonl")
    assert (code, "12 rows cannot be used, nothing was sent" in printed, "and 2 more" in printed) == (1, True, True)
    assert "rows.jsonl:2: rating: Field required" in printed
    assert len(log(gateway)) == before
    assert "1 events stored, 12 left out" in ratchet("import", "router", "rows.jsonl", "--skip-bad")[1]


def test_stats_show_what_the_log_holds(ratchet: Command) -> None:
    ratchet("add", "bare", "thumbs_up", "--subject", "anna")
    ratchet("add", "bare", "rating", "--rating", "3", "--subject", "anna")
    code, printed = ratchet("stats", "bare")
    assert code == 0
    shown = {tuple(line.strip().split(maxsplit=1)) for line in printed.splitlines()}
    assert {("events", "2"), ("rated", "2"), ("score", "0.750 ± 0.250"), ("subjects", "1")} <= shown


def test_undo_takes_an_event_back_once(ratchet: Command) -> None:
    _, printed = ratchet("add", "router", "thumbs_up")
    event = printed.split()[-1]
    assert "is taken back" in ratchet("undo", "router", event)[1]
    assert "was taken back before" in ratchet("undo", "router", event)[1]
    assert "thumbs_up" not in ratchet("stats", "router")[1]


def test_undo_of_something_that_is_no_id_is_refused_by_its_field(ratchet: Command) -> None:
    code, printed = ratchet("undo", "router", "the-last-one")
    assert code == 1
    assert "supersedes" in printed
