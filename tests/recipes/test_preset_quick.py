"""The preset `quick`, run: its own numbers, stage after stage, on a tiny encoder that knows nothing beforehand."""

from __future__ import annotations

from pathlib import Path

from ratchet_api.stage import EvaluateConfig, RlConfig, Stage, StageRef, SupervisedConfig
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_cli.kubeyaml import load_documents
from tests.tiny_bert import reviews
from tests.tools.files import ROOT
from tests.workbench import Workbench


def test_the_quick_preset_goes_from_labels_through_right_and_wrong_to_a_choice(tmp_path: Path) -> None:
    preset = load_documents((ROOT / "examples/presets/quick.yaml").read_text())[0]
    spec = RLTrainingRunSpec.model_validate(preset["spec"])
    bench = Workbench(
        tmp_path, train=reviews(480, seed=0), validation=reviews(60, seed=1), test=reviews(120, seed=2, noise=0.1)
    )
    ref = {stage: StageRef(stage=stage, prefix=bench.prefix("q", stage), input_digest="0" * 64) for stage in Stage}
    supervised = SupervisedConfig(
        dataset=bench.dataset, base_model=bench.base_ref, lora=spec.lora, hyper=spec.stages.supervised, seed=spec.seed
    )
    first, _ = bench.pod(supervised, run="q")
    rl = RlConfig(dataset=bench.dataset, start=ref[Stage.SUPERVISED], hyper=spec.rl, seed=spec.seed)
    second, _ = bench.pod(rl, run="q")
    evaluate = EvaluateConfig(
        dataset=bench.dataset,
        candidates=(ref[Stage.RL], ref[Stage.SUPERVISED]),
        evaluation=spec.evaluation,
        hyper=spec.stages.evaluate,
        max_tokens=spec.stages.supervised.max_tokens,
        seed=spec.seed,
    )
    last, _ = bench.pod(evaluate, run="q")
    assert first.result.metrics["steps"] == 480 // spec.stages.supervised.batch_size
    assert second.result.metrics["interactions"] == spec.rl.interactions
    assert last.result.choice is not None
    assert last.result.choice.chosen in ("rl", "supervised")
    assert last.result.metrics["n_test"] == 120
