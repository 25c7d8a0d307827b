"""`ratchet chat`: what a committed generator answers, by command; and how other verbs refuse one."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet_cli.main import run_command
from tests.generator_bench import GeneratorBench
from tests.tiny_llama import dialogues
from tests.trained_home import TrainedHome

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedHome, Path, Path]:
    """A home with a version of a generator; the folders of its stages."""
    bench = GeneratorBench(tmp_path_factory.mktemp("chat"), train=dialogues(48, seed=0), test=dialogues(12, seed=5))
    _, learned = bench.pod(bench.supervised(epochs=2.0))
    commit, folder = bench.pod(bench.evaluate())
    home = TrainedHome(bench)
    home.put_run("helper-1", commit, policyType="generator")
    home.put_policy("helper", ("helper-1", commit))
    return home, learned, folder


@pytest.fixture
def ratchet(
    made: tuple[TrainedHome, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Runs a command line on the home; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_HOME", str(made[0].path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)

    def run(*arguments: str, typed: str | None = None) -> tuple[int, str]:
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = run_command([*arguments, "-n", "team"])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


def first(made: tuple[TrainedHome, Path, Path]) -> dict[str, str]:
    found: dict[str, str] = json.loads((made[2] / "evaluation.json").read_text())["answers"][0]
    return found


def test_a_prompt_is_answered_as_the_evaluation_noted(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    told = first(made)
    asked = ("--max-new-tokens", "10", "--prompt")
    assert ratchet("chat", "helper@1", *asked, told["prompt"]) == (0, told["answer"] + "\n")
    assert ratchet("chat", "helper", *asked, "-", typed=told["prompt"]) == (0, told["answer"] + "\n")
    assert ratchet("chat", str(made[2]), *asked, told["prompt"]) == (0, told["answer"] + "\n")


def test_a_conversation_goes_on_until_nothing_is_said(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    told = first(made)
    code, printed = ratchet("chat", "helper", "--max-new-tokens", "10", typed=f"{told['prompt']}\nthe card\n\nmore\n")
    assert code == 0
    assert printed.splitlines()[0] == told["answer"]
    assert len(printed.splitlines()) == 2


def test_drawn_answers_follow_the_seed(ratchet: Command) -> None:
    def drawn(seed: int) -> str:
        asked = ("--prompt", "the card", "--temperature", "3", "--max-new-tokens", "12", "--seed", str(seed))
        return ratchet("chat", "helper", *asked)[1]

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("chat", "helper", "-p", " "), 2, "--prompt is empty"),
        (("chat", "helper", "--system", "", "-p", "hi"), 2, "--system is empty"),
        (("chat", "helper", "-p", "hi", "--temperature", "-1"), 2, "--temperature"),
        (("chat", "helper@9", "-p", "hi"), 4, "has no version 9; it has 1"),
        (("chat", "helper", "-p", "the " * 80), 1, "has 82 tokens and the model's context 64, so no answer fits"),
        (("predict", "helper", "hi"), 1, "policyType 'generator', a classifier is needed"),
        (("evaluate", "helper"), 1, "helper@1: is a generator, and this measures classifiers; `ratchet report` shows"),
        (("compare", "helper", "helper-1"), 1, "is a generator, and this measures classifiers"),
        (("export", "helper", "--format", "merged", "-o", "out"), 1, "a classifier is needed"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], code: int, says: str, ratchet: Command) -> None:
    """P39."""
    got, printed = ratchet(*arguments)
    assert (got, says in printed) == (code, True), printed
    assert "defect" not in printed


def test_standard_input_without_words_is_refused(ratchet: Command) -> None:
    assert ratchet("chat", "helper", "-p", "-", typed=" \n")[0] == 2


def test_a_policy_that_was_not_evaluated_yet_is_refused(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    code, printed = ratchet("chat", str(made[1]), "-p", "hi")
    assert code == 1
    assert "no folder policy/ with the merged model, which evaluate writes" in printed
