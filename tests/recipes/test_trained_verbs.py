"""`ratchet predict`, `evaluate` and `compare`: what committed versions answer and are worth, by command."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.stage import Commit
from ratchet_cli.main import run_command
from ratchet_jobs import load_policy
from ratchet_jobs.data.erase_artifacts import blot_out
from tests.tiny_bert import reviews, write_tiny_bert
from tests.trained_home import TrainedHome
from tests.workbench import NAMESPACE, Workbench

VALIDATION, TEST = reviews(90, seed=11, noise=0.2), reviews(120, seed=12, noise=0.2)
CARD, LOAN = "my visa card limit credit", "the lender said monthly loan rate payoff"
UNSURE = "the bank called"
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedHome, dict[str, Commit], dict[str, Path]]:
    """A good policy that may abstain, and one that was hardly trained."""
    bench = Workbench(tmp_path_factory.mktemp("trained"), train=reviews(240, seed=0), validation=VALIDATION, test=TEST)
    bench.pod(bench.supervised(epochs=4.0))
    good, folder = bench.pod(bench.evaluate(abstainTargetAccuracy=0.85, eceBins=7))
    bench.pod(bench.supervised(epochs=0.1, learningRate=1e-4), run="poor")
    poor, poor_folder = bench.pod(bench.evaluate(run="poor"))
    home = TrainedHome(bench)
    home.put_run("good", good, stages={"evaluate": {"batchSize": 16}}, evaluation={"eceBins": 7})
    home.put_run("poor", poor, stages={"evaluate": {"batchSize": 16}})
    home.put_policy("router", ("poor", poor), ("good", good))
    home.put_policy("promoted", ("good", good), ("poor", poor), champion=1)
    home.put_policy("empty")
    return home, {"good": good, "poor": poor}, {"good": folder, "poor": poor_folder}


@pytest.fixture
def home(commits: tuple[TrainedHome, dict[str, Commit], dict[str, Path]]) -> TrainedHome:
    return commits[0]


@pytest.fixture
def ratchet(
    home: TrainedHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command line on the trained home; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_HOME", str(home.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the workbench's pods have it
    monkeypatch.setattr("ratchet_cli.screen.out.width", 300)
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)

    def command(*words: str, namespace: str = NAMESPACE) -> tuple[int, str]:
        capfd.readouterr()
        code = run_command([*words, "-n", namespace])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return command


def answers(ratchet: Command, *words: str) -> Any:
    code, printed = ratchet(*words, "-o", "json")
    assert code == 0, printed
    return json.loads(printed)


def write_csv(path: Path, rows: list[tuple[str, ...]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


# --- predict -------------------------------------------------------------------------------------------------------


def test_predict_says_what_the_policy_says_in_a_notebook(ratchet: Command, home: TrainedHome, commits: Any) -> None:
    texts = [CARD, LOAN, UNSURE]
    policy = load_policy(commits[2]["good"], base=home.bench.base)
    assert 0 < policy.abstain(texts).sum() < 3, "both answers occur"
    got = answers(ratchet, "predict", "router@2", *texts)
    assert [each["text"] for each in got] == texts
    assert [each["label"] for each in got] == policy.predict(texts)
    assert [each["abstained"] for each in got] == policy.abstain(texts).tolist()
    want = policy.predict_proba(texts).max(axis=1).tolist()
    assert [each["confidence"] for each in got] == pytest.approx(want, abs=1e-6)


def test_the_table_shows_label_confidence_and_who_abstains(ratchet: Command) -> None:
    code, printed = ratchet("predict", "router@2", CARD, UNSURE)
    header, first, second = printed.splitlines()
    assert (code, header.split()) == (0, ["label", "confidence", "text"])
    assert first.split()[0] == "card"
    assert "abstains" not in first
    assert second.split()[2] == "abstains"
    assert second.rstrip().endswith(UNSURE)


def test_a_verb_that_looks_at_files_says_that_their_config_does_not_act(
    ratchet: Command, home: TrainedHome, commits: Any
) -> None:
    home.put_policy("cautious", ("good", commits[1]["good"]))
    home.put_variant("cautious", 1, {"abstainThreshold": 1.0})
    code, printed = ratchet("predict", "cautious@2", CARD)
    note = "cautious@2 is served with abstainThreshold 1; here its files answer as they were trained"
    assert (code, note in printed, "abstains" in printed) == (0, True, False)
    assert note not in ratchet("predict", "cautious@1", CARD)[1]


SAME_AS: dict[str, tuple[str, str]] = {
    "a policy without champion is its newest version": ("router", "good"),
    "a policy with a champion is its champion": ("promoted", "good"),
    "a version's number may have a v": ("promoted@v2", "poor"),
    "a run's name is its policy": ("poor", "poor"),
    "a kind says which of the two is meant": ("run/good", "good"),
    "a policy may be called one": ("policy/router", "good"),
}


@pytest.mark.parametrize(("word", "want"), SAME_AS.values(), ids=SAME_AS.keys())
def test_a_version_can_be_named(ratchet: Command, commits: Any, word: str, want: str) -> None:
    folder = f"{commits[0].bench.store.uri}/{commits[1][want].directory}".removeprefix("file://")
    assert answers(ratchet, "predict", word, CARD) == answers(ratchet, "predict", folder, CARD)


def test_a_folder_outside_any_store_needs_only_its_base(
    ratchet: Command, commits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RATCHET_HOME")
    monkeypatch.setenv("KUBECONFIG", "absent")
    base = str(commits[0].bench.base)
    assert answers(ratchet, "predict", str(commits[2]["good"]), CARD, "--base", base)[0]["label"] == "card"


def test_texts_come_from_a_file_or_from_standard_input_in_their_order(
    ratchet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = answers(ratchet, "predict", "router", CARD, LOAN)
    file = write_csv(tmp_path / "rows.csv", [("body",), (CARD,), (LOAN,)])
    assert answers(ratchet, "predict", "router", "--data", file, "--column", "body") == want
    lines = f"{CARD}\r\n{LOAN}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    code, printed = ratchet("predict", "router", "-o", "jsonl")
    assert (code, [json.loads(line) for line in printed.splitlines()]) == (0, want)


# --- evaluate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["router@2", "good", "path"])
def test_evaluate_on_the_runs_own_test_split_gives_the_stages_numbers_to_the_last_digit(
    ratchet: Command, commits: Any, word: str
) -> None:
    commit = commits[1]["good"]
    path = f"{commits[0].bench.store.uri}/{commit.directory}"
    # a bare folder does not say how many bins its run asked for, nor in what batches its rows went
    words = (path, "--ece-bins", "7") if word == "path" else (word,)
    got = answers(ratchet, "evaluate", *words)["metrics"]
    want = {name: value for name, value in commit.result.metrics.items() if not name.startswith("ms_")}
    assert want["accuracy"] > 0.5
    tolerance = 1e-6 if word == "path" else 0.0
    assert {name: got[name] for name in want} == pytest.approx(want, rel=0, abs=tolerance)
    assert set(got) == set(commit.result.metrics)
    assert got["ms_per_sample_1"] > 0


def test_evaluate_of_a_file_with_the_same_rows_gives_the_same_numbers(
    ratchet: Command, tmp_path: Path, commits: Any
) -> None:
    marked = [(*row, "test") for row in TEST] + [(*row, "train") for row in reviews(40, seed=3)]
    file = write_csv(tmp_path / "rows.csv", [("text", "team", "split"), *marked])
    report = answers(ratchet, "evaluate", "router", "--data", file, "--label-column", "team", "--split", "test")
    want = {name: value for name, value in commits[1]["good"].result.metrics.items() if not name.startswith("ms_")}
    assert {name: report["metrics"][name] for name in want} == pytest.approx(want, rel=0, abs=1e-6)
    whole = answers(ratchet, "evaluate", "router", "--data", file, "--label-column", "team")
    assert (report["metrics"]["n_test"], whole["metrics"]["n_test"]) == (120, 160)


def test_the_worst_classes_come_first_and_absent_ones_are_not_shown(ratchet: Command, tmp_path: Path) -> None:
    rows = [(text, label) for text, label in TEST if label != "loan"]
    file = write_csv(tmp_path / "rows.csv", [("text", "label"), *rows])
    f1 = [each["f1"] for each in answers(ratchet, "evaluate", "router", "--data", file)["per_class"]]
    assert f1 == sorted(f1)
    assert len(f1) == 3
    code, printed = ratchet("evaluate", "router", "--data", file)
    shown = printed.partition("weakest classes")[2]
    assert code == 0
    assert "card" in shown
    assert "mortgage" in shown
    assert "loan" not in shown
    assert f"macro_f1 {'':3}" in printed


# --- compare -------------------------------------------------------------------------------------------------------


def test_compare_says_which_is_better_with_intervals_and_mcnemar(ratchet: Command, commits: Any) -> None:
    poor, good = (commits[1][name].result.metrics for name in ("poor", "good"))
    report = answers(ratchet, "compare", "router@1", "router@2")
    row = report["differences"]["accuracy"]
    assert (row["a"], row["b"]) == (poor["accuracy"], good["accuracy"])
    assert row["difference"] == pytest.approx(good["accuracy"] - poor["accuracy"], abs=1e-12)
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert (report["verdict"], report["n"]) == ("better", 120)
    assert report["sentence"].startswith("router@2 is better than router@1: accuracy ")
    test = report["mcnemar"]
    assert test["only_candidate"] - test["only_baseline"] == pytest.approx(120 * row["difference"])
    assert test["p_mid"] < 0.01
    changes = [abs(each["f1"]["difference"]) for each in report["per_class"]]
    assert changes == sorted(changes, reverse=True)
    assert sum(each["rows"] for each in report["per_class"]) == 120


def test_the_other_way_round_it_is_worse_unless_the_loss_is_tolerated(ratchet: Command) -> None:
    assert answers(ratchet, "compare", "good", "poor")["verdict"] == "worse"
    tolerant = answers(ratchet, "compare", "good", "poor", "--margin", "1")
    assert tolerant["verdict"] == "not worse"
    assert "poor is not worse than good, a loss of 1 being tolerated" in tolerant["sentence"]


def test_a_version_compared_with_itself_is_not_worse(ratchet: Command) -> None:
    report = answers(ratchet, "compare", "good", "router@2")
    assert report["verdict"] == "not worse"
    assert {row["difference"] for row in report["differences"].values()} == {0.0}


def test_few_rows_leave_it_undecided(ratchet: Command, tmp_path: Path) -> None:
    # A row that one has right and a row that only the other has: nobody can tell from these two.
    said = {name: answers(ratchet, "predict", name, *(text for text, _ in TEST)) for name in ("poor", "good")}
    pairs = zip(*said.values(), strict=True)
    parted = [(a["text"], a["label"], b["label"]) for a, b in pairs if a["label"] != b["label"]]
    (first, label, _), (second, _, other) = parted[0], parted[1]
    file = write_csv(tmp_path / "rows.csv", [("text", "label"), (first, label), (second, other)])
    report = answers(ratchet, "compare", "poor", "good", "--data", file)
    assert (report["verdict"], report["n"]) == ("undecided", 2)
    assert (report["mcnemar"]["only_baseline"], report["mcnemar"]["only_candidate"]) == (1, 1)


def test_the_tables_show_both_sides_and_the_sentence_comes_last(ratchet: Command) -> None:
    code, printed = ratchet("compare", "router@1", "router@2")
    assert code == 0
    for word in ("router@1", "router@2", "difference", "95.0% interval", "ece", "right alone", "most changed, F1"):
        assert word in printed
    assert printed.splitlines()[-1].startswith("router@2 is better than router@1")


def test_versions_of_other_classes_or_snapshots_are_told_apart(ratchet: Command, home: TrainedHome) -> None:
    bench = home.bench
    pairs = [(text, label) for text, label in reviews(60, seed=4) if label != "card"]
    config = bench.evaluate(run="pair").model_copy(
        update={"dataset": bench.put_snapshot(train=pairs, validation=pairs, test=pairs, labels=())}
    )
    bench.pod(bench.supervised(epochs=0.2).model_copy(update={"dataset": config.dataset}), run="pair")
    commit, _ = bench.pod(config)
    home.put_run("pair", commit, snapshot=config.dataset.digest)
    code, printed = ratchet("compare", "pair", "good")
    assert (code, "pair was trained on another snapshot than good" in printed) == (1, True)
    assert "labels are no classes of pair: 'card'; it knows 2: 'loan', 'mortgage'" in printed
    code, printed = ratchet("compare", "good", "pair")
    assert code == 1
    assert "good: its 3 classes are not the 2 wanted, which differ in 'card'" in printed


def test_compare_draws_what_it_prints(ratchet: Command, tmp_path: Path) -> None:
    for name in ("drawn.png", "drawn.svg", "drawn.html"):
        code, printed = ratchet("compare", "router@1", "router@2", "--plot", name)
        assert (code, f"drawn into {name}" in printed) == (0, True), printed
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    row = next(line for line in printed.splitlines() if line.strip().startswith("macro_f1"))
    for file in ("drawn.svg", "drawn.html"):
        text = (tmp_path / file).read_text()
        assert ">macro_f1</text>" in text
        assert ">loan</text>" in text
    assert row.split()[3] in (tmp_path / "drawn.html").read_text(), "the very difference that was printed"
    assert "report of router@2" in printed


# --- report ---------------------------------------------------------------------------------------------------------


def test_report_finds_the_page_of_a_run_a_version_and_a_folder(
    ratchet: Command, commits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda uri: opened.append(uri) or True)
    folder = str(commits[2]["good"])
    pages = [ratchet("report", word)[1].strip() for word in ("good", "router@2", folder)]
    assert len({Path(page).read_bytes() for page in pages}) == 1
    code, printed = ratchet("report", "router@2", "-o", "copy.html", "--open")
    assert (code, printed.strip()) == (0, "copy.html")
    assert (tmp_path / "copy.html").read_bytes() == Path(pages[0]).read_bytes()
    assert opened == [(tmp_path / "copy.html").as_uri()]
    assert "Evaluation of a classifier of 3 classes" in (tmp_path / "copy.html").read_text()


def test_a_page_that_was_changed_in_the_store_is_not_shown(ratchet: Command, commits: Any) -> None:
    page = Path(ratchet("report", "poor")[1].strip())
    before = page.read_bytes()
    try:
        page.write_bytes(before + b" ")
        code, printed = ratchet("report", "poor")
        assert (code, "was changed after it was committed" in printed) == (1, True)
        page.unlink()
        code, printed = ratchet("report", "poor")
        assert (code, "poor: no report.html in file://" in printed) == (4, True)
    finally:
        page.write_bytes(before)


def test_a_page_that_an_erasure_replaced_says_so_and_is_shown(ratchet: Command, home: TrainedHome) -> None:
    """P30: the mark beside it tells it from one that somebody else changed."""
    page = Path(ratchet("report", "poor")[1].strip())
    before, store = page.read_bytes(), home.bench.store
    key = page.relative_to(store.uri.removeprefix("file://")).as_posix()
    try:
        blot_out(store, key, (), "0" * 32)
        code, printed = ratchet("report", "poor")
        assert (code, printed.strip()) == (0, str(page))
        assert "This page quoted a person who was erased" in page.read_text()
    finally:
        page.write_bytes(before)
        (page.parent / "ERASED.json").unlink()


# --- a cluster's versions ------------------------------------------------------------------------------------------


class ClusterOfFiles:
    """Stands in for a cluster's API: the home's objects, and a namespace's ConfigMap that names the store."""

    def __init__(self, home: TrainedHome) -> None:
        self._home = home
        self.namespace, self.where = NAMESPACE, "a cluster"

    def get(self, kind: Any, name: str) -> Any:
        path = self._home.path / "objects" / kind.plural / NAMESPACE / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def read(self, plural: str, name: str) -> Any:
        assert (plural, name) == ("configmaps", "ratchet-store")
        return {"data": {"uri": self._home.bench.store.uri}}


