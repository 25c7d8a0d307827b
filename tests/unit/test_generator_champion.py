"""The champion beside a generator that a run keeps: compared on equal prompts alone, and never the end of a stage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from structlog.testing import capture_logs

from ratchet_api.attempts import Artifact
from ratchet_api.stage import DatasetRef, EvaluateConfig, Stage, StageRef
from ratchet_api.training_run import BaseModelRef, EvaluateStage, Evaluation
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.card import GeneratorCard
from ratchet_jobs.judging.pairs import Preferences
from ratchet_jobs.models.card import CARD_FILE
from ratchet_jobs.recipes.generator_champion import Live, measure_champion, told_of, unlike
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.store_directory import DirectoryStore

ROWS = [Demonstration((Turn("user", f"question {n}"),), f"answer {n}") for n in range(4)]
LIVE = Live("c" * 64, {"perplexity": 2.0}, ROWS, ["a", "b"], 32)


def config(champion: Artifact | None) -> EvaluateConfig:
    return EvaluateConfig(
        policy_type="generator",
        dataset=DatasetRef(digest="d" * 64, prefix="p"),
        candidates=(StageRef(stage=Stage.RL, prefix="p", input_digest="0" * 64),),
        champion=champion,
        evaluation=Evaluation(),
        hyper=EvaluateStage(),
        seed=0,
    )


def measured(tmp_path: Path, champion: Artifact | None) -> tuple[Live | None, str]:
    store = DirectoryStore(tmp_path / "store")
    store.write("ml/runs/it/evaluate/1/notes.txt", b"no policy")
    for name, base in (("changed", "b"), ("elsewhere", "a")):
        card = GeneratorCard(template="chat", max_tokens=32, base_model=BaseModelRef(uri="store://m", sha256=base * 64))
        store.write(f"ml/runs/{name}/{CARD_FILE}", card.model_dump_json(by_alias=True).encode())
    ctx = SimpleNamespace(store=store, namespace="ml", folder=lambda name: tmp_path / name, should_stop=lambda: False)
    return measure_champion(
        cast(StageContext, ctx), config(champion), ROWS, base=tmp_path, base_sha256="b" * 64, told=lambda count: None
    )


@pytest.mark.parametrize(
    ("rows", "texts", "same"),
    [
        pytest.param(ROWS, ["x", "y"], True, id="equal prompts"),
        pytest.param(ROWS[:3], ["x", "y"], True, id="a row less that nobody was asked about"),
        pytest.param(ROWS[1:], ["x", "y"], False, id="other prompts"),
        pytest.param(ROWS, ["x"], False, id="fewer answers"),
    ],
)
def test_answers_to_other_prompts_are_not_compared(rows: list[Demonstration], texts: list[str], same: bool) -> None:
    said = unlike(LIVE, rows, texts, max_tokens=24)
    assert (said == "") == same
    assert same or said.startswith("it was trained with maxTokens 32, this run's policy with 24, so that other")


def test_no_champion_is_nothing_to_speak_of(tmp_path: Path) -> None:
    assert measured(tmp_path, None) == (None, "")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("store://runs/gone", "the champion store://runs/gone: name a committed generator's folder"),
        ("store://runs/it/evaluate/1", "the champion store://runs/it/evaluate/1: name a committed generator's folder"),
        ("store://runs/changed", "the champion: the digest is"),
        (
            "store://runs/elsewhere",
            "the champion store://runs/elsewhere: stands on base model aaaaaaaaaaaa… (store://m), this run's policies "
            "on bbbbbbbbbbbb…, and the pod has room for one",
        ),
        ("s3://elsewhere/runs/it", "the champion"),
    ],
)
def test_a_champion_that_cannot_be_read_is_left_out_with_the_reason(tmp_path: Path, uri: str, says: str) -> None:
    """P13: it decides nothing, so it ends nothing."""
    with capture_logs() as logs:
        live, absent = measured(tmp_path, Artifact(uri=uri, digest="e" * 64))
    assert live is None
    assert says in absent
    assert (tmp_path / "champion" / CARD_FILE).exists() == ("changed" in uri), "what cannot be compared is not fetched"
    assert [each["log_level"] for each in logs] == ["warning"]


def test_status_gets_the_share_of_prompts_and_the_comparison_all_of_it() -> None:
    # one win, one tie and one pair without a usable answer: 1.5 of 2
    numbers, report = told_of(LIVE, Preferences(np.array([1.0, 0.5, np.nan]), changed=1))
    assert numbers == {"champion/judge_win_rate": 0.75}
    assert report["champion"] == {"digest": "c" * 64, "metrics": {"perplexity": 2.0}}
    assert report["chosen_against_champion"] == {"judge_win_rate": 0.75, "changed_with_the_order": 1}
