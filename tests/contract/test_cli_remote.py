"""The command's cluster half against a real API server: what is sent, what is shown, how refusals are worded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet_api.kinds import RL_POLICY, RL_TRAINING_RUN, Kind
from ratchet_cli.main import run_command
from ratchet_cli.remote import RemoteBackend
from tests.controlplane import ControlPlane

pytestmark = pytest.mark.cluster
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXAMPLE = str(EXAMPLES / "01-support-router")


class Terminal:
    """Runs command lines against the server, in a namespace of the test's own."""

    def __init__(self, plane: ControlPlane, namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.plane = plane
        self.namespace = namespace
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str]:
        """Run one command; returns exit code and all that was printed."""
        code = run_command([*words, "-n", self.namespace])
        printed = self._capsys.readouterr()
        return code, printed.out + printed.err

    def submit_example(self) -> str:
        """Apply the example; returns what was printed."""
        code, printed = self("submit", "-f", EXAMPLE)
        assert code == 0, printed
        return printed

    def server_side(self, kind: Kind[Any, Any]) -> dict[str, Any]:
        """Read the example's object from the server."""
        found: dict[str, Any] = self.plane.request("GET", f"{self.path(kind)}/support-router")
        return found

    def path(self, kind: Kind[Any, Any]) -> str:
        """URL path of the kind in the namespace."""
        return f"/apis/ratchet.dev/v1alpha1/namespaces/{self.namespace}/{kind.plural}"


@pytest.fixture
def ratchet(
    control_plane: ControlPlane,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    """The command line of an admin."""
    namespace = "cli-" + request.node.name.replace("_", "-")[5:50].strip("-")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    control_plane.request("POST", "/api/v1/namespaces", body)
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig()))
    monkeypatch.delenv("RATCHET_HOME", raising=False)
    monkeypatch.setattr("ratchet_cli.screen.out.width", 300)
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)
    for module in ("objects", "rollout_verbs"):
        monkeypatch.setattr(f"ratchet_cli.{module}.POLL_SECONDS", 0.01)
    return Terminal(control_plane, namespace, capsys)


def test_submit_applies_and_says_what_changed(ratchet: Terminal) -> None:
    assert ratchet.submit_example().count("created") == 3
    assert ratchet.submit_example().count("unchanged") == 3
    run = ratchet.server_side(RL_TRAINING_RUN)
    assert run["spec"]["stages"]["supervised"]["learningRate"] == 0.001
    assert run["metadata"]["managedFields"][0]["manager"] == "ratchet-cli"


def test_get_and_status_show_what_the_server_has(ratchet: Terminal) -> None:
    ratchet.submit_example()
    code, printed = ratchet("get", "run")
    assert (code, printed.split()[0]) == (0, "NAME")
    assert "support-router" in printed
    assert "RLPolicy support-router" in ratchet("status")[1]


def test_suspend_and_resume_change_only_the_one_field(ratchet: Terminal) -> None:
    ratchet.submit_example()
    before = ratchet.server_side(RL_TRAINING_RUN)["spec"]
    assert ratchet("suspend", "support-router")[0] == 0
    assert ratchet.server_side(RL_TRAINING_RUN)["spec"] == {**before, "suspend": True}
    assert ratchet("resume", "support-router")[0] == 0
    assert ratchet.server_side(RL_TRAINING_RUN)["spec"] == {
        **before,
        "suspend": False,
    }