def test_a_version_of_a_cluster_comes_out_of_the_store_that_its_namespace_names(
    ratchet: Command, home: TrainedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = answers(ratchet, "predict", "router@2", CARD)
    monkeypatch.setattr("ratchet_cli.remote.RemoteBackend", lambda **_: ClusterOfFiles(home))
    assert answers(ratchet, "predict", "router@2", CARD, "--cluster") == want


# --- bad input -----------------------------------------------------------------------------------------------------

FILES = {
    "rows.csv": b"text,label\nmy card,card\n",
    "empty.csv": b"",
    "header.csv": b"text,label\n",
    "empty.jsonl": b"\n",
    "broken.csv": b"text,label\nmy card,card\ncaf\xe9,card\n",
    "other.csv": b"text,label\nmy card,card\nmy house,roofs\n",
    "unlabelled.csv": b"text,label\nmy card,card\nmy loan,\n",
    "torn.jsonl": b'{"text": "a", "label": "card"}\n{"text": \n{"text": 7, "label": "card"}\n',
    "half.jsonl": b'{"text": "a\\ud800"}\n',
    "notes.txt": b"my card\n",
}
BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "unknown version": (("predict", "router@9", "x"), 4, "RLPolicy 'router' has no version 9; it has 1, 2"),
    "unknown policy": (("predict", "nope@1", "x"), 4, "RLPolicy 'nope' is not in namespace 'team'"),
    "unknown name": (("predict", "nope", "x"), 4, "no RLPolicy or RLTrainingRun 'nope'"),
    "unknown run": (("evaluate", "run/nope"), 4, "no RLTrainingRun 'nope'"),
    "policy without version": (("predict", "empty", "x"), 4, "RLPolicy 'empty' has no version yet; publish a run"),
    "version of no number": (("predict", "router@two", "x"), 2, "must be POLICY@N with a number from 1 on"),
    "version nought": (("predict", "router@0", "x"), 2, "must be POLICY@N with a number from 1 on"),
    "run that has not ended": (("predict", "young", "x"), 4, "RLTrainingRun 'young' has no policy: it is Running"),
    "no version": (("predict", "", "x"), 2, "VERSION is empty"),
    "absent folder": (("predict", "./nope", "x"), 4, "nope is no folder"),
    "file for a folder": (("evaluate", "rows.csv", "--data", "rows.csv"), 4, "rows.csv is no folder"),
    "folder that is no policy": (("predict", ".", "x"), 1, "policy.json cannot be read"),
    "base that is no folder": (("predict", "router", "x", "--base", "nope"), 1, "--base nope is no folder"),
    "another base": (("predict", "router", "x", "--base", "base"), 1, "router@2 was trained on"),
    "texts and a file": (("predict", "router", "x", "--data", "rows.csv"), 2, "choose one"),
    "text of broken UTF-8": (("predict", "router", "caf\udce9"), 1, "text 1: is no UTF-8"),
    "no such file": (("predict", "router", "--data", "nope.csv"), 4, "--data nope.csv is no file"),
    "no such format": (("predict", "router", "--data", "rows.csv", "--format", "xml"), 2, "'xml' is unknown"),
    "format that cannot be told": (
        ("predict", "router", "--data", "notes.txt"), 1,
        "set format to csv, jsonl or parquet",
    ),
    "no such output": (("predict", "router", "x", "-o", "yaml"), 2, "use one of table, json, jsonl"),
    "no such column": (
        ("predict", "router", "--data", "rows.csv", "--column", "body"), 1,
        "no column 'body'; it has: label, text. Name the right one with --column",
    ),
    "no such label column": (
        ("evaluate", "router", "--data", "rows.csv", "--label-column", "team"), 1,
        "no column 'team'; it has: label, text. Name the right one with --label-column",
    ),
    "no split column": (
        ("evaluate", "router", "--data", "rows.csv", "--split", "test"), 1,
        "no column 'split'; it has: label, text. Name the right one with --split-column",
    ),
    "split without rows": (
        ("evaluate", "router", "--data", "rows.csv", "--split", "test", "--split-column", "label"), 1,
        "has no row whose 'label' is 'test'",
    ),
    "no such split": (("evaluate", "router", "--split", "dev"), 2, "use one of train, validation, test"),
    "empty file": (("predict", "router", "--data", "empty.csv"), 1, "the first line must name the columns"),
    "only a header": (("evaluate", "router", "--data", "header.csv"), 1, "header.csv: has no row"),
    "empty JSON lines": (("evaluate", "router", "--data", "empty.jsonl"), 1, "empty.jsonl: has no row"),
    "broken UTF-8": (("predict", "router", "--data", "broken.csv"), 1, "row 2: it is no UTF-8"),
    "half a character": (
        ("predict", "router", "--data", "half.jsonl"), 1,
        "row 1: its text holds a NUL character or half",
    ),
    "rows that cannot be read": (("evaluate", "router", "--data", "torn.jsonl"), 1, "2 of 3 rows cannot be used"),
    "row without label": (("evaluate", "router", "--data", "unlabelled.csv"), 1, "row 2: it has no label"),
    "another label set": (
        ("evaluate", "router", "--data", "other.csv"), 1,
        "other.csv: 1 of its labels are no classes of router@2: 'roofs'; it knows 3: 'card', 'loan', 'mortgage'",
    ),
    "margin beyond all": (("compare", "good", "poor", "--margin", "2"), 2, "Invalid value for '--margin'"),
    "compare with an unknown one": (("compare", "good", "router@7"), 4, "has no version 7; it has 1, 2"),
    "compare into no form": (("compare", "good", "poor", "-o", "jsonl"), 2, "use one of table, json"),
    "plot of an unknown kind": (("compare", "good", "poor", "--plot", "a.pdf"), 2, "must end in one of .png, .svg"),
    "plot into no folder": (("compare", "good", "poor", "--plot", "no/a.png"), 2, "there is no folder no; make it"),
    "report of nobody": (("report", "nobody"), 4, "no RLPolicy or RLTrainingRun 'nobody'"),
    "report of a bare folder": (("report", "./bare"), 4, "bare: no report.html in"),
    "report into no page": (("report", "good", "-o", "a.pdf"), 2, "name a file that ends in .html"),
    "report into no folder": (("report", "good", "-o", "no/a.html"), 1, "No such file or directory"),
    "folder of an unknown snapshot": (
        ("evaluate", "bare", "--base", "model"), 1,
        "does not say which snapshot it was trained on; name labelled rows by --data FILE",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "want_code", "want"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_explained(
    ratchet: Command, home: TrainedHome, tmp_path: Path, words: tuple[str, ...], want_code: int, want: str
) -> None:
    """P39, for what is trained."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "bare").mkdir()
    write_tiny_bert(tmp_path / "base", seed=5)
    metadata = {"name": "young", "namespace": NAMESPACE, "uid": "uid-young"}
    young = {"metadata": metadata, "kind": "RLTrainingRun", "status": {"state": "Running"}}
    home.put("rltrainingruns", "young", young)
    code, printed = ratchet(*words)
    assert want in printed
    assert code == want_code
    assert "Traceback" not in printed


def test_standard_input_without_a_line_is_explained(ratchet: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, printed = ratchet("predict", "router")
    assert (code, "standard input: has no line" in printed) == (1, True)


def test_lines_of_broken_bytes_are_named(ratchet: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"my card\ncaf\xe9\n")))
    code, printed = ratchet("predict", "router", "-")
    assert (code, "text 2: is no UTF-8" in printed) == (1, True)


def test_a_policy_whose_files_were_changed_is_refused(ratchet: Command, commits: Any) -> None:
    home, commit = commits[0], commits[1]["poor"]
    card = home.bench.root / "store" / commit.directory / "policy.json"
    before = card.read_bytes()
    try:
        card.write_bytes(before + b" ")
        code, printed = ratchet("predict", "poor", "x")
    finally:
        card.write_bytes(before)
    assert (code, "poor: artifact: the digest is" in printed) == (1, True)


def test_the_home_of_another_namespace_knows_nothing_of_it(ratchet: Command) -> None:
    code, printed = ratchet("predict", "router", "x", namespace="other")
    assert (code, "in namespace 'other'" in printed) == (4, True)
    assert os.environ["RATCHET_HOME"] in printed
