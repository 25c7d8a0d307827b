"""RL in a notebook: any sequence classifier, any loader, a reward of one's own; and asking a policy afterwards."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import ratchet_jobs
from ratchet_jobs import RLConfig, RLTrainer, load_policy, train_with_rl
from ratchet_jobs.models.classifier import read_card, write_card
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError, DivergedError
from tests.tiny_bert import THEMES, WORDS, reviews, write_tiny_bert
from tests.workbench import Workbench

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = sorted(THEMES)
ROWS = [(text, LABELS.index(label)) for text, label in reviews(300, seed=0)]
HELD_OUT = [(text, LABELS.index(label)) for text, label in reviews(120, seed=9)]
QUICK = {"rollout_size": 24, "minibatch_size": 8}


class WordTokenizer:
    """A tokenizer as transformers calls one: words to numbers."""

    pad_token_id = 0

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[2, *(WORDS.index(word) for word in text.split()), 3] for text in texts]}


@pytest.fixture
def model() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config)


def right(predictions: torch.Tensor, labels: torch.Tensor, confidences: torch.Tensor) -> torch.Tensor:
    return (predictions == labels).float()


def pairs(rows: list[tuple[str, int]]) -> DataLoader:
    return DataLoader(rows, batch_size=50)


def test_any_sequence_classifier_learns_from_a_reward_of_ones_own(model: BertForSequenceClassification) -> None:
    # Chance is 1/3; a reward turned around (below) makes it worse.
    config = RLConfig(interactions=600, learning_rate=3e-3, head_learning_rate=3e-3, verdict_coef=1.0, **QUICK)
    result = train_with_rl(model, WordTokenizer(), pairs(ROWS), pairs(HELD_OUT), reward=right, config=config)
    assert result.kept
    assert result.accuracy_after > result.accuracy_before + 0.2
    assert result.curve[-1]["interactions"] == 600
    assert {"avg_return", "policy_loss", "entropy", "approx_kl"} <= set(result.curve[-1])


def test_a_model_that_got_worse_has_its_start_back(model: BertForSequenceClassification) -> None:
    good = RLConfig(interactions=600, learning_rate=3e-3, head_learning_rate=3e-3, verdict_coef=1.0, **QUICK)
    train_with_rl(model, WordTokenizer(), pairs(ROWS), pairs(HELD_OUT), reward=right, config=good)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bad = good.model_copy(update={"interactions": 120})  # short: a policy that is always wrong gets constant rewards
    result = train_with_rl(
        model, WordTokenizer(), pairs(ROWS), pairs(HELD_OUT), reward=lambda *a: 1 - right(*a), config=bad
    )
    assert not result.kept
    assert result.accuracy_after < result.accuracy_before
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_a_learning_rate_the_head_alone_learns(model: BertForSequenceClassification) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_with_rl(model, WordTokenizer(), pairs(ROWS), pairs([HELD_OUT[0]]), config=RLConfig(interactions=48, **QUICK))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "reinforce", "dqn"])
def test_equal_settings_give_equal_curves(model: BertForSequenceClassification, algorithm: str) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    curves = []
    for _ in range(2):
        model.load_state_dict(state)
        config = RLConfig(interactions=72, algorithm=algorithm, kl_coef=0.0 if algorithm == "dqn" else 0.1, **QUICK)
        curves.append(train_with_rl(model, WordTokenizer(), pairs(ROWS), pairs(HELD_OUT), config=config).curve)
    assert curves[0] == curves[1]


def test_batches_may_be_pairs_texts_or_token_ids(model: BertForSequenceClassification) -> None:
    texts, labels = [text for text, _ in ROWS[:48]], torch.tensor([label for _, label in ROWS[:48]])
    rows = [torch.tensor(ids) for ids in WordTokenizer()(texts)["input_ids"]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    loaders = [
        [(texts, labels)],
        [{"text": texts, "labels": labels}],
        [{"input_ids": ids, "attention_mask": mask, "labels": labels}],
    ]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    curves = []
    for loader in loaders:
        model.load_state_dict(state)
        config = RLConfig(interactions=48, **QUICK)
        curves.append(train_with_rl(model, WordTokenizer(), loader, loader, config=config).curve)
    assert curves[0] == curves[1] == curves[2]


@pytest.mark.parametrize(
    ("loader", "want"),
    [
        pytest.param([], "train_loader: no rows", id="an empty loader"),
        pytest.param([["a", "b", "c"]], "a batch is list; give mappings", id="a batch of something else"),
        pytest.param([{"tokens": []}], r"a batch is \['tokens'\]", id="a mapping without labels"),
        pytest.param([(["a", "my"], [0])], "2 texts but 1 labels", id="a label missing"),
        pytest.param([(["a"], [3])], "labels from 3 to 3 for 3 classes", id="a label out of range"),
        pytest.param([(["a", "my"], [0, 1])], r"rollout_size: 24 is above the 2 queries", id="too few queries"),
    ],
)
def test_a_loader_that_cannot_be_used_is_refused(
    model: BertForSequenceClassification, loader: list[Any], want: str
) -> None:
    with pytest.raises(BadDataError, match=want):
        train_with_rl(model, WordTokenizer(), loader, pairs(HELD_OUT), config=RLConfig(**QUICK))


def test_a_constant_reward_says_what_to_change(model: BertForSequenceClassification) -> None:
    config = RLConfig(interactions=240, **QUICK)
    with pytest.raises(DivergedError, match="got the same reward"):
        train_with_rl(model, WordTokenizer(), pairs(ROWS), pairs(HELD_OUT), reward=lambda p, *_: p * 0.0, config=config)


def test_two_rewards_are_refused(model: BertForSequenceClassification) -> None:
    config = RLConfig(rewards=[{"type": "f1"}])
    with pytest.raises(BadConfigError, match=r"reward: given beside config\.rewards"):
        RLTrainer(model, WordTokenizer(), reward=right, config=config)


def test_a_model_without_a_known_head_needs_a_learning_rate(model: BertForSequenceClassification) -> None:
    for parameter in model.classifier.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(BadConfigError, match=r"set config\.learning_rate"):
        train_with_rl(model, WordTokenizer(), pairs(ROWS), pairs(HELD_OUT), config=RLConfig(**QUICK))


def test_a_model_from_a_folder_works_as_it_is(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "tiny")
    made = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, local_files_only=True)
    result = train_with_rl(
        made, WordTokenizer(), pairs(ROWS), pairs(HELD_OUT), config=RLConfig(interactions=24, **QUICK)
    )
    assert len(result.curve) == 1


# --- asking a policy ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, Path]:
    bench = Workbench(tmp_path_factory.mktemp("policy"), train=reviews(200, seed=0))
    _, folder = bench.pod(bench.supervised(epochs=3.0))
    write_card(folder, read_card(folder).model_copy(update={"temperature": 2.0, "abstain_threshold": 0.6}))
    return bench, folder


def test_a_policy_answers_with_labels_probabilities_and_doubts(trained: tuple[Workbench, Path]) -> None:
    bench, folder = trained
    policy = load_policy(folder, base=bench.base)
    texts = [text for text, _ in HELD_OUT]
    probs = policy.predict_proba(texts)
    assert probs.shape == (120, 3)
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-9)
    assert policy.predict(texts) == [policy.labels[place] for place in probs.argmax(1)]
    assert policy.abstain(texts).tolist() == (probs.max(1) < 0.6).tolist()
    assert 0 < policy.abstain(texts).sum() < 120
    sure = load_classifier_at_temperature_1(bench, folder).predict_proba(texts)
    # probabilities are those of logits / 2: log-odds are half of what they are at temperature 1
    np.testing.assert_allclose(np.log(probs[:, 0] / probs[:, 1]), np.log(sure[:, 0] / sure[:, 1]) / 2, atol=1e-6)


def load_classifier_at_temperature_1(bench: Workbench, folder: Path) -> Any:
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"temperature": 1.0}))
    try:
        return load_policy(f"file://{folder}", base=bench.base)
    finally:
        write_card(folder, card)


def test_no_text_gives_no_answer(trained: tuple[Workbench, Path]) -> None:
    bench, folder = trained
    policy = load_policy(folder, base=bench.base)
    assert policy.predict([]) == []
    assert policy.predict_proba([]).shape == (0, 3)
    assert policy.abstain([]).tolist() == []
    with pytest.raises(BadConfigError, match="one string was given"):
        policy.predict("a card")


def test_a_policy_without_a_threshold_never_abstains(trained: tuple[Workbench, Path]) -> None:
    bench, folder = trained
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"abstain_threshold": None}))
    assert not load_policy(folder, base=bench.base).abstain([text for text, _ in HELD_OUT]).any()
    write_card(folder, card)


@pytest.mark.parametrize(
    ("place", "error", "want"),
    [
        pytest.param("no-such-folder", BadModelError, "there is no such folder", id="a folder that is not there"),
        pytest.param("https://example.org/policy", BadConfigError, "expected a folder", id="an address"),
        pytest.param(".", BadModelError, r"policy\.json cannot be read", id="a folder without a policy"),
    ],
)
def test_what_is_no_policy_is_refused(
    trained: tuple[Workbench, Path], tmp_path: Path, place: str, error: type[Exception], want: str
) -> None:
    with pytest.raises(error, match=want):
        load_policy(tmp_path if place == "." else place, base=trained[0].base)


def test_importing_the_package_loads_no_torch_and_names_what_it_offers() -> None:
    code = "import sys, ratchet_jobs; print('torch' in sys.modules, sorted(ratchet_jobs.__all__)[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "Policy"]
    assert all(getattr(ratchet_jobs, name) is not None for name in ratchet_jobs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ratchet_jobs.nothing  # noqa: B018 -- looking it up is the test


def test_the_page_for_notebooks_asks_a_policy_as_it_says(trained: tuple[Workbench, Path]) -> None:
    """Its other blocks run in tests/unit/test_docs.py, where no policy is at hand."""
    bench, folder = trained
    page = (Path(__file__).parents[2] / "docs/how-to/train-in-a-notebook.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    exec(blocks[-1], scope)
    texts = [text for text, _ in HELD_OUT]
    answers = scope["route"](texts, folder, bench.base)
    policy = load_policy(folder, base=bench.base)
    assert [label is None for label, _ in answers] == policy.abstain(texts).tolist()
    assert {label for label, _ in answers} <= {None, *LABELS}
