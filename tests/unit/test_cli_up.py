"""`ratchet up` lets nobody in by mistake: where it listens, whom it asks for a token, and which requests it refuses."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.main import run_command
from ratchet_cli.up_gateway import Access, signing_keys
from ratchet_cli.up_verb import listen
from ratchet_gateway.loopback import foreign
from tests.gateway_app import make_app, write_keys


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_an_address_that_others_reach_needs_api_keys(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="without API keys the gateway listens on loopback only"):
        Access.of(host, None)
    assert Access.of(host, write_keys(tmp_path / "keys.json")).words.startswith("API keys of")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert Access.of(host, None).keys is None


@pytest.mark.parametrize(
    ("words", "code", "want"),
    [
        (("--host", "0.0.0.0"), 2, "--host '0.0.0.0': without API keys"),
        (("--keys", "absent.json"), 2, "key file absent.json: No such file"),
        (("--keys", "junk.json"), 2, "key file junk.json: keys"),
        (("--host", "192.0.2.1", "--keys", "keys.json", "--port", "0"), 2, "is no address of this machine"),
        (("--host", "a" * 70, "--keys", "keys.json"), 2, "give an address of this machine"),
        (("--port", "70000"), 2, "'--port'"),
        (("--port", "web"), 2, "'--port': Input should be a valid integer"),
        (("--store", "ftp://x"), 2, "RATCHET_STORE 'ftp://x' is no store"),
        (("--home", "junk.json"), 2, "is a file; name a directory"),
        (("-f", "absent.yaml"), 1, "absent.yaml: cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_is_explained_and_leaves_nothing_running(
    words: tuple[str, ...],
    code: int,
    want: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """P39, on the command line."""
    monkeypatch.chdir(tmp_path)
    for name in ("RATCHET_HOME", "RATCHET_STORE"):
        monkeypatch.delenv(name, raising=False)
    write_keys(tmp_path / "keys.json")
    (tmp_path / "junk.json").write_text('{"keyz": []}')
    assert run_command(["up", *words]) == code
    assert want in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CliError, match=f"another program listens on 127.0.0.1:{port}; choose another --port"):
            listen("127.0.0.1", port)
        assert run_command(["up", "--home", str(tmp_path / "home"), "--port", str(port)]) == 1
    assert f"--port {port}: another program" in capsys.readouterr().err


def test_the_signing_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    folder = signing_keys(tmp_path)
    (key,) = folder.iterdir()
    assert (stat.S_IMODE(key.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)
    made = key.read_bytes()
    assert len(bytes.fromhex(made.decode())) == 32
    assert [(each.name, each.read_bytes()) for each in signing_keys(tmp_path).iterdir()] == [(key.name, made)]


HOSTS = {"127.0.0.1:8000": True, "localhost:8000": True, "[::1]:8000": True, "[::1]": True, "127.0.0.1": True,
         "evil.example": False, "evil.example:8000": False, "127.0.0.1.evil.example": False, "": False}  # fmt: skip


@pytest.mark.parametrize(("host", "want"), HOSTS.items())
def test_only_loopback_names_are_answered_without_a_token(host: str, want: bool) -> None:
    """A name that somebody pointed to 127.0.0.1 (DNS rebinding) is none."""
    assert (foreign(Headers({"host": host})) == "") == want


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9000", "https://127.0.0.1:8000", ""]
)
def test_a_request_that_another_website_sends_is_refused(origin: str) -> None:
    assert "takes nothing from other websites" in foreign(Headers({"host": "127.0.0.1:8000", "origin": origin}))


def test_the_gateways_own_pages_and_programs_are_let_in() -> None:
    assert foreign(Headers({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"})) == ""
    assert foreign(Headers({"host": "127.0.0.1:8000"})) == ""


@pytest.fixture
def open_gateway(tmp_path: Path) -> Iterator[TestClient]:
    app, _ = make_app(tmp_path, auth=("none",))
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


def test_a_refused_website_stores_nothing_and_is_counted(open_gateway: TestClient) -> None:
    event = {"type": "thumbs_up", "policy": "router"}
    answer = open_gateway.post("/v1/feedback", json=event, headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert 'ratchet_gateway_refused_total{reason="origin"} 1.0' in open_gateway.get("/metrics").text
    assert "ratchet_gateway_events_total{" not in open_gateway.get("/metrics").text
