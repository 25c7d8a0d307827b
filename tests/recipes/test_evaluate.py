"""The evaluate stage: it measures on test, fits on validation alone, and commits the complete policy."""

import json
from typing import NamedTuple

import numpy as np
import pytest

from ratchet_api.label_sets import LabelSet
from ratchet_jobs.metrics import classification as formulas
from ratchet_jobs.models.classifier import load_classifier, read_card
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import tokenize
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadLabelsError, Preempted, StoreNotFound
from tests.tiny_bert import THEMES, reviews
from tests.workbench import Workbench

LABELS = sorted(THEMES)
VALIDATION, TEST = reviews(150, seed=11, noise=0.3), reviews(200, seed=12, noise=0.3)


class Plain(NamedTuple):
    """Logits and class numbers of a split, one row at a time without batches or padding: the plain way to them."""

    logits: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A trained policy that is right most of the time: 30 % of the held-out labels are noise."""
    made = Workbench(tmp_path_factory.mktemp("bench"), train=reviews(240, seed=0), validation=VALIDATION, test=TEST)
    made.pod(made.supervised(epochs=4.0))
    return made


@pytest.fixture(scope="module")
def plain(bench: Workbench) -> dict[str, Plain]:
    _, folder = bench.pod(bench.evaluate())
    policy = load_classifier(folder, bench.base)

    def split(rows: list[tuple[str, str]]) -> Plain:
        singles = [tokenize(policy.tokenizer, [text]) for text, _ in rows]
        logits = [predict_logits(policy.classifier, one, batch_size=1, after_batch=lambda _: None) for one in singles]
        return Plain(np.concatenate(logits), np.array([policy.card.labels.index(label) for _, label in rows]))

    return {"validation": split(VALIDATION), "test": split(TEST)}


def test_metrics_are_those_of_the_committed_policy_on_the_test_split(bench: Workbench, plain: dict[str, Plain]) -> None:
    commit, folder = bench.pod(bench.evaluate(abstainTargetAccuracy=0.75))
    card = read_card(folder)
    logits, labels = plain["test"]
    answer = formulas.predict(logits, temperature=card.temperature)
    right = answer.classes == labels
    got = commit.result.metrics
    assert commit.result.labels == LabelSet.of(card.labels)
    assert got["accuracy"] == pytest.approx(right.mean(), abs=1e-9)
    assert 0.6 < got["accuracy"] < 0.95
    assert got["loss"] == pytest.approx(-np.log(answer.probs[np.arange(200), labels]).mean(), abs=1e-4)
    assert got["temperature"] == card.temperature != 1.0
    assert got["threshold"] == card.abstain_threshold
    answered = answer.confidence >= card.abstain_threshold
    assert got["coverage"] == pytest.approx(answered.mean(), abs=0.006)  # one row may stand on the edge
    assert got["selective_accuracy"] == pytest.approx(right[answered].mean(), abs=0.01)
    assert got["n_test"] == 200
    wanted = {"accuracy", "macro_f1", "ece", "brier", "loss", "coverage", "selective_accuracy"}
    assert set(got) == wanted | {"temperature", "threshold", "n_test", "ms_per_sample_1", "ms_per_sample_32"}
    assert 0 < got["ms_per_sample_32"] < got["ms_per_sample_1"] < 1000, "a batch answers more texts in a second"


def test_temperature_is_the_best_one_for_validation_and_never_sees_test(
    bench: Workbench, plain: dict[str, Plain]
) -> None:
    commit, _ = bench.pod(bench.evaluate())
    logits, labels = plain["validation"]
    assert commit.result.metrics["temperature"] == pytest.approx(formulas.fit_temperature(logits, labels), rel=1e-3)
    test_logits, test_labels = plain["test"]
    assert commit.result.metrics["temperature"] != pytest.approx(
        formulas.fit_temperature(test_logits, test_labels), rel=1e-3
    )


def test_calibration_brings_the_calibration_error_down(bench: Workbench, plain: dict[str, Plain]) -> None:
    # The policy was trained on clean labels and is over-confident on noisy ones.
    commit, folder = bench.pod(bench.evaluate())
    report = json.loads((folder / "evaluation.json").read_text())
    assert commit.result.metrics["temperature"] > 1.2
    assert report["metrics"]["ece"] < report["ece_uncalibrated"]
    assert report["metrics"]["loss"] < formulas.negative_log_likelihood(*plain["test"]) - 0.02


def test_without_calibration_the_policy_keeps_temperature_1_and_never_abstains(bench: Workbench) -> None:
    commit, folder = bench.pod(bench.evaluate(calibrate=False))
    card = read_card(folder)
    assert (card.temperature, card.abstain_threshold) == (1.0, None)
    assert commit.result.metrics["coverage"] == 1.0
    assert commit.result.metrics["selective_accuracy"] == commit.result.metrics["accuracy"]


def test_threshold_reaches_its_accuracy_on_validation(bench: Workbench, plain: dict[str, Plain]) -> None:
    _, folder = bench.pod(bench.evaluate(abstainTargetAccuracy=0.75))
    card = read_card(folder)
    assert card.abstain_threshold is not None
    logits, labels = plain["validation"]
    answer = formulas.predict(logits, temperature=card.temperature)
    answered = answer.confidence >= card.abstain_threshold - 1e-6
    assert answered.mean() > 0.2
    assert (answer.classes == labels)[answered].mean() >= 0.75


def test_accuracy_that_cannot_be_had_gives_a_policy_that_abstains(bench: Workbench) -> None:
    commit, folder = bench.pod(bench.evaluate(abstainTargetAccuracy=1.0))
    assert commit.result.metrics["coverage"] < 0.3
    assert read_card(folder).abstain_threshold == pytest.approx(commit.result.metrics["threshold"])


def test_report_holds_the_table_of_every_class_and_the_confusion(bench: Workbench) -> None:
    commit, folder = bench.pod(bench.evaluate())
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["labels"] == LABELS
    confusion = np.array(report["confusion"])
    assert confusion.sum(axis=1).tolist() == [sum(1 for _, label in TEST if label == name) for name in LABELS]
    for place, row in enumerate(report["per_class"]):
        assert row["label"] == LABELS[place]
        assert row["recall"] == pytest.approx(confusion[place, place] / confusion[place].sum())
        assert row["precision"] == pytest.approx(confusion[place, place] / confusion[:, place].sum())
    mean = sum(row["f1"] for row in report["per_class"]) / 3
    assert commit.result.metrics["macro_f1"] == pytest.approx(mean, abs=1e-9)


def test_the_abstain_curve_trades_rows_for_accuracy(bench: Workbench) -> None:
    _, folder = bench.pod(bench.evaluate())
    report = json.loads((folder / "evaluation.json").read_text())
    curve = report["abstain_curve"]
    assert (curve[0]["coverage"], curve[0]["accuracy"]) == (1.0, report["metrics"]["accuracy"])
    assert [point["coverage"] for point in curve] == sorted((p["coverage"] for p in curve), reverse=True)
    assert [point["threshold"] for point in curve] == sorted(point["threshold"] for point in curve)
    assert len(curve) <= 20
    assert curve[-1]["coverage"] < 0.1


def test_classes_that_gates_name_are_in_the_result_and_no_others(bench: Workbench) -> None:
    gates = [{"metric": "macro_f1", "label": "loan", "minimum": 0.1}, {"metric": "accuracy", "minimum": 0.5}]
    commit, folder = bench.pod(bench.evaluate(gates=gates))
    table = {row["label"]: row["f1"] for row in json.loads((folder / "evaluation.json").read_text())["per_class"]}
    assert {k: v for k, v in commit.result.metrics.items() if k.startswith("f1/")} == {"f1/loan": table["loan"]}


def test_committed_folder_alone_is_the_policy_to_serve(bench: Workbench) -> None:
    commit, folder = bench.pod(bench.evaluate())
    files = {file.path for file in commit.files}
    weights = {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"}
    of_the_run = {"supervised-history.parquet", "supervised-settings.json", "evaluate-settings.json", "report.html"}
    assert files == weights | {"policy.json", "tokenizer.json", "evaluation.json"} | of_the_run
    assert load_classifier(folder, bench.base).card.labels == tuple(LABELS)


def test_measuring_again_gives_the_same_bytes(bench: Workbench) -> None:
    assert bench.pod(bench.evaluate())[0].digest == bench.pod(bench.evaluate())[0].digest


def test_pod_that_must_leave_stops_after_its_batch(bench: Workbench) -> None:
    with pytest.raises(Preempted, match="after 32 of 350 rows"):
        bench.pod(bench.evaluate(), leave_after=32)


# --- bad input, each with a clear error ---------------------------------------------------------------------------


def test_gate_on_a_class_that_does_not_exist_is_refused_with_those_that_do(bench: Workbench) -> None:
    with pytest.raises(BadLabelsError, match=r"gates\[0\].label 'loans' is no class.*has 'loan', 'card', 'mortgage'"):
        bench.pod(bench.evaluate(gates=[{"metric": "macro_f1", "label": "loans", "minimum": 0.1}]))


def test_snapshot_of_other_classes_is_refused(bench: Workbench) -> None:
    config = bench.evaluate()
    rows = [(text, label) for text, label in reviews(30, seed=0) if label != "card"]
    other = bench.put_snapshot(train=rows, validation=rows, test=rows, labels=())
    with pytest.raises(BadLabelsError, match="its 2 classes are not the supervised policy's 3, which differ in 'card'"):
        bench.pod(config.model_copy(update={"dataset": other}))


def test_an_order_of_classes_of_its_own_changes_no_number(bench: Workbench) -> None:
    other = bench.put_snapshot(train=reviews(30, seed=0), validation=VALIDATION, test=TEST, labels=LABELS[::-1])
    gates = [{"metric": "macro_f1", "label": "loan", "minimum": 0.1}]
    commit, folder = bench.pod(bench.evaluate(gates=gates).model_copy(update={"dataset": other}))
    want = bench.pod(bench.evaluate(gates=gates))[0].result.metrics
    got = commit.result.metrics
    untimed = [name for name in want if not name.startswith("ms_")]
    assert [got[name] for name in untimed] == pytest.approx([want[name] for name in untimed], abs=1e-9)
    assert json.loads((folder / "evaluation.json").read_text())["labels"] == LABELS[::-1]
    assert read_card(folder).labels == tuple(LABELS), "the policy keeps the order that its head has"


@pytest.mark.parametrize(
    ("empty", "want"), [("test", "test split: no rows"), ("validation", "validation split: no rows")]
)
def test_empty_split_is_refused_with_its_remedy(bench: Workbench, empty: str, want: str) -> None:
    splits = {"train": reviews(30, seed=0), "validation": VALIDATION, "test": TEST} | {empty: []}
    other = bench.put_snapshot(**splits, labels=())
    with pytest.raises(BadDataError, match=rf"{empty} split: no rows.*raise spec\.split\.{empty}Percent"):
        bench.pod(bench.evaluate().model_copy(update={"dataset": other}))


def test_validation_is_not_needed_when_nothing_is_fitted_on_it(bench: Workbench) -> None:
    other = bench.put_snapshot(train=reviews(30, seed=0), validation=[], test=TEST, labels=())
    config = bench.evaluate(calibrate=False).model_copy(update={"dataset": other})
    assert bench.pod(config)[0].result.metrics["n_test"] == 200


def test_settings_of_another_version_are_refused(bench: Workbench) -> None:
    with pytest.raises(BadConfigError, match="maxTokens: the stage says 16, the supervised policy was trained with 32"):
        bench.pod(bench.evaluate(max_tokens=16))


def test_candidate_that_was_never_committed_is_refused(bench: Workbench) -> None:
    with pytest.raises(StoreNotFound, match=r"stage supervised: no COMMIT\.json below"):
        bench.pod(bench.evaluate(run="nobody"))


def test_a_policy_out_of_the_cache_is_measured_where_the_run_finds_its_base(bench: Workbench) -> None:
    here = bench.root / "store" / "team" / "models"
    (here / "tiny").rename(here / "moved")
    try:
        moved = bench.base_ref.model_copy(update={"uri": "store://models/moved"})
        _, folder = bench.pod(bench.evaluate().model_copy(update={"base_model": moved}))
        assert read_card(folder).base_model == moved
    finally:
        (here / "moved").rename(here / "tiny")