def test_promote_asks_by_annotation_and_only_for_versions_that_exist(
    control_plane: ControlPlane, ratchet: Terminal
) -> None:
    ratchet.submit_example()
    assert "has no version 1; it has none yet" in ratchet("promote", "support-router", "1")[1]
    policy = ratchet.server_side(RL_POLICY)
    row = {"version": 1, "run": "r", "runUid": "u", "uri": "s3://b/k", "published": "2026-01-01T00:00:00Z"}
    row |= {"digest": "d" * 64, "datasetDigest": "e" * 64}
    path = f"{ratchet.path(RL_POLICY)}/support-router/status"
    ratchet.plane.request("PUT", path, policy | {"status": {"versions": [row]}})
    code, printed = ratchet("promote", "support-router", "v1")
    assert code == 0
    assert "the operator has not answered yet" in printed
    changed = ratchet.server_side(RL_POLICY)
    assert changed["metadata"]["annotations"]["ratchet.dev/promote"] == "1"
    told, _, who = changed["metadata"]["annotations"]["ratchet.dev/asked-by"].partition(" ")
    assert (told, who) == ("1", RemoteBackend(namespace=ratchet.namespace).who())
    assert who, "the API server has a name for whoever it lets in"


def test_delete_removes_the_object(ratchet: Terminal) -> None:
    ratchet.submit_example()
    assert ratchet("delete", "run", "support-router")[0] == 0
    code, printed = ratchet("delete", "run", "support-router")
    assert code == 4
    assert "there is none" in printed


def test_every_example_is_taken_as_it_stands(ratchet: Terminal) -> None:
    folders = sorted(EXAMPLES.iterdir())
    assert len(folders) >= 2
    for folder in folders:
        code, printed = ratchet("submit", "-f", str(folder))
        assert code == 0, printed
        objects = [each for file in folder.glob("*.yaml") for each in yaml.safe_load_all(file.read_text())]
        assert printed.count("created") == len(objects)


def test_a_namespace_that_does_not_exist_is_named(ratchet: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["submit", "-f", EXAMPLE, "-n", "nowhere"]) == 4
    assert 'namespaces "nowhere" not found' in capsys.readouterr().err


def test_logs_of_a_run_without_pods_say_so(ratchet: Terminal) -> None:
    ratchet.submit_example()
    code, printed = ratchet("logs", "support-router", "supervised")
    assert code == 4
    assert "no pod of stage 'supervised'" in printed


def test_an_unknown_context_lists_the_known_ones(ratchet: Terminal) -> None:
    code, printed = ratchet("get", "--context", "nope")
    assert code == 1
    assert "context 'nope' is not in the kubeconfig; it has: " in printed


def test_a_user_without_rights_is_told_which_one_is_missing(
    control_plane: ControlPlane, ratchet: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig("watcher")))
    code, printed = ratchet("get", "run")
    assert code == 1
    assert 'cannot list resource "rltrainingruns"' in printed
    assert "ask for access" in printed


def test_a_server_that_does_not_answer_is_named(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf = tmp_path / "kubeconfig"
    deaf.write_text(control_plane.kubeconfig().read_text().replace(control_plane.url, "https://127.0.0.1:9"))
    monkeypatch.setenv("KUBECONFIG", str(deaf))
    assert run_command(["get", "run", "--cluster"]) == 1
    printed = capsys.readouterr().err
    assert "does not answer at https://127.0.0.1:9" in printed
    assert "Traceback" not in printed


def test_the_settings_of_a_namespaces_store_can_be_read(ratchet: Terminal, tmp_path: Path) -> None:
    """`put --cluster` finds the store where the operator does."""
    (tmp_path / "rows.csv").write_text("text,label\n")
    code, printed = ratchet("put", str(tmp_path / "rows.csv"), "store://rows.csv", "--cluster")
    assert code == 4
    assert "has no ConfigMap ratchet-store" in printed
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ratchet-store"}}
    settings["data"] = {"uri": (tmp_path / "store").as_uri()}
    ratchet.plane.request("POST", f"/api/v1/namespaces/{ratchet.namespace}/configmaps", settings)
    assert ratchet("put", str(tmp_path / "rows.csv"), "store://rows.csv", "--cluster")[0] == 0
    assert (tmp_path / "store" / ratchet.namespace / "rows.csv").is_file()
    assert RemoteBackend(namespace=ratchet.namespace).read("secrets", "absent") is None
