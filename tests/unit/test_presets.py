"""The presets are what the page about them says, and each is what its name promises."""

from __future__ import annotations

import re

import pytest

from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_cli.kubeyaml import load_documents
from tests.tools.files import ROOT

FOLDER, PAGE = ROOT / "examples/presets", ROOT / "docs/how-to/choose-a-preset.md"
NAMES = ("quick", "production", "low-memory", "high-performance", "conservative", "aggressive")
RECOMMENDERS = ("empathy-focused", "recommendation-focused", "balanced")


def preset(name: str) -> RLTrainingRunSpec:
    document = load_documents((FOLDER / f"{name}.yaml").read_text())[0]
    assert document["metadata"]["name"] == name
    return RLTrainingRunSpec.model_validate(document["spec"])


def row_of(name: str) -> list[str]:
    """Cells of the page's table, the name left out."""
    found = re.search(rf"^\| `{name}` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    return [cell.strip() for cell in found[1].split("|")]


def test_there_is_a_file_and_a_row_for_each_preset_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NAMES, *RECOMMENDERS}
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(), re.MULTILINE) == [*NAMES, *RECOMMENDERS]


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_the_numbers_of_the_file(name: str) -> None:
    run = preset(name)
    _, supervised, rl, brakes = row_of(name)
    hyper = run.stages.supervised
    assert supervised == f"{hyper.epochs:g}, {hyper.batch_size}, {hyper.learning_rate:g}"
    learns = "heads" if run.rl.learning_rate is None else "heads and adapters"
    assert rl == f"{run.rl.interactions:,}, {run.rl.rollout_size:,}, {run.rl.update_epochs}, {learns}"
    for word, value in re.findall(r"(targetKl|klCoef|clipRange|maxKl) ([\d.]+)", brakes):
        assert run.rl.to_wire()[word] == float(value)
    assert ("targetKl" in brakes) == (run.rl.target_kl is not None)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_preset_that_differs_from_the_default_is_written_out(name: str) -> None:
    """A file that only repeats defaults would be no preset."""
    run, plain = preset(name), RLTrainingRunSpec.model_fields["stages"].default
    assert run.mode == "supervised_then_rl"
    assert run.stages.supervised != plain.supervised
    assert run.rl != type(run.rl)()


def test_each_preset_is_what_its_name_promises() -> None:
    runs = {name: preset(name) for name in NAMES}
    rl = {name: run.rl for name, run in runs.items()}
    memory = {name: run.stages.supervised.resources.memory_gi for name, run in runs.items()}
    assert min(rl, key=lambda name: rl[name].interactions) == "quick"
    assert min(memory, key=lambda name: memory[name]) == "low-memory"
    assert [name for name, run in runs.items() if run.stages.supervised.resources.gpus] == ["high-performance"]
    assert [name for name, run in runs.items() if run.publish_to] == ["production"]
    assert min(rl, key=lambda name: rl[name].clip_range) == "conservative"
    assert max(rl, key=lambda name: rl[name].head_learning_rate) == "aggressive"
    assert runs["conservative"].evaluation.comparison is not None
    assert runs["conservative"].evaluation.comparison.confidence > 0.95


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_the_table_has_the_weights_of_a_recommender(name: str) -> None:
    rlhf = preset(name).stages.rlhf
    assert rlhf is not None
    weights = {reward.called: reward.weight for reward in rlhf.rewards}
    names = ("recommendation", "itemRatio", "empathy", "bleu", "variety")
    assert row_of(name) == [f"{value:g}" for value in (*(weights[each] for each in names), rlhf.target_kl)]


def test_each_recommender_is_what_its_name_promises() -> None:
    weights = {
        name: {reward.called: reward.weight for reward in stage.rewards}
        for name in RECOMMENDERS
        if (stage := preset(name).stages.rlhf) is not None
    }
    assert max(RECOMMENDERS, key=lambda name: weights[name]["empathy"]) == "empathy-focused"
    assert max(RECOMMENDERS, key=lambda name: weights[name]["recommendation"]) == "recommendation-focused"
    assert weights["balanced"]["empathy"] == weights["balanced"]["recommendation"]
