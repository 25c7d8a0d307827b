"""A person is erased from log, snapshots and future training, whenever and however often the erasing is cut short."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from ratchet_api.attempts import Artifact
from ratchet_api.erasure import ErasureReport
from ratchet_api.names import snapshot_prefix
from ratchet_api.stage import Commit, CommittedFile, DatasetRef, Stage, StageRef, StageResult, artifact_digest
from ratchet_jobs.data.erase_artifacts import PAGE, WORDY, beginnings_of
from ratchet_jobs.data.erasure import erase, pending
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.data.snapshots import read_manifest
from ratchet_jobs.feedback_log.erasures import request_erasure, write_report
from ratchet_jobs.feedback_log.reader import LogReader
from ratchet_jobs.judging.cache import Entry, JudgeCache
from ratchet_jobs.report.evidence import COMPARISON_FILE, EVALUATION_FILE
from ratchet_jobs.report.page import REPORT_FILE
from ratchet_jobs.runtime.commit import open_committed
from ratchet_jobs.runtime.errors import BadDataError, BadModelError, StoreCorrupt
from ratchet_jobs.runtime.store import Store
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.feedback_events import START, LogBuilder, corrections, stored_as
from tests.recipes.stage_process import NAMESPACE, StageProcess

ANNA = stored_as("anna")
PRIVATE = "anna asked privately"
SOURCE = {"feedback": {"policyRef": {"name": "router"}}}


def fill(store: Store) -> LogBuilder:
    """Two segments: Anna's own verdicts, an anonymous one about an answer to her, and everybody else's."""
    log = LogBuilder(store, namespace=NAMESPACE)
    corrections(log, 100)
    for number in range(12):
        log.feedback("correction", prompt=f"anna asked {number}", correction="ab"[number % 2], subject="anna")
    asked = log.interaction(input=PRIVATE, label="billing", subject="anna", actionPropensity=0.5)
    log.flush()
    log.feedback("correction", interactionId=asked, correction="login")
    corrections(log, 30, classes=("login", "billing"))
    log.flush()
    log.feedback("correction", prompt="nobody special", correction="login", subject="bert")
    log.flush()
    return log


def evaluated(store: Store, *, folder: str = "runs/run-1a2b3c4d/evaluate/1-pod") -> Artifact:
    """What an evaluation commits: answers to Anna's question and to somebody else's, a page, and other files."""
    answers = [{"prompt": text, "answer": "Anna asked: " + text} for text in (PRIVATE, "somebody else asked this")]
    files = {
        "evaluation.json": json.dumps({"answers": answers, "labels": ["billing"], "metrics": {"bleu1": 0.5}}).encode(),
        "report.html": f"<p>{PRIVATE}</p>".encode(),
        "model.safetensors": PRIVATE.encode(),
        "config.json": json.dumps({"model": PRIVATE}).encode(),
    }
    where = f"{NAMESPACE}/{folder}"
    for name, data in files.items():
        store.write(f"{where}/{name}", data)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    commit = Commit(
        stage=Stage.EVALUATE,
        directory=where,
        files=tuple(CommittedFile(path=name, size=len(files[name]), sha256=sums[name]) for name in sorted(files)),
        digest=artifact_digest(sums),
        writer="pod",
        result=StageResult(),
    )
    store.write(f"{where.rpartition('/')[0]}/COMMIT.json", commit.model_dump_json(by_alias=True).encode())
    return Artifact(uri=f"{store.uri}/{where}", digest=commit.digest)


def everything(store: Store) -> dict[str, bytes]:
    """All objects, unpacked, so that a search finds what is in them."""
    found = {}
    for info in store.list(NAMESPACE):
        data = store.read(info.key)
        if info.key.endswith(".zst"):
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 26)
        elif info.key.endswith(".parquet"):
            data = json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str).encode()
        found[info.key] = data
    return found


def run_erasure(store: Store, tmp_path: Path) -> ErasureReport:
    record = request_erasure(store, NAMESPACE, [ANNA], now=START)
    report = erase(store, NAMESPACE, record, folder=tmp_path / "scratch", now=START)
    write_report(store, NAMESPACE, report)
    return report


def test_nothing_of_an_erased_person_is_left_anywhere(tmp_path: Path) -> None:
    """P30: a search through all objects, unpacked, finds neither her texts nor her pseudonym but in the proof."""
    process = StageProcess(tmp_path)
    fill(process.store)
    old = process.summary(source=SOURCE, target="1")
    report = run_erasure(process.store, tmp_path)
    for key, data in everything(process.store).items():
        assert b"anna asked" not in data, key
        assert ANNA.encode() not in data or "/erasures/" in key, key
    assert (report.events, report.answers, report.segments, report.left) == (14, 1, 2, 0)
    [rewritten] = report.snapshots
    assert (rewritten.digest, rewritten.rows) == (old["digest"], 13)
    stored = json.loads(process.store.read(f"{NAMESPACE}/erasures/{report.id}/report.json"))
    assert stored["snapshots"][0]["replacedBy"] == rewritten.replaced_by
    assert pending(process.store, NAMESPACE) == []


def test_the_old_digest_refuses_to_load_and_the_rewrite_loads(tmp_path: Path) -> None:
    """P28: a digest is the same bytes for ever, or says why it is gone."""
    process = StageProcess(tmp_path)
    fill(process.store)
    old = process.summary(source=SOURCE)
    report = run_erasure(process.store, tmp_path)
    with pytest.raises(BadDataError, match=report.id):
        read_manifest(process.store, DatasetRef(digest=old["digest"], prefix=snapshot_prefix(NAMESPACE, old["digest"])))
    new = report.snapshots[0].replaced_by
    manifest = read_manifest(process.store, DatasetRef(digest=new, prefix=snapshot_prefix(NAMESPACE, new)))
    assert manifest.counts.kept == old["counts"]["kept"] - 13
    assert sum(each.train + each.validation + each.test for each in manifest.labels) == manifest.counts.kept


def test_from_the_request_on_no_new_snapshot_holds_the_person(tmp_path: Path) -> None:
    """P30: future training, also before the log is rewritten, and for what still arrives."""
    process = StageProcess(tmp_path)
    log = fill(process.store)
    request_erasure(process.store, NAMESPACE, [ANNA], now=START)
    log.feedback("correction", prompt="anna came back", correction="login", subject="anna")
    log.flush()
    summary = process.summary(source=SOURCE)
    folder = process.root / "store" / snapshot_prefix(NAMESPACE, summary["digest"])
    texts = [row["text"] for name in ("train", "validation", "test") for row in rows(folder, name)]
    assert not [text for text in texts if "anna" in text]
    assert "nobody special" in texts


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / f"{split}.parquet").to_pylist()
    return found


def test_snapshots_without_the_person_rebuild_bit_identically_after_the_log_was_compacted(tmp_path: Path) -> None:
    """P28: rebuild, compact, rebuild again; a position outlives the segments that it names."""
    process = StageProcess(tmp_path)
    fill(process.store)
    rules = {"feedback": SOURCE["feedback"] | {"types": ["correction"]}}
    filters = {"maxSamples": 100_000}
    request_erasure(process.store, NAMESPACE, [ANNA], now=START)
    before = process.summary(source=rules, filters=filters, target="1")
    run_erasure(process.store, tmp_path)
    as_of = {"feedback": rules["feedback"] | {"asOf": before["digest"]}}
    after = process.summary(source=as_of, filters=filters, target="2")
    assert (after["digest"], after["logPosition"]) == (before["digest"], before["logPosition"])


class Killed(Exception):
    """The process dies here."""


class Mortal(DirectoryStore):
    """Dies before its n-th change."""

    def __init__(self, root: Path, changes: int) -> None:
        super().__init__(root)
        self.left = changes

    def _change(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def write(self, key: str, data: bytes) -> None:
        self._change()
        super().write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self._change()
        return super().create(key, data)

    def upload(self, path: Path, key: str) -> None:
        self._change()
        super().upload(path, key)

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._change()
            super().delete([key])


def test_an_erasure_that_dies_before_any_change_is_finished_by_the_next(tmp_path: Path) -> None:
    """P4 and P30: every cut ends in the same objects as no cut, and the report counts the same."""
    process = StageProcess(tmp_path)
    fill(process.store)
    process.summary(source=SOURCE)
    evaluated(process.store)
    asked = [{"prompt": PRIVATE, "response": "a"}, {"prompt": "somebody else", "response": "b"}]
    JudgeCache(process.store, NAMESPACE, judge={}).add([Entry(words, {"score": 1.0}) for words in asked])
    whole = {info.key: process.store.read(info.key) for info in process.store.list(NAMESPACE)}

    def restored(name: str) -> Path:
        for key, data in whole.items():
            (tmp_path / name / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / key).write_bytes(data)
        return tmp_path / name

    want_report = run_erasure(DirectoryStore(restored("calm")), tmp_path)
    want = everything(DirectoryStore(tmp_path / "calm"))
    cut = 0
    while True:
        root = restored(f"cut-{cut}")
        try:
            run_erasure(Mortal(root, cut), tmp_path)
            break
        except Killed:
            assert run_erasure(DirectoryStore(root), tmp_path) == want_report
            assert everything(DirectoryStore(root)) == want, cut
            cut += 1
    assert cut >= 16, (
        "record, plan, page, evaluation and their marks, the judge's cache, segments, snapshot, deletions, report"
    )


def test_what_judges_were_asked_about_the_person_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    """P30: a long text within another, and a short one that is all of it; others are not asked about again."""
    store = DirectoryStore(tmp_path / "store")
    log = fill(store)
    log.feedback("correction", prompt="hm", correction="login", subject="anna")
    log.flush()
    cache = JudgeCache(store, NAMESPACE, judge={"model": "m"})
    mixed = [{"prompt": f"User: {PRIVATE}", "response": "a"}, {"prompt": "somebody else", "response": "b, hm"}]
    cache.add([Entry(words, {"score": 0.5}) for words in mixed])
    cache.add([Entry({"prompt": "q", "response": " hm "}, {"score": 1.0})])
    report = run_erasure(store, tmp_path)
    assert (report.judged, report.left) == (2, 0)
    after = JudgeCache(store, NAMESPACE, judge={"model": "m"})
    assert [after.get(words) for words in mixed] == [None, {"score": 0.5}]
    assert not [key for key, data in everything(store).items() if "/judge/" in key and b"anna" in data]
    assert run_erasure(store, tmp_path).judged == 2, "told by every later proof, too"


def test_what_a_failed_snapshot_asked_about_the_persons_redacted_words_is_forgotten(tmp_path: Path) -> None:
    """P30: the judge saw them as a snapshot has them, and no snapshot is there to know them by."""
    store = DirectoryStore(tmp_path / "store")
    log = fill(store)
    log.feedback("correction", prompt="anna@example.org is who I am", correction="login", subject="anna")
    log.flush()
    cache = JudgeCache(store, NAMESPACE, judge={"model": "m"})
    asked = [{"prompt": f"{who} is who I am", "response": "r"} for who in ("[EMAIL]", "[PHONE]")]
    cache.add([Entry(words, {"score": 0.5}) for words in asked])
    assert run_erasure(store, tmp_path).judged == 1
    after = JudgeCache(store, NAMESPACE, judge={"model": "m"})
    assert [after.get(words) for words in asked] == [None, {"score": 0.5}]


def test_what_others_said_that_reads_like_the_persons_redacted_words_stays(tmp_path: Path) -> None:
    """P30: redaction makes texts of different people equal; answers, copies to be compared and votes of others stay."""
    store = DirectoryStore(tmp_path / "store")
    log = fill(store)
    log.feedback("correction", prompt="please write to anna@example.org about it", correction="login", subject="anna")
    theirs = "please write to [EMAIL] about it"
    evaluation = f"{NAMESPACE}/runs/run-1a2b3c4d/evaluate/1-pod/evaluation.json"
    store.write(evaluation, json.dumps({"answers": [{"prompt": theirs, "answer": "I will"}]}).encode())
    copied = log.interaction(input=theirs, response="I will", tags={"sample": "base"})
    log.feedback("correction", interactionId=copied, correction="login", subject="bert")
    log.flush()
    report = run_erasure(store, tmp_path)
    assert (report.artifacts, report.events, report.answers) == ((), 15, 1)
    assert theirs.encode() in store.read(evaluation)
    kept = list(LogReader(store, NAMESPACE).events())
    assert sum(each.get("input") == theirs for each in kept) == 1
    assert sum(each.get("subject") == stored_as("bert") for each in kept) == 2, "his vote on it, and what fill has"


def test_erasing_twice_removes_what_came_since_and_counts_both(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    log = fill(store)
    first = run_erasure(store, tmp_path)
    assert run_erasure(store, tmp_path) == first
    log.feedback("thumbs_up", prompt="anna asked again", response="x", subject="anna")
    log.flush()
    again = run_erasure(store, tmp_path)
    assert (again.id, again.events, again.segments) == (first.id, 15, 3)


def test_everybody_elses_events_survive_in_their_order(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    fill(store)
    before = [event["id"] for event in LogReader(store, NAMESPACE).events() if event.get("subject") != ANNA]
    run_erasure(store, tmp_path)
    after = [event["id"] for event in LogReader(store, NAMESPACE).events()]
    assert len(before) - 1 == len(after), "one anonymous correction was about an answer to her"
    assert after == [name for name in before if name in set(after)]


def test_erasing_somebody_who_was_never_here_changes_nothing_and_says_so(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    fill(store)
    before = everything(store)
    record = request_erasure(store, NAMESPACE, [stored_as("nobody")], now=START)
    report = erase(store, NAMESPACE, record, folder=tmp_path / "scratch", now=START)
    assert (report.events, report.snapshots) == (0, ())
    assert {key: data for key, data in everything(store).items() if "/erasures/" not in key} == before


def test_what_was_copied_from_an_evaluation_to_be_compared_goes_with_the_votes_on_it(tmp_path: Path) -> None:
    """P30: nobody's copy of the person's words, in the log and in a snapshot of what others said about it."""
    process = StageProcess(tmp_path)
    log = fill(process.store)
    for text in (PRIVATE, "somebody else asked this"):
        copied = log.interaction(input=f"they wrote: {text}", response="told", tags={"sample": "base"})
        log.feedback("correction", interactionId=copied, correction="login", subject="bert")
    log.flush()
    process.summary(source=SOURCE)
    report = run_erasure(process.store, tmp_path)
    objects = everything(process.store)
    assert [key for key, data in objects.items() if PRIVATE.encode() in data] == []
    assert sum(b"somebody else asked this" in data for data in objects.values()) == 2, "log and the new snapshot"
    assert (report.answers, report.events, report.snapshots[0].rows, report.left) == (2, 16, 14, 0)


def test_what_an_evaluation_quotes_of_the_person_is_blotted_out_and_the_artifact_still_loads(tmp_path: Path) -> None:
    """P30: answers and page; numbers, other people's answers, configuration and weights stay as they were."""
    store = DirectoryStore(tmp_path / "store")
    fill(store)
    artifact = evaluated(store)
    report = run_erasure(store, tmp_path)
    folder = "ns/runs/run-1a2b3c4d/evaluate/1-pod"
    assert report.artifacts == (f"{folder}/evaluation.json", f"{folder}/report.html")
    said = json.loads(store.read(f"{folder}/evaluation.json"))
    assert [each["prompt"] for each in said["answers"]] == ["[ERASED]", "somebody else asked this"]
    assert (said["labels"], said["metrics"]) == (["billing"], {"bleu1": 0.5})
    assert report.id.encode() in store.read(f"{folder}/report.html")
    assert store.read(f"{folder}/config.json") == json.dumps({"model": PRIVATE}).encode()
    policy = fetch_policy(store, artifact, namespace=NAMESPACE, into=tmp_path / "policy")
    assert not (policy / "ERASED.json").exists()
    ref = StageRef(stage=Stage.EVALUATE, prefix="ns/runs/run-1a2b3c4d/evaluate", input_digest="0" * 64)
    commit = open_committed(store, ref, namespace=NAMESPACE, into=tmp_path / "committed")
    assert commit.digest == artifact.digest
    assert run_erasure(store, tmp_path).artifacts == report.artifacts, "told by every later proof, too"
    # the mark excuses what the erasure wrote, and nothing else
    store.write(f"{folder}/report.html", b"<p>somebody else's page</p>")
    with pytest.raises(BadModelError, match="the digest is"):
        fetch_policy(store, artifact, namespace=NAMESPACE, into=tmp_path / "changed")
    with pytest.raises(StoreCorrupt, match=r"report\.html"):
        open_committed(store, ref, namespace=NAMESPACE, into=tmp_path / "changed")


