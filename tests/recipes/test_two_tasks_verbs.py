"""`ratchet predict`, `evaluate` and `compare` on a version that answers two tasks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.stage import Commit
from ratchet_cli.main import run_command
from ratchet_jobs import load_policy
from tests.trained_home import TrainedHome
from tests.two_tasks import rows_of, two_task_bench
from tests.workbench import NAMESPACE

Command = Callable[..., tuple[int, str]]
Home = tuple[TrainedHome, Commit, Path]
TEXTS = ["my visa card limit never", "the lender said monthly loan rate"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    bench = two_task_bench(tmp_path_factory.mktemp("verbs"))
    bench.pod(bench.supervised(epochs=2.0))
    good, folder = bench.pod(bench.evaluate(abstainTargetAccuracy=0.85))
    bench.pod(bench.supervised(epochs=0.1), run="poor")
    poor, _ = bench.pod(bench.evaluate(run="poor"))
    made = TrainedHome(bench)
    made.put_run("good", good, stages={"evaluate": {"batchSize": 16}})
    made.put_run("poor", poor, stages={"evaluate": {"batchSize": 16}})
    made.put_policy("router", ("poor", poor), ("good", good))
    return made, good, folder


@pytest.fixture
def ratchet(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_HOME", str(home[0].path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("ratchet_cli.screen.out.width", 300)
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)

    def command(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        code = run_command([*words, "-n", NAMESPACE])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return command


def answers(ratchet: Command, *words: str) -> Any:
    code, printed = ratchet(*words, "-o", "json")
    assert code == 0, printed
    return json.loads(printed)


def file_of(path: Path, rows: list[tuple[str, dict[str, str]]], *columns: str) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("text", *columns), *((text, said.get("theme", ""), said.get("tone", "")) for text, said in rows)]
        )
    return str(path)


def test_predict_answers_every_task_of_every_text(ratchet: Command, home: Home) -> None:
    policy = load_policy(home[2], base=home[0].bench.base)
    want = policy.predict_tasks(TEXTS)
    got = answers(ratchet, "predict", "router", *TEXTS)
    assert [each["text"] for each in got] == TEXTS
    for task in ("theme", "tone"):
        assert [each["tasks"][task]["label"] for each in got] == want[task].labels
        assert [each["tasks"][task]["abstained"] for each in got] == want[task].abstained.tolist()
        confidences = [each["tasks"][task]["confidence"] for each in got]
        assert confidences == pytest.approx(want[task].probs.max(axis=1).tolist(), abs=1e-6)
    code, printed = ratchet("predict", "router", *TEXTS)
    header, *lines = printed.splitlines()
    assert (code, header.split()) == (0, ["task", "label", "confidence", "text"])
    assert [line.split()[0] for line in lines] == ["theme", "theme", "tone", "tone"]


def test_evaluate_on_the_runs_own_test_split_gives_the_stages_numbers(ratchet: Command, home: Home) -> None:
    want = {name: value for name, value in home[1].result.metrics.items() if not name.startswith("ms_")}
    report = answers(ratchet, "evaluate", "router")
    assert {name: report["metrics"][name] for name in want} == pytest.approx(want, rel=0, abs=0)
    assert report["tasks"]["tone"]["metrics"]["accuracy"] == want["accuracy/tone"]
    code, printed = ratchet("evaluate", "router")
    assert code == 0
    shown = [line.split()[0] for line in printed.splitlines() if line.startswith("  t")]
    assert [word for word in shown if "/" not in word] == ["task", "theme", "tone"]


def test_evaluate_of_a_file_reads_a_column_per_task(ratchet: Command, home: Home, tmp_path: Path) -> None:
    file = file_of(tmp_path / "rows.csv", rows_of(180, seed=12, noise=0.2), "about", "mood")
    # named the other way round: the order on the command line is no matter
    columns = ("--label-column", "tone=mood", "--label-column", "theme=about")
    got = answers(ratchet, "evaluate", "router", "--data", file, *columns)["metrics"]
    want = {name: value for name, value in home[1].result.metrics.items() if not name.startswith("ms_")}
    assert {name: got[name] for name in want} == pytest.approx(want, rel=0, abs=1e-6)


def test_compare_holds_two_versions_against_each_other_over_all_tasks(ratchet: Command, home: Home) -> None:
    report = answers(ratchet, "compare", "router@1", "router@2")
    assert report["verdict"] == "better"
    assert report["differences"]["accuracy"]["b"] == pytest.approx(home[1].result.metrics["accuracy"])
    labels = {row["label"] for row in report["per_class"]}
    assert labels == {"theme/card", "theme/loan", "theme/mortgage", "tone/calm", "tone/upset"}


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no column per task": ((), "has the tasks 'theme', 'tone', the rows of"),
    "one task of two": (("--label-column", "theme=about"), "have the tasks 'theme'; name the column of each"),
    "a task twice": (("--label-column", "a=b", "--label-column", "a=c"), "names the task 'a' twice"),
    "a column among tasks": (("--label-column", "a=b", "--label-column", "c"), "'c' is one of several"),
    "no such columns": (
        ("--label-column", "theme=x", "--label-column", "tone=y"),
        "no column 'x'; it has: about, label",
    ),
}


@pytest.mark.parametrize(("columns", "words"), BAD.values(), ids=BAD.keys())
def test_columns_that_do_not_fit_the_tasks_are_refused(
    ratchet: Command, tmp_path: Path, columns: tuple[str, ...], words: str
) -> None:
    file = file_of(tmp_path / "rows.csv", rows_of(10, seed=0, whole=True), "about", "label")
    code, printed = ratchet("evaluate", "router", "--data", file, *columns)
    assert code != 0
    assert words in " ".join(printed.split())


def test_a_class_that_the_version_does_not_know_is_named_with_its_task(ratchet: Command, tmp_path: Path) -> None:
    file = file_of(tmp_path / "rows.csv", [("hello", {"theme": "card", "tone": "odd"})], "about", "mood")
    columns = ("--label-column", "theme=about", "--label-column", "tone=mood")
    code, printed = ratchet("evaluate", "router", "--data", file, *columns)
    assert code != 0
    assert "'tone/odd'" in printed
