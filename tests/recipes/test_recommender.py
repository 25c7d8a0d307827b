"""Example 04 at tiny size: a reward of many parts is learned from, told apart, and compared part by part."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratchet_api.stage import artifact_digest
from ratchet_api.training_run import BaseModelRef, Lora, RLTrainingRunSpec
from ratchet_cli.kubeyaml import load_documents
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import build_classifier, save_classifier
from ratchet_jobs.runtime.errors import BadDataError, BadModelError
from ratchet_jobs.runtime.history import read_history
from ratchet_jobs.runtime.store import sha256_file
from tests.generator_bench import GeneratorBench
from tests.tiny_bert import write_tiny_bert
from tests.tiny_llama import dialogues
from tests.tools.files import ROOT
from tests.workbench import NAMESPACE

pytestmark = pytest.mark.usefixtures("one_thread")

FILMS = "Loan\nHouse!\n"
"""Words that the tiny model says now and then before it is rewarded for them."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> GeneratorBench:
    """A bench with a supervised policy, a catalogue, and a classifier of two emotions that has learned nothing."""
    bench = GeneratorBench(tmp_path_factory.mktemp("bench"), train=dialogues(32, seed=0), test=dialogues(12, seed=5))
    bench.pod(bench.supervised(epochs=1.0))
    home = bench.root / "store" / NAMESPACE
    (home / "films.txt").write_text(FILMS)
    encoder, folder = write_tiny_bert(home / "models" / "bert"), home / "feelings"
    folder.mkdir()
    card = PolicyCard(
        labels=("negative", "positive"),
        max_tokens=32,
        base_model=BaseModelRef(uri="store://models/bert", sha256=local_digest(encoder)),
    )
    classifier = build_classifier(encoder, classes=2, lora=Lora(rank=2, alpha=4.0), max_tokens=32, seed=0)
    save_classifier(classifier, folder, card=card, tokenizer_from=encoder)
    return bench


def rewards(bench: GeneratorBench, **changes: Any) -> list[dict[str, Any]]:
    """The example's own rewards, on the tiny catalogue and classifier."""
    document = load_documents((ROOT / "examples/04-recommender/run.yaml").read_text())[0]
    stage = RLTrainingRunSpec.model_validate(document["spec"]).stages.rlhf
    assert stage is not None
    home = bench.root / "store" / NAMESPACE
    folder = home / "feelings"
    digest = artifact_digest({str(f.relative_to(folder)): sha256_file(f) for f in folder.rglob("*") if f.is_file()})
    put = {
        "catalogue": {"uri": "store://films.txt", "sha256": sha256_file(home / "films.txt")},
        "classifier": {"uri": "store://feelings", "sha256": digest},
    } | changes
    return [
        reward.to_wire() | {name: put[name] for name in put if name in reward.to_wire()} for reward in stage.rewards
    ]


def test_a_reward_of_many_parts_is_learned_and_every_part_is_told(bench: GeneratorBench) -> None:
    parts = rewards(bench)
    for part in parts:  # the parts that a tiny model can change in eight rollouts
        part["weight"] = 4.0 if part["type"] == "itemRatio" else 0.05
    config = bench.rlhf(rewards=parts, interactions=96, learningRate=2e-2, initKl=0.001)
    commit, folder = bench.pod(config, run="recommender")
    curve, metrics = read_history(folder / "rl-history.parquet"), commit.result.metrics
    names = {"recommendation", "itemRatio", "empathy", "bleu", "variety", "takesUp", "length", "safety"}
    assert {name.removeprefix("reward/") for name in metrics if name.startswith("reward/")} == names
    assert 0.0 < metrics["reward/empathy"] < 1.0
    assert metrics["reward/safety"] == 1.0
    assert sum(curve["reward/itemRatio"][-3:]) > sum(curve["reward/itemRatio"][:3]), curve["reward/itemRatio"]

    compared, folder = bench.pod(bench.compare(config, run="recommender"), run="compared")
    told = json.loads((folder / "comparison.json").read_text())["components"]
    assert told.keys() == names
    for each in told.values():
        assert each["low"] <= each["difference"] <= each["high"]
        change = 100 * (each["candidate"] - each["baseline"]) / each["baseline"] if each["baseline"] else None
        assert each["percent"] == (None if change is None else pytest.approx(change))
    answers = json.loads((folder / "evaluation.json").read_text())["answers"]
    worth = [sum(part["weight"] * answer["worth"]["rl"][name_of(part)] for part in parts) for answer in answers]
    assert compared.result.metrics["rl/reward"] == pytest.approx(sum(worth) / len(worth), abs=1e-4)
    assert compared.result.metrics["item_ratio"] == pytest.approx(told["itemRatio"]["candidate"])
    page = (folder / "report.html").read_text()
    assert "What the reward is made of" in page
    assert "itemRatio" in page


def test_a_gate_may_ask_for_the_share_of_answers_that_name_an_item(bench: GeneratorBench) -> None:
    """Of a run whose rewards know items, though none of them is that share."""
    catalogue = next(part["catalogue"] for part in rewards(bench) if part["type"] == "itemRatio")
    config = bench.rlhf(rewards=[{"type": "recommendation", "catalogue": catalogue}], interactions=16)
    bench.pod(config, run="gated")
    asked = bench.compare(config, run="gated", gates=[{"metric": "item_ratio", "minimum": 1.0}])
    kept, folder = bench.pod(asked, run="gated-measured")
    policies = json.loads((folder / "comparison.json").read_text())["policies"]
    answers = json.loads((folder / "evaluation.json").read_text())["answers"]
    for role in ("rl", "supervised"):
        naming = [any(film in answer[role].split() for film in ("loan", "house")) for answer in answers]
        assert policies[role]["metrics"]["item_ratio"] == pytest.approx(sum(naming) / len(naming))
        assert 0 < sum(naming) < len(naming)
    assert kept.result.choice is not None
    assert kept.result.choice.chosen == "supervised"
    assert "item_ratio is" in kept.result.choice.why
    assert kept.result.metrics["item_ratio"] == pytest.approx(policies["supervised"]["metrics"]["item_ratio"])
    assert "share of answers that name an item" in (folder / "report.html").read_text()


def name_of(part: dict[str, Any]) -> str:
    return str(part.get("name", part["type"]))


def test_files_that_a_reward_names_must_be_those_of_their_digest(bench: GeneratorBench) -> None:
    """P39."""
    other = rewards(bench, catalogue={"uri": "store://films.txt", "sha256": "d" * 64})
    with pytest.raises(BadDataError, match=r"rewards: catalogue: sha256 is d+, but store://films.txt has"):
        bench.pod(bench.rlhf(rewards=other), run="other-films")
    other = rewards(bench, classifier={"uri": "store://feelings", "sha256": "d" * 64})
    with pytest.raises(BadModelError, match=r"rewards: classifier: the digest is d+, but store://feelings has"):
        bench.pod(bench.rlhf(rewards=other), run="other-feelings")
    other = rewards(bench, classifier={"uri": "store://nowhere", "sha256": "d" * 64})
    with pytest.raises(BadModelError, match=r"rewards: classifier store://nowhere: no files there"):
        bench.pod(bench.rlhf(rewards=other), run="no-feelings")