def test_a_class_that_only_the_person_named_leaves_the_label_map(tmp_path: Path) -> None:
    process = StageProcess(tmp_path)
    log = fill(process.store)
    for number in range(30):
        log.feedback("correction", prompt=f"anna asked more {number}", correction="her own word", subject="anna")
    log.flush()
    process.summary(source=SOURCE)
    new = run_erasure(process.store, tmp_path).snapshots[0].replaced_by
    manifest = read_manifest(process.store, DatasetRef(digest=new, prefix=snapshot_prefix(NAMESPACE, new)))
    assert "her own word" not in manifest.label_map
    assert set(manifest.label_map) == {"billing", "login"}, "a and b were hers alone as well"


def test_the_files_that_are_looked_at_are_those_that_evaluations_write() -> None:
    """Their names stand in the report's package too, which the eraser's image cannot load."""
    assert (WORDY, PAGE) == ((EVALUATION_FILE, COMPARISON_FILE), REPORT_FILE)


def test_an_evaluation_that_cannot_be_read_is_named_and_there_is_no_proof(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    fill(store)
    store.write("ns/runs/run-1a2b3c4d/evaluate/1-pod/evaluation.json", b"{")
    with pytest.raises(StoreCorrupt, match=r"evaluation\.json: is no JSON .* restore or delete it"):
        run_erasure(store, tmp_path)
    assert len(pending(store, NAMESPACE)) == 1


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("anna asked privately", ("anna asked privately",)),
        ("  anna asked privately\n", ("anna asked privately",)),
        ("x" * 500, ("x" * 40,)),
        ("too short", ()),
        ("account recovery", ()),
        ("", ()),
    ],
    ids=["as it is", "with blanks", "long", "short", "part of a class's name", "empty"],
)
def test_a_text_is_found_again_by_its_beginning_unless_it_may_be_anybodys(text: str, want: tuple[str, ...]) -> None:
    assert beginnings_of([text], {"account recovery after theft"}) == want
