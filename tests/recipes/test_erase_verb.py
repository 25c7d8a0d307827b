"""`ratchet feedback erase` and its route: who is erased, what is marked, and the words of the proof."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet_cli.main import run_command
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.feedback_events import RING, LogBuilder, corrections, stored_as
from tests.gateway_app import running
from tests.recipes.stage_process import NAMESPACE, StageProcess

Command = Callable[..., tuple[int, str]]
SOURCE = {"feedback": {"policyRef": {"name": "router"}}}


def put(home: Path, plural: str, kind: str, name: str, status: dict[str, Any]) -> None:
    """Write an object as the operator leaves it."""
    folder = home / "objects" / plural / NAMESPACE
    folder.mkdir(parents=True, exist_ok=True)
    specs: dict[str, dict[str, Any]] = {
        "FeedbackDataset": {"type": "classification", "source": SOURCE},
        "RLPolicy": {"type": "classifier"},
    }
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"}
    body = {"apiVersion": "ratchet.dev/v1alpha1", "kind": kind, "metadata": metadata} | {
        "spec": specs.get(kind, {}),
        "status": status,
    }
    (folder / f"{name}.json").write_text(json.dumps(body))


def annotations_of(home: Path, plural: str, name: str) -> dict[str, str]:
    body = json.loads((home / "objects" / plural / NAMESPACE / f"{name}.json").read_text())
    found: dict[str, str] = body["metadata"].get("annotations", {})
    return found


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `ratchet feedback …` in a folder whose store holds feedback of Anna and of others."""
    home = tmp_path / ".ratchet"
    (home / "keys").mkdir(parents=True)
    for name, key in RING.keys.items():
        (home / "keys" / name).write_bytes(key)
    process = StageProcess(home)
    log = LogBuilder(process.store, namespace=NAMESPACE)
    corrections(log)
    for number in range(6):
        log.feedback("correction", prompt=f"anna asked {number}", correction="login", subject="anna")
    log.flush()
    snapshot = process.summary(source=SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ratchet_cli.screen.out.width", 300)
    learned = {"specDigest": "0" * 64, "image": "i", "codeVersion": "1", "datasetUri": "u", "storeUri": "s"}
    (home / "made").mkdir()
    artifact = {"uri": "file:///x", "digest": "a" * 64}
    start = {"uri": "file:///x", "digest": "a" * 64}
    put(home, "rltrainingruns", "RLTrainingRun", "first",
        {"resolved": learned | {"datasetDigest": snapshot["digest"]}, "artifact": artifact})  # fmt: skip
    put(home, "rltrainingruns", "RLTrainingRun", "second",
        {"resolved": learned | {"datasetDigest": "b" * 64, "start": start}})  # fmt: skip
    put(home, "rltrainingruns", "RLTrainingRun", "stranger", {"resolved": learned | {"datasetDigest": "b" * 64}})
    version = {"version": 1, "run": "first", "runUid": "u", "published": "2026-01-01T00:00:00Z"} | artifact
    put(home, "rlpolicies", "RLPolicy", "router",
        {"versions": [version | {"datasetDigest": snapshot["digest"]}], "nextVersion": 2})  # fmt: skip
    put(home, "feedbackdatasets", "FeedbackDataset", "log", {"snapshot": snapshot})
    capsys.readouterr()  # what the stage logged

    def run(*words: str) -> tuple[int, str]:
        code = run_command(["feedback", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_erasing_marks_what_learned_from_the_person_and_asks_for_new_snapshots(
    ratchet: Command, tmp_path: Path
) -> None:
    """P30: a run that started from an affected run's policy counts, too."""
    code, printed = ratchet("erase", "--subject", "anna", "-n", NAMESPACE, "--json")
    assert code == 0, printed
    report = json.loads(printed)
    assert (report["events"], report["runs"], report["versions"]) == (6, ["first", "second"], ["router@1"])
    assert (report["datasets"], report["left"], report["subjects"]) == (["log"], 0, [stored_as("anna")])
    home = tmp_path / ".ratchet"
    assert annotations_of(home, "rltrainingruns", "first") == {"ratchet.dev/erased": report["id"]}
    assert annotations_of(home, "rltrainingruns", "stranger") == {}
    assert annotations_of(home, "rlpolicies", "router") == {"ratchet.dev/erased": "1"}
    assert annotations_of(home, "feedbackdatasets", "log") == {"ratchet.dev/refresh": f"erasure-{report['id']}"}
    code, printed = ratchet("erase", "--subject", "anna", "-n", NAMESPACE)
    assert code == 0
    assert "runs first, second; versions router@1" in printed
    assert "6 events removed" in printed
    assert "anna" not in printed


def test_a_run_on_a_snapshot_that_was_rewritten_for_somebody_else_since_is_marked(ratchet: Command) -> None:
    """P30: the digest that the run learned from is not the one that this erasure rewrites."""
    reports = []
    for who in ("anna", "person-1@example.org", "person-2@example.org"):
        code, printed = ratchet("erase", "--subject", who, "-n", NAMESPACE, "--json")
        assert code == 0, printed
        reports.append(json.loads(printed))
    assert len({report["snapshots"][0]["digest"] for report in reports}) == 3
    assert [report["runs"] for report in reports] == [["first", "second"]] * 3
    assert [report["versions"] for report in reports] == [["router@1"]] * 3


def test_what_was_only_recorded_is_carried_out_later(ratchet: Command, tmp_path: Path) -> None:
    code, printed = ratchet("erase", "--subject", "anna", "--record-only", "-n", NAMESPACE)
    assert (code, "--pending" in printed) == (0, True)
    store = DirectoryStore(tmp_path / ".ratchet" / "store")
    assert b"anna asked" not in b"".join(store.read(i.key) for i in store.list(f"{NAMESPACE}/erasures"))
    assert "6 events removed" in ratchet("erase", "--pending", "-n", NAMESPACE)[1]
    assert "no erasure is pending" in ratchet("erase", "--pending", "-n", NAMESPACE)[1]


@pytest.mark.parametrize(
    ("words", "want_code", "want"),
    [
        ((), 2, "either --subject ID or --pending"),
        (("--subject", "anna", "--pending"), 2, "either --subject ID or --pending"),
        (("--subject", " "), 2, "--subject is blank"),
        (("--subject", "anna", "--keys", "nowhere"), 1, "key directory nowhere"),
        (("--pending", "--store", "ftp://x"), 2, "ftp://x"),
    ],
    ids=str,
)
def test_a_wrong_erasure_is_explained_and_changes_nothing(
    ratchet: Command, tmp_path: Path, words: tuple[str, ...], want_code: int, want: str
) -> None:
    code, printed = ratchet("erase", *words, "-n", NAMESPACE)
    assert (code, want in printed) == (want_code, True), printed
    assert not DirectoryStore(tmp_path / ".ratchet" / "store").list(f"{NAMESPACE}/erasures")


def test_a_request_over_http_hides_the_person_at_once_and_needs_the_role(tmp_path: Path) -> None:
    """P30 and P23: from the answer on no statistic counts the person, under any key that is kept."""
    with running(tmp_path) as gateway:
        for who in ("anna", "anna", "bert"):
            gateway.post("/v1/feedback", {"type": "rating", "rating": 5, "policy": "router", "subject": who})
        assert gateway.post("/v1/erasures", {"subject": "anna"}, token="trainer").status_code == 403
        assert gateway.post("/v1/erasures", {"subject": "anna"}, token=None).status_code == 401
        assert gateway.post("/v1/erasures", {"subject": ""}).status_code == 422
        assert gateway.get("/api/policies/router/feedback").json()["events"] == 3
        answers = [gateway.post("/v1/erasures", {"subject": "anna"}) for _ in range(2)]
        assert [(each.status_code, each.json()["status"]) for each in answers] == [(202, "recorded")] * 2
        name = answers[0].json()["id"]
        assert answers[1].json()["id"] == name
        stats = gateway.get("/api/policies/router/feedback").json()
        assert (stats["events"], stats["subjects"]) == (1, 1)
        assert gateway.get(f"/v1/erasures/{name}").json()["status"] == "recorded"
        assert gateway.get(f"/v1/erasures/{'0' * 32}").status_code == 404
        assert gateway.get("/v1/erasures/anna").status_code == 422
        stored = b"".join(gateway.store.read(each.key) for each in gateway.store.list("ns/erasures"))
    assert b"anna" not in stored
