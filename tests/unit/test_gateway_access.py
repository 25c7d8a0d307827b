"""Who may do what: roles of API keys, tokens that nobody knows, and settings that would let strangers in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.environment import SettingsError
from ratchet_gateway.auth import ApiKeys, BadKeyFile
from ratchet_gateway.settings import Settings
from tests.gateway_app import Clock, Gateway, running, write_keys

CALLS: dict[str, tuple[str, str, Any]] = {
    "feedback": ("POST", "/v1/feedback?dryRun=true", {"type": "thumbs_up", "policy": "router"}),
    "short form": ("POST", "/api/policies/feedback/router?dryRun=true", {"prompt": "q", "response": "r", "score": 1}),
    "interactions": ("POST", "/v1/interactions", {"policy": "router", "input": "q", "label": "x"}),
    "versions": ("GET", "/api/policies/router", None),
    "rollout": ("GET", "/api/policies/router/rollout", None),
    "stats": ("GET", "/api/policies/router/feedback", None),
    "review": ("GET", "/v1/review/router", None),
    "review of all": ("GET", "/v1/review", None),
    "review numbers": ("GET", "/v1/review/router/stats", None),
    "review data sets": ("GET", "/v1/review/router/datasets", None),
    "train": ("POST", "/api/policies/train_policy/router", {"dryRun": True}),
}
ALLOWED = {
    "app": {"feedback", "short form", "interactions"},
    "reader": {"versions", "rollout", "stats", "review", "review of all", "review numbers", "review data sets"},
    "trainer": {"train"},
    "all": set(CALLS),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway")) as made:
        yield made


def call(gateway: Gateway, name: str, token: str | None) -> Any:
    method, path, body = CALLS[name]
    return gateway.get(path, token=token) if method == "GET" else gateway.post(path, body, token=token)


@pytest.mark.parametrize("token", ALLOWED)
@pytest.mark.parametrize("name", CALLS)
def test_a_role_opens_its_own_routes_and_no_other(gateway: Gateway, name: str, token: str) -> None:
    """P23, the gateway's part: every cell of the matrix."""
    answer = call(gateway, name, token)
    if name in ALLOWED[token]:
        assert answer.status_code in (200, 400)  # 400: too few samples to train
        return
    assert answer.status_code == 403
    assert f"'{token}' has" in answer.json()["detail"]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("token", [None, "nobody", "", "x" * 5000])
def test_strangers_get_nothing_but_401(gateway: Gateway, name: str, token: str | None) -> None:
    answer = call(gateway, name, token)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("header", ["Basic a2V5OmtleQ==", "Bearer", "bearer  ", "key-of-all", "Bearer \xff"])
def test_a_junk_header_is_no_token(gateway: Gateway, header: str) -> None:
    answer = gateway.client.get("/api/policies/router", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401


def test_probes_and_metrics_need_no_token(gateway: Gateway) -> None:
    assert gateway.get("/healthz", token=None).text == "ok\n"
    assert gateway.get("/metrics", token=None).status_code == 200


def test_keys_are_read_again_when_the_file_changes_and_kept_when_it_breaks(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock=clock) as gateway:
        write_keys(tmp_path / "keys.json", {"new": ("read",)})
        assert call(gateway, "versions", "reader").status_code == 200, "looked at only every five seconds"
        clock.pass_(seconds=5)
        assert call(gateway, "versions", "new").status_code == 200
        assert call(gateway, "versions", "reader").status_code == 401
        (tmp_path / "keys.json").write_text("{")
        clock.pass_(seconds=5)
        assert call(gateway, "versions", "new").status_code == 200
        (tmp_path / "keys.json").unlink()
        clock.pass_(seconds=5)
        assert call(gateway, "versions", "new").status_code == 200


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{", "Invalid JSON"),
        ('{"keys":[{"name":"a","sha256":"00","roles":["ingest"]}]}', "keys.0.sha256"),
        ('{"keys":[{"name":"a","sha256":"%s","roles":["admin"]}]}' % ("0" * 64), "keys.0.roles"),
        ('{"keys":[{"name":"a","key":"plain"}]}', "keys.0"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_explained(tmp_path: Path, text: str, want: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(BadKeyFile, match=want):
        ApiKeys(tmp_path / "keys.json", lambda: 0.0)


ENV = {
    "RATCHET_STORE_URI": "file:///data",
    "RATCHET_GATEWAY_NAMESPACE": "ns",
    "RATCHET_GATEWAY_SIGNING_KEYS": "/keys",
    "RATCHET_GATEWAY_KEYS_FILE": "/keys.json",
}


def test_settings_come_from_the_environment() -> None:
    more = {"RATCHET_GATEWAY_COMMIT_MILLISECONDS": "50", "RATCHET_GATEWAY_POLICIES": "a, b"}
    settings = Settings.from_env(ENV | more)
    assert (settings.log.window_seconds, settings.policies, settings.auth) == (0.05, ("a", "b"), ("keys",))


@pytest.mark.parametrize(
    ("more", "want"),
    [
        ({"RATCHET_STORE_URI": ""}, "RATCHET_STORE_URI is not set"),
        ({"RATCHET_GATEWAY_NAMESPACE": " "}, "RATCHET_GATEWAY_NAMESPACE is not set"),
        ({"RATCHET_GATEWAY_KEYS_FILE": ""}, "name the JSON file of API keys"),
        ({"RATCHET_GATEWAY_PORT": "http"}, "RATCHET_GATEWAY_PORT='http' is not a number"),
        ({"RATCHET_GATEWAY_COLLECTION_RATE": "1.5"}, "out of bounds; set a number between 0 and 1"),
        ({"RATCHET_GATEWAY_COLLECTION_RATE": "nan"}, "out of bounds"),
        ({"RATCHET_GATEWAY_AUTH": "basic"}, "set one of keys, kubernetes, none"),
        ({"RATCHET_GATEWAY_AUTH": "none", "RATCHET_GATEWAY_HOST": "0.0.0.0"}, "listens on loopback only"),
        ({"RATCHET_GATEWAY_AUTH": "none", "RATCHET_GATEWAY_HOST": "gateway.example"}, "listens on loopback only"),
        ({"RATCHET_GATEWAY_AUTH": "none,keys"}, "none stands alone"),
        ({"RATCHET_GATEWAY_REQUIRE_INTERACTION": "perhaps"}, "set true or false"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_used_is_named(more: dict[str, str], want: str) -> None:
    with pytest.raises(SettingsError, match=want):
        Settings.from_env(ENV | more)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_without_authentication_loopback_is_fine(host: str) -> None:
    settings = Settings.from_env(ENV | {"RATCHET_GATEWAY_AUTH": "none", "RATCHET_GATEWAY_HOST": host})
    assert settings.auth == ("none",)
