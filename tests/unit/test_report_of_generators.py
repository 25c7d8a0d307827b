"""A generator's report: what RL changed, each answer beside the other, and how all that learned went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ratchet_api.snapshot_summary import SnapshotCounts
from ratchet_api.stage import DatasetRef, EvaluateConfig, Stage, StageRef
from ratchet_api.training_run import EvaluateStage, Evaluation
from ratchet_jobs.data.snapshots import Manifest
from ratchet_jobs.metrics.choosing_answers import SHOWN, Floats, Worth, choose_answers
from ratchet_jobs.report.page import GENERATOR, write_report
from ratchet_jobs.runtime.history import History, write_history
from tests.unit.test_report import Page

PROMPTS = 12
NUMBERS = dict.fromkeys((*SHOWN, "bleu1", "reward", "agreement"), 0.25)


def page_of(
    folder: Path,
    rewards: Floats,
    start: Floats,
    worth: Worth = "reward",
    *,
    champion: dict[str, Any] | None = None,
    numbers: tuple[dict[str, float], dict[str, float]] = (NUMBERS, NUMBERS),
    **evaluation: Any,
) -> str:
    """Write what evaluate leaves behind of two policies, and the report of it."""
    wanted = Evaluation.model_validate(evaluation)
    judged = choose_answers(*numbers, rewards, start, role="supervised", wanted=wanted, seed=0, worth=worth)
    output = folder / "output"
    folders = {name: folder / name for name in ("rl", "supervised", "reward-model")}
    for path in (output, *folders.values()):
        path.mkdir()
    for stage, told in (("rl", {"avg_return": 0.5, "kl": 1.5}), ("supervised", {"loss": 2.0}), ("reward-model", {})):
        history = History()
        history.add(1, told or {"loss": 0.7})
        history.add(2, told or {"loss": 0.4})
        write_history(history, folders[stage] / f"{stage}-history.parquet")
        (folders[stage] / f"{stage}-settings.json").write_text(json.dumps({"stage": stage, "seed": 1}))
    said = [
        {"prompt": f"ask {n}", "reference": f"right {n}", "answer": f"ours {n}", "rl": f"ours {n}", "supervised": ""}
        | ({"champion": f"live {n}"} if champion and "champion" in champion else {})
        for n in range(PROMPTS)
    ]
    metrics = NUMBERS | judged.metrics
    origin = {"candidate": "c" * 64, "snapshot": "d" * 64, "policyType": "generator"}
    (output / "evaluation.json").write_text(json.dumps({"metrics": metrics, "answers": said} | origin))
    (output / "comparison.json").write_text(json.dumps(judged.report | (champion or {})))
    (output / "policy.json").write_text(json.dumps({"baseModel": {"uri": "store://models/tiny", "sha256": "b" * 64}}))
    config = EvaluateConfig(
        policy_type="generator",
        dataset=DatasetRef(digest="d" * 64, prefix="p"),
        candidates=(StageRef(stage=Stage.RL, prefix="p", input_digest="0" * 64),),
        evaluation=wanted,
        hyper=EvaluateStage(),
        seed=0,
    )
    manifest = Manifest(
        type="demonstrations", digest="d" * 64, files={}, labels=(), counts=SnapshotCounts(train=9, test=PROMPTS)
    )
    write_report(output, GENERATOR, folders=folders, config=config, metrics=metrics, manifest=manifest)
    return (output / "report.html").read_text(encoding="utf-8")


def test_the_comparison_has_both_policies_the_interval_and_the_distribution_of_rewards(tmp_path: Path) -> None:
    text = page_of(tmp_path, np.linspace(0.5, 0.9, PROMPTS), np.linspace(0.2, 0.4, PROMPTS))
    seen = Page(text).text
    assert "Kept: rl. reward 0.7000 against 0.3000, difference +0.4000" in seen
    assert "100% of the answers better" in seen
    assert "Distribution of the reward" in seen
    titles = [each.get("aria-label") or "" for each in Page(text).named("svg")]
    assert any("half of the answers of rl are worth 0.7 or less" in title for title in titles)
    assert any("reward +0.4000, interval" in title for title in titles)
    assert "could not be" not in seen


def test_every_number_is_told_with_its_change_from_the_start_in_percent(tmp_path: Path) -> None:
    ours = NUMBERS | {"bleu1": 0.3, "perplexity": 0.2, "reward": 0.75}
    before = NUMBERS | {"bleu1": 0.2, "repetition": 0.0, "reward": 0.5}
    page = page_of(tmp_path, np.full(PROMPTS, 0.75), np.full(PROMPTS, 0.5), numbers=(ours, before))
    table = Page(page).text.split("On the same rows")[1]
    assert "number rl supervised change" in table
    # 0.2 to 0.3 is half more, 0.25 to 0.2 a fifth less; of nothing there is no share
    for want in ("bleu1 0.3000 0.2000 +50.0 %", "perplexity 0.2000 0.2500 -20.0 %", "reward 0.7500 0.5000 +50.0 %"):
        assert want in table
    assert "repetition 0.2500 0.0000 \N{EN DASH}" in table
    assert "distinct2 0.2500 0.2500 +0.0 %" in table


def test_both_answers_to_a_prompt_stand_beside_each_other_with_what_was_gained(tmp_path: Path) -> None:
    text = page_of(tmp_path, np.full(PROMPTS, 0.75), np.full(PROMPTS, 0.5))
    seen = Page(text).text
    assert "prompt supervised rl reward gained reference" in seen
    assert "ask 3 (empty) ours 3 +0.2500 right 3" in seen


def test_the_champion_stands_beside_them_with_its_answers_and_what_the_judge_prefers(tmp_path: Path) -> None:
    live = {"digest": "c" * 64, "metrics": {"perplexity": 0.125}}
    told = {"champion": live, "chosen_against_champion": {"judge_win_rate": 0.625, "changed_with_the_order": 2}}
    seen = Page(page_of(tmp_path, np.full(PROMPTS, 0.75), np.full(PROMPTS, 0.5), champion=told)).text
    assert "number rl supervised champion" in seen
    assert "The judge prefers the answers of rl to the champion's on 62% of the prompts." in seen
    assert "reward gained champion reference" in seen
    assert "ask 3 (empty) ours 3 +0.2500 live 3 right 3" in seen


def test_a_champion_that_is_not_compared_is_told_with_the_reason(tmp_path: Path) -> None:
    told = {"champion_absent": "it is gone"}
    seen = Page(page_of(tmp_path, np.full(PROMPTS, 0.75), np.full(PROMPTS, 0.5), champion=told)).text
    assert "The champion is not compared: it is gone." in seen
    assert "number rl supervised champion" not in seen


def test_what_was_lost_is_said(tmp_path: Path) -> None:
    seen = Page(page_of(tmp_path, np.full(PROMPTS, 0.25), np.full(PROMPTS, 0.5))).text
    assert "Kept: supervised. reward 0.2500 against 0.5000: the difference may be -0.2500, must be >= 0" in seen


def test_where_nothing_was_rewarded_agreement_takes_the_rewards_place(tmp_path: Path) -> None:
    seen = Page(page_of(tmp_path, np.ones(30), np.full(30, 0.5), "agreement")).text
    assert "Kept: rl. agreement 1.0000 against 0.5000" in seen
    assert "Distribution" not in seen
    assert "ask 3 (empty) ours 3 \N{EN DASH} right 3" in seen, "held-out pairs are no answers of these policies"


def test_every_stage_that_learned_shows_its_curves_and_settings(tmp_path: Path) -> None:
    seen = Page(page_of(tmp_path, np.linspace(0, 1, PROMPTS), np.zeros(PROMPTS))).text
    curves = seen.split("Learning curves")[-1]
    for stage, number in (("supervised", "loss"), ("reward-model", "loss"), ("rl", "avg_return")):
        assert f" {stage} {number} " in curves
        assert f" {stage} setting value seed 1 " in seen
