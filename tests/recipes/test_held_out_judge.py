"""Held-out labels become a judge that the reward is held against: gaming it stops training, pleasing does not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ratchet_jobs import RLHFTrainer, TrainingConfig
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.held_out_judge import JUDGE_FILE, LEAST_PROMPTS, HeldOutJudge, fit_ridge, make_judge
from ratchet_jobs.rlhf.ppo import LanguagePPO
from ratchet_jobs.rlhf.reward_model import Preferred, Rated, Row
from ratchet_jobs.rlhf.rewards import AnswerRewards
from ratchet_jobs.rlhf.saving import latest_checkpoint
from ratchet_jobs.rlhf.trunk import load_trunk
from ratchet_jobs.runtime.errors import BadModelError, DivergedError
from ratchet_jobs.runtime.history import read_history
from tests.generator_bench import GeneratorBench
from tests.quick_ppo import PROMPTS, QUICK
from tests.tiny_llama import WORDS, dialogues, write_tiny_llama

FIRST = 7
"""Token of the first word; special tokens, of which nobody said anything, stand before."""
SPOKEN = WORDS[FIRST:]
GOOD, BAD = ([word for word in SPOKEN if WORDS.index(word) % 2 == odd] for odd in (0, 1))
"""People like the words with an even number."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "llama")


def share_of_liked(episodes: Episodes) -> Tensor:
    hits = (episodes.response_ids % 2 == 0) & (episodes.response_ids >= FIRST) & episodes.response_mask
    return hits.sum(1) / episodes.lengths


def ratings(count: int = 200, *, seed: int = 0) -> list[Row]:
    """Answers of six words, rated by how many of them people like."""
    rng = random.Random(seed)
    made: list[Row] = []
    for _ in range(count):
        good = rng.randrange(7)
        words = [*rng.choices(GOOD, k=good), *rng.choices(BAD, k=6 - good)]
        rng.shuffle(words)
        made.append(Rated(" ".join(rng.choices(SPOKEN, k=4)), " ".join(words), good / 6))
    return made


