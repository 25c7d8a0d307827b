"""Every verb, wrongly used: one readable message, the right exit code, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from ratchet_api.conditions import Reason
from ratchet_api.kinds import RL_POLICY
from ratchet_api.names import ANNOTATION_PROMOTE
from ratchet_api.policy import RLPolicySpec
from ratchet_api.stage import Stage
from ratchet_cli.main import commands, run_command
from ratchet_operator.cluster.local import LocalCluster

RUN = """
apiVersion: ratchet.dev/v1alpha1
kind: RLTrainingRun
metadata: {name: r}
spec:
  policyType: classifier
  baseModel: {uri: "store://m", sha256: "%s"}
  datasetRef: {name: missing}
""" % ("0" * 64)

RUN_FROM_LOG = (
    RUN.replace("missing", "there")
    + "  mode: supervised_then_rl\n"
    + """\
  stages: {rl: {datasetRef: {name: nowhere}, rewards: [{type: feedback}]}}
---
apiVersion: ratchet.dev/v1alpha1
kind: FeedbackDataset
metadata: {name: there}
spec: {type: classification, source: {objects: [{uri: "store://d.csv"}]}}
"""
)

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in an empty folder without kubeconfig; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("RATCHET_HOME", "RATCHET_STORE", "RATCHET_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent-kubeconfig"))
    monkeypatch.setattr("ratchet_cli.screen.out.width", 300)
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "from-log.yaml").write_text(RUN_FROM_LOG)
    (tmp_path / "file").write_text("x")

    def command(*words: str) -> tuple[int, str]:
        code = run_command(list(words))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return command


def made_home(path: Path) -> None:
    with LocalCluster(path / ".ratchet") as cluster:
        body = RL_POLICY.manifest("p", RLPolicySpec(type="classifier"), namespace="default")
        assert cluster.submit(body) == "created"


@pytest.mark.parametrize("verb", sorted(command.name or "" for command in commands.registered_commands))
def test_help_of_each_verb_shows_every_word_of_each_options_sentence(ratchet: Command, verb: str) -> None:
    code, printed = ratchet(verb, "--help")
    assert code == 0
    shown = set(printed.split())  # whatever the width breaks, words stay whole
    for option in get_command(commands).commands[verb].params:  # type: ignore[attr-defined]  # a group
        assert set((option.help or "").split()) <= shown, option.name


BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such verb": (("trian",), 2, "No such command 'trian'"),
    "no such option": (("lint", "--frob"), 2, "No such option"),
    "lint without files": (("lint",), 2, "Missing option '-f'"),
    "lint of nothing": (("lint", "-f", "absent.yaml"), 1, "absent.yaml: cannot be read"),
    "run of nothing": (("run", "-f", "absent.yaml"), 1, "absent.yaml: cannot be read"),
    "run without its dataset": (("run", "-f", "run.yaml"), 1, "no FeedbackDataset 'missing'"),
    "run without its log": (
        ("run", "-f", "from-log.yaml"),
        1,
        "spec.stages.rl.datasetRef.name: no FeedbackDataset 'nowhere'",
    ),
    "home is a file": (("run", "-f", "run.yaml", "--home", "file"), 2, "is a file; name a directory"),
    "store of no kind": (("run", "-f", "run.yaml", "--store", "ftp://x"), 2, "RATCHET_STORE 'ftp://x' is no store"),
    "log level of no kind": (("run", "-f", "run.yaml", "--log-level", "loud"), 2, "use one of debug, info"),
    "submit without a cluster": (("submit", "-f", "run.yaml"), 1, "no usable kubeconfig"),
    "get without a cluster": (("get",), 1, "no usable kubeconfig"),
    "get of no kind": (("get", "pods"), 2, "kind 'pods' is unknown; use one of: dataset (fbd)"),
    "get where nothing ran": (("get", "--local"), 4, "nothing was run in"),
    "local and context": (("get", "--local", "--context", "c"), 2, "choose one"),
    "status of an unknown run": (("status", "nope", "--local"), 4, "RLTrainingRun 'nope' is not in namespace"),
    "status of half a name": (("status", "run/", "--local"), 2, "names no object"),
    "watch of an unknown run": (("watch", "nope", "--local"), 4, "there is none"),
    "logs of an unknown stage": (("logs", "r", "reward", "--local"), 2, "stage 'reward' is none of a"),
    "logs of an unknown run": (("logs", "nope", "--local"), 4, "is not in namespace"),
    "promote of an unknown policy": (("promote", "nope", "1", "--local"), 4, "there are: p"),
    "promote of no version": (("promote", "p", "0", "--local"), 2, "version '0' must be a number from 1 on"),
    "promote of words": (("promote", "p", "first", "--local"), 2, "version 'first' must be a number from 1 on"),
    "promote where none is": (("promote", "p", "3", "--local"), 4, "has no version 3; it has none yet"),
    "suspend of an unknown run": (("suspend", "nope", "--local"), 4, "is not in namespace"),
    "resume of an unknown run": (("resume", "nope", "--local"), 4, "is not in namespace"),
    "delete of an unknown run": (("delete", "run", "nope", "--local"), 4, "is not in namespace"),
    "delete of no kind": (("delete", "job", "x", "--local"), 2, "kind 'job' is unknown"),
    "explain of no reason": (("explain", "BadModle"), 4, "did you mean BadModel"),
    "explain of no code": (("explain", "999"), 4, "codes are 0 to 255"),
    "explain of a raised two": (("explain", "²"), 4, "is none of Ratchet's"),
    "digest of nothing": (("digest", "absent"), 4, "absent is no folder"),
    "digest of a folder without a model": (("digest", "."), 1, "no *.safetensors"),
    "gguf of nothing": (("gguf", "absent.gguf", "-o", "base"), 1, "absent.gguf: is no file; name one that ends in"),
    "gguf into nothing": (("gguf", "run.yaml"), 2, "Missing option '-o'"),
    "put of nothing": (("put", "absent", "store://x"), 4, "absent does not exist"),
    "put to a plain path": (("put", "file", "x"), 2, "target 'x' must be store://PATH"),
    "put to the root": (("put", "file", "store://"), 2, "must be store://PATH"),
    "put outside the prefix": (("put", "file", "store://../x"), 1, "'..' is not allowed"),
    "put with two stores": (("put", "file", "store://x", "--cluster", "--store", "d"), 2, "choose one"),
    "demo into a bucket": (("demo", "--store", "s3://b"), 1, "unset RATCHET_STORE"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "want_code", "want"), BAD.values(), ids=BAD.keys())
def test_a_wrong_command_is_explained(
    ratchet: Command, tmp_path: Path, words: tuple[str, ...], want_code: int, want: str
) -> None:
    """P39, on the command line."""
    if "--local" in words and "nothing was run" not in want:
        made_home(tmp_path)
    code, printed = ratchet(*words)
    assert want in printed
    assert code == want_code
    assert "Traceback" not in printed


def test_an_unforeseen_error_is_one_line_unless_more_is_asked_for(
    ratchet: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("ratchet_cli.checks.load", broken)
    code, printed = ratchet("lint", "-f", "run.yaml")
    assert (code, len(printed.splitlines())) == (1, 1)
    assert "ZeroDivisionError: a defect" in printed
    monkeypatch.setenv("RATCHET_LOG_LEVEL", "debug")
    assert "Traceback" in ratchet("lint", "-f", "run.yaml")[1]


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
def test_every_reason_can_be_explained(ratchet: Command, reason: Reason) -> None:
    """P39: whatever stands in a condition, `ratchet explain` knows it."""
    code, printed = ratchet("explain", reason.value.upper())
    assert code == 0
    assert printed.startswith(reason.value)
    assert "next" in printed


def test_explain_lists_every_reason(ratchet: Command) -> None:
    _, printed = ratchet("explain")
    assert {line.split()[0] for line in printed.splitlines()} == {reason.value for reason in Reason}


def test_put_fills_the_place_that_manifests_name(ratchet: Command, tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "rows.csv").write_text("text,label\n")
    (tmp_path / "folder" / ".hidden").write_text("no")
    assert ratchet("put", "folder", "store://data", "-n", "team")[0] == 0
    assert ratchet("put", "file", "store://single/")[0] == 0
    store = tmp_path / ".ratchet" / "store"
    copied = sorted(str(p.relative_to(store)) for p in store.rglob("*") if p.is_file())
    assert copied == ["default/single/file", "team/data/deep/rows.csv"]


def test_the_environment_and_the_flags_name_home_and_store_and_flags_win(
    ratchet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_STORE", str(tmp_path / "by-env"))
    ratchet("put", "file", "store://x")
    ratchet("put", "file", "store://x", "--store", str(tmp_path / "by-flag"))
    assert (tmp_path / "by-env/default/x").is_file()
    assert (tmp_path / "by-flag/default/x").is_file()


def test_ratchet_home_makes_verbs_local(ratchet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_home(tmp_path)
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / ".ratchet"))
    code, printed = ratchet("get", "policy")
    assert (code, printed.split()[:1]) == (0, ["NAME"])
    assert ratchet("get", "policy", "--cluster")[0] == 1


def test_a_version_that_was_asked_for_before_it_existed_is_promoted_when_asked_for_again(
    ratchet: Command, tmp_path: Path
) -> None:
    versions = [
        {"version": n, "run": f"r{n}", "runUid": f"u{n}", "uri": "file:///a", "digest": "a" * 64,
         "datasetDigest": "b" * 64, "codeVersion": "0.1", "published": "2026-01-01T00:00:00Z",
         "baseModel": {"uri": "store://models/tiny", "sha256": "c" * 64}}
        for n in (1, 2)
    ]  # fmt: skip
    with LocalCluster(tmp_path / ".ratchet") as cluster:
        body = RL_POLICY.manifest("p", RLPolicySpec(type="classifier"), namespace="default")
        cluster.submit({**body, "metadata": {**body["metadata"], "annotations": {ANNOTATION_PROMOTE: "2"}}})
        status = {"versions": versions, "champion": 1, "nextVersion": 3, "observedPromote": "2"}
        cluster.objects.set_status("rlpolicies", "default", "p", status)
    printed = ratchet("status", "policy/p", "--local")[1]
    assert f"version 1: of store://models/tiny ({'c' * 12}), snapshot {'b' * 12}, code 0.1\n" in printed
    assert "version 2: of" not in printed, "nobody gets it"
    assert ratchet("promote", "p", "v2", "--local") == (0, "version 2 is champion of p (before: 1)\n")


@pytest.mark.parametrize("stage", Stage)
def test_logs_knows_every_stage(ratchet: Command, tmp_path: Path, stage: Stage) -> None:
    made_home(tmp_path)
    name = "dataset/d" if stage is Stage.SNAPSHOT else "r"
    code, printed = ratchet("logs", name, stage.value, "--local")
    assert code == 4
    assert "is not in namespace" in printed


def test_watching_a_run_that_failed_ends_with_1(ratchet: Command, tmp_path: Path) -> None:
    (tmp_path / ".ratchet" / "objects" / "rltrainingruns" / "default").mkdir(parents=True)
    body = {"kind": "RLTrainingRun", "metadata": {"name": "r", "namespace": "default"}, "status": {"state": "Failed"}}
    (tmp_path / ".ratchet" / "objects" / "rltrainingruns" / "default" / "r.json").write_text(json.dumps(body))
    assert ratchet("watch", "r", "--local") == (1, "r: Failed\n")


def test_a_local_object_can_be_deleted(ratchet: Command, tmp_path: Path) -> None:
    made_home(tmp_path)
    assert ratchet("delete", "policy", "p", "--local")[0] == 0
    assert "nothing in namespace" in ratchet("get", "--local")[1]
