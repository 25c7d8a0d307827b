"""Texts that end an answer: while it is drawn, where it is rewarded, and where it is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ratchet_api.rlhf import RlhfStage
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.answering import generate as answer
from ratchet_jobs.generators.loading import load_generator
from ratchet_jobs.generators.templates import Wording, load_wording
from ratchet_jobs.recipes.rl_generator import settings_of
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.generate import Episodes, Sampling, as_heard, generate, pad_prompts
from ratchet_jobs.rlhf.ppo import LanguagePPO
from ratchet_jobs.rlhf.trunk import load_trunk
from ratchet_jobs.runtime.history import read_history
from tests.generator_bench import GeneratorBench
from tests.quick_ppo import PROMPTS, QUICK
from tests.tiny_llama import WORDS, dialogues, write_tiny_llama

pytestmark = pytest.mark.usefixtures("one_thread")

EOS = WORDS.index("</s>")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def wording(base: Path) -> Wording:
    return load_wording(base)


def said(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


@pytest.mark.parametrize(
    ("stop", "want", "count"),
    [
        pytest.param(["your"], "please block", 3, id="a word"),
        pytest.param(["block your"], "please", 3, id="words of several tokens"),
        pytest.param(["you"], "please block", 3, id="a part of a token"),
        pytest.param(["ock y"], "please bl", 3, id="from within one token into another"),
        pytest.param(["card", "block"], "please", 2, id="the first of several"),
        pytest.param(["<|user|>"], "please block your card", 5, id="a special token by its text"),
        pytest.param(["please"], "", 1, id="the first word"),
        pytest.param(["loan"], "please block your card at once", None, id="what is not said"),
        pytest.param([], "please block your card at once", None, id="nothing"),
    ],
)
def test_an_answer_is_what_was_said_before_the_first_stop_text(
    wording: Wording, stop: list[str], want: str, count: int | None
) -> None:
    ids = [*said("please", "block", "your", "card", "<|user|>", "at", "once"), EOS]
    assert wording.text(ids, stop=stop) == want
    assert wording.stops_at(ids, stop) == count
    assert wording.settled(ids, stop=stop) == (ids if count is None else [*wording.response(want)])
    assert wording.settled([*said("at"), EOS, *said("your")], stop=["your"]) == [*said("at"), EOS, *said("your")]


def drawn(base: Path, sampling: Sampling) -> Episodes:
    trunk = load_trunk(base, rank=4, seed=0)
    prompts = pad_prompts([PROMPTS[n % len(PROMPTS)] for n in range(24)], pad_id=trunk.wording.pad_id)
    return generate(trunk, prompts, sampling, generator=generator_for(3))


def test_drawing_ends_with_the_token_that_says_a_stop_text_and_counts_it(base: Path, wording: Wording) -> None:
    stop = ("the", "my was", "bank")
    episodes, free = (drawn(base, Sampling(12, stop=each)) for each in (stop, ()))
    ended = 0
    for ids, mask, stopped, other in zip(
        episodes.response_ids, episodes.response_mask, episodes.stopped.tolist(), free.response_ids, strict=True
    ):
        row = ids[mask].tolist()
        at = wording.stops_at(row, stop)
        assert at in (None, len(row)), "nothing is drawn after it"
        assert stopped == (at is not None or row[-1] == EOS)
        if not ended:  # until a row ends early the draws are those without a stop
            assert row == other[: len(row)].tolist()
        ended += at is not None
    assert 0 < ended < len(episodes)


def test_rewards_and_the_judge_hear_an_answer_up_to_the_stop_text(base: Path) -> None:
    heard: list[Episodes] = []

    def noting(episodes: Episodes) -> Tensor:
        heard.append(episodes)
        return episodes.lengths.float()

    stop = ("the", "bank", "said", "never")
    settings = replace(QUICK, sampling=Sampling(max_new_tokens=6, stop=stop))
    trunk = load_trunk(base, rank=4, seed=0)
    ppo = LanguagePPO(settings, trunk=trunk, prompts=PROMPTS, score=noting, judge=noting, steps=4, seed=0)
    told = ppo.step()
    assert len(heard) == 2
    for episodes in heard:
        for ids, mask in zip(episodes.response_ids, episodes.response_mask, strict=True):
            assert trunk.wording.stops_at(ids[mask].tolist(), stop) is None
        assert float(episodes.stopped.double().mean()) == told["stopped_share"] > 0
    assert told["response_length"] > told["score_mean"] - 1, "the update counts what was drawn"
    whole = drawn(base, Sampling(6))
    assert as_heard(trunk, whole, stop=()) is whole
    assert as_heard(trunk, whole, stop=("nobody says this",)) is whole


def test_a_policy_that_is_asked_ends_its_answer_there(base: Path, tmp_path: Path) -> None:
    bench = GeneratorBench(tmp_path, train=dialogues(32, seed=0))
    _, folder = bench.pod(bench.supervised(epochs=2.0))
    model, wording, _ = load_generator(folder, bench.base)
    prompts = [wording.prompt(row) for row in (_turns("my card"), _turns("the loan"))]
    free = [wording.text(ids) for ids in answer(model, prompts, wording=wording, max_new_tokens=8)]
    word = free[0].split()[1]
    cut = answer(model, prompts, wording=wording, max_new_tokens=8, stop_texts=[word])
    assert [wording.text(ids) for ids in cut] == [text.partition(word)[0].strip() for text in free]
    assert cut[0][-1] == EOS, "it ended by itself"


def _turns(text: str) -> list[Any]:
    return [Turn("user", text)]


def test_a_stage_rewards_and_measures_answers_up_to_its_stop_texts(tmp_path: Path) -> None:
    """P39: `stop` acts on draws, rewards and evaluation; both policies are asked alike."""
    bench = GeneratorBench(tmp_path, train=dialogues(32, seed=0), test=dialogues(12, seed=5))
    bench.pod(bench.supervised(epochs=1.0))
    listed = {"your", "you", "the"}
    rewards = [{"type": "words", "words": sorted(listed)}, {"type": "expression", "expression": "ended"}]
    means: dict[str, dict[str, Any]] = {}
    spoken: dict[str, set[str]] = {}
    for name, more in (("free", {}), ("stopped", {"stop": sorted(listed)})):
        config = bench.rlhf(rewards=rewards, interactions=32, **more)
        _, folder = bench.pod(config, run=name)
        means[name] = read_history(folder / "rl-history.parquet")
        _, measured = bench.pod(bench.compare(config, run=name), run=f"{name}-measured")
        answers = json.loads((measured / "evaluation.json").read_text())["answers"]
        spoken[name] = {word for each in answers for role in ("rl", "supervised") for word in each[role].split()}
    assert sum(means["free"]["reward/words"]) > 0
    assert means["stopped"]["reward/words"] == [0.0] * 4
    assert sum(means["stopped"]["ended"]) > sum(means["free"]["ended"])
    assert spoken["free"] & listed
    assert spoken["stopped"]
    assert not spoken["stopped"] & listed


def test_the_stages_settings_of_scores_and_stops_are_the_loops() -> None:
    plain = settings_of(RlhfStage())
    assert (plain.score_whitening, plain.score_clip, plain.sampling.stop) == ("running", 5.0, ())
    given = {"scoreWhitening": "none", "scoreClip": 0.5, "stop": ["Customer:"]}
    asked = settings_of(RlhfStage.model_validate(given))
    assert (asked.score_whitening, asked.score_clip, asked.sampling.stop) == ("none", 0.5, ("Customer:",))