def test_a_row_is_foretold_by_the_fit_without_its_group() -> None:
    rng = np.random.default_rng(0)
    inputs, targets, groups = rng.normal(size=(9, 3)), rng.normal(size=9), np.array([0, 0, 1, 1, 1, 2, 3, 3, 4])
    fit = fit_ridge(inputs, targets, groups)
    assert fit is not None

    def without(group: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        rows = groups != group
        kept = inputs[rows]
        return np.linalg.solve(kept.T @ kept + penalty * np.eye(3), kept.T @ targets[rows]), ~rows

    # the penalty is the one with the least error over left-out groups, each fitted anew
    tried = {}
    for penalty in (0.01, 0.1, 1.0, 10.0, 100.0):
        told = np.empty(9)
        for group in range(5):
            weight, rows = without(group, penalty)
            told[rows] = inputs[rows] @ weight
        tried[float(np.square(targets - told).mean())] = told
    assert fit.foretold == pytest.approx(tried[min(tried)], abs=1e-9)


def test_labels_that_can_be_foretold_make_a_judge_and_noise_makes_none(base: Path, tmp_path: Path) -> None:
    trunk = load_trunk(base, rank=4)
    judge = make_judge(trunk, ratings())
    assert judge is not None
    assert judge.agreement > 0.6
    judge.save(tmp_path)
    again = HeldOutJudge.load(tmp_path, trunk)
    assert again is not None
    assert (again.offset, again.agreement) == (judge.offset, judge.agreement)
    assert torch.equal(again.weight, judge.weight)
    rng = random.Random(1)
    noise: list[Row] = [row._replace(score=rng.random()) for row in ratings() if isinstance(row, Rated)]
    assert make_judge(trunk, noise) is None
    assert make_judge(trunk, ratings(LEAST_PROMPTS - 1)) is None
    assert make_judge(trunk, []) is None
    assert HeldOutJudge.load(tmp_path / "none", trunk) is None


def test_pairs_make_a_judge_too(base: Path) -> None:
    rng = random.Random(0)
    rows: list[Row] = [
        Preferred(" ".join(rng.choices(SPOKEN, k=4)), " ".join(rng.choices(GOOD, k=4)), " ".join(rng.choices(BAD, k=4)))
        for _ in range(60)
    ]
    judge = make_judge(load_trunk(base, rank=4), rows)
    assert judge is not None
    assert judge.agreement > 0.7


def test_a_judge_of_another_base_or_a_broken_file_is_refused(base: Path, tmp_path: Path) -> None:
    """P39."""
    trunk = load_trunk(base, rank=4)
    tensors = {"weight": torch.zeros(32), "center": torch.zeros(32), "numbers": torch.zeros(2, dtype=torch.float64)}
    save_file(tensors, tmp_path / JUDGE_FILE, metadata={"base": "0" * 64})
    with pytest.raises(BadModelError, match=r"of base 000000000000 and 32 features, .*; use the base model"):
        HeldOutJudge.load(tmp_path, trunk)
    save_file(tensors, tmp_path / JUDGE_FILE)
    with pytest.raises(BadModelError, match=r"held_out_judge.safetensors: cannot be read: 'base'; take a folder"):
        HeldOutJudge.load(tmp_path, trunk)
    (tmp_path / JUDGE_FILE).write_bytes(b"\x00" * 20)
    with pytest.raises(BadModelError, match=r"held_out_judge.safetensors: cannot be read: "):
        HeldOutJudge.load(tmp_path, trunk)


def train(base: Path, *, pays: float) -> list[dict[str, float]]:
    trunk = load_trunk(base, rank=4, seed=0)
    judge = make_judge(trunk, ratings())
    assert judge is not None

    def score(episodes: Episodes) -> Tensor:
        return pays * share_of_liked(episodes)

    ppo = LanguagePPO(QUICK, trunk=trunk, prompts=PROMPTS, score=score, steps=40, seed=0, judge=judge)
    return [ppo.step() for _ in range(24)]


def test_a_reward_that_pays_for_what_people_dislike_is_stopped(base: Path) -> None:
    """P13."""
    with pytest.raises(DivergedError, match=r"reward hacking: the score rose from .* while the independent judge's"):
        train(base, pays=-1.0)


def test_a_reward_that_pays_for_what_people_like_is_not(base: Path) -> None:
    told = [step["judge_mean"] for step in train(base, pays=1.0)]
    assert sum(told[-8:]) > sum(told[:8])


def test_the_judge_is_held_against_the_reward_models_part_alone(base: Path) -> None:
    # the score rises and the judge falls, but the reward model's part does not rise: other components are paid for
    trunk = load_trunk(base, rank=4, seed=0)
    falling = iter(range(100, 0, -1))
    ppo = LanguagePPO(
        QUICK,
        trunk=trunk,
        prompts=PROMPTS,
        score=share_of_liked,
        steps=40,
        seed=0,
        judge=lambda episodes: torch.full((len(episodes),), float(next(falling))),
        claimed=lambda: 0.5,
    )
    for _ in range(18):
        ppo.step()


def test_the_stages_make_the_judge_and_hold_it_against_the_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P13."""
    bench = GeneratorBench(tmp_path, train=dialogues(32, seed=0), test=dialogues(4, seed=5))
    bench.pod(bench.supervised(epochs=1.0))
    rows = [(prompt, "never", f"never never {answer}") for prompt, answer in dialogues(60, seed=1)]
    config = bench.reward_model(bench.put_preferences(rows), heldOutPercent=50.0)
    made, folder = bench.pod(config, run="liked")
    assert (folder / JUDGE_FILE).is_file()
    assert made.result.metrics["judge_agreement"] > 0.9, "one word against several is easily told"
    done, told = bench.pod(bench.rlhf(judge="liked", interactions=16), run="honest")
    assert done.result.metrics["judged"] == read_history(told / "rl-history.parquet")["judged"][-1]
    rises, falls = itertools.count(), itertools.count(0, -1)
    parts = {"rewardModel": rises}
    monkeypatch.setattr(AnswerRewards, "latest_of", lambda _, kind: float(next(parts[kind])))
    monkeypatch.setattr(HeldOutJudge, "__call__", lambda _, episodes: torch.full((len(episodes),), float(next(falls))))
    quiet = {"interactions": 8 * 18, "learningRate": 1e-4}
    with pytest.raises(
        DivergedError, match=r"stages.rlhf: step 16: reward hacking: the score rose from 3.5 to 11.5 .* or raise initKl"
    ):
        bench.pod(bench.rlhf(judge="liked", **quiet), run="gamed")
    short = {"name": "short", "rewards": [{"type": "expression", "expression": "1 - tokens / max_tokens"}]}
    agents = [short | {"frozen": True}, {"name": "kind", "rewards": [{"type": "rewardModel"}]}]
    with pytest.raises(DivergedError, match=r"stages.rlhf.agents\[1\], agent kind: .* reward hacking: .* raise initKl"):
        bench.pod(bench.rlhf(judge="liked", agents=agents, **quiet), run="gamed-agent")


def test_the_door_makes_a_judge_and_goes_on_with_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    feedbacks = []
    for number in range(100):
        word = ("never", "card")[number % 2]
        prompt = " ".join(rng.choices(SPOKEN, k=4))
        feedbacks.append({"prompt": prompt, "response": f"{word} {word} {word}", "score": float(number % 2)})
    config = TrainingConfig(
        base_model=str(base),
        max_steps=2,
        max_new_tokens=4,
        lora_r=4,
        checkpoint_steps=1,
        device="cpu",
        reward_model_config={"num_epochs": 1},
    )
    step = LanguagePPO.step

    def dies(self: LanguagePPO) -> dict[str, float]:
        if self.done == 1:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(LanguagePPO, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        RLHFTrainer(config).train(feedbacks, output_dir=tmp_path)
    monkeypatch.setattr(LanguagePPO, "step", step)
    assert latest_checkpoint(tmp_path / "policy" / "1" / "checkpoints") is not None
    result = RLHFTrainer(config).train(feedbacks, output_dir=tmp_path)
    assert result.reward_model is not None
    assert result.reward_model.judge_agreement is not None
    assert result.reward_model.judge_agreement > 0.9
    log = (tmp_path / "policy" / "1" / "training_log.jsonl").read_text().splitlines()
    assert len(log) == 2
    assert all('"judge_mean"' in line for line in log)
