"""The gateway's settings, read once from the environment that the chart sets.

Decides names, defaults and bounds of every variable of the gateway. Never reads the store or a cluster; `from_env` is
called once in `__main__`, tests build `Settings` directly.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from ratchet_api.environment import Environment, SettingsError
from ratchet_api.stage import StoreConfig
from ratchet_gateway.log.writer import LogSettings

AUTH_MODES = ("keys", "kubernetes", "none")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an administrator may decide about the gateway.

    Attributes:
        store: where the log is.
        namespace: whose policies and feedback these are.
        signing_keys: directory of the keys for interaction ids and subjects.
        auth: how callers are known: `keys` (a file), `kubernetes` (TokenReview), or `none` on loopback alone.
        keys_file: JSON file of API keys, for `keys`.
        policies: fixed names of policies; None = the RLPolicies of the namespace.
        host: address to listen on.
        port: 0 = any free one.
        collection_rate: share of interactions whose texts are kept.
        interaction_lifetime: how long an answer may be rated.
        require_interaction: refuse feedback that cites no signed interaction id.
        key_events_per_minute: events that one API key may send.
        subject_events_per_minute: events of feedback that one subject may send; its recorded answers do not count.
        max_body_bytes: larger requests are refused unread.
        follow_seconds: how often segments of other processes are looked for; 0 = never, nor at the start.
        ask_seconds: how often a run is looked at for somebody who waits for it.
        analyst_url: who counts the trials of these policies; empty = nobody.
        drain_seconds: how long a clean end waits for the store.
        log: batching and bounds of the log.
        log_level: debug, info, warning or error.
    """

    store: StoreConfig
    namespace: str
    signing_keys: Path
    auth: tuple[str, ...] = ("keys",)
    keys_file: Path | None = None
    policies: tuple[str, ...] | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    collection_rate: float = 1.0
    interaction_lifetime: timedelta = timedelta(days=30)
    require_interaction: bool = False
    key_events_per_minute: int = 60_000
    subject_events_per_minute: int = 60
    max_body_bytes: int = 1 << 20
    follow_seconds: float = 2.0
    ask_seconds: float = 2.0
    analyst_url: str = ""
    drain_seconds: float = 20.0
    log: LogSettings = field(default_factory=LogSettings)
    log_level: str = "info"

    def __post_init__(self) -> None:
        """Refuse combinations that would let strangers in or that nobody can pass.

        Raises:
            SettingsError: the combination and its remedy.
        """
        if "none" in self.auth:
            if len(self.auth) > 1:
                raise SettingsError(f"RATCHET_GATEWAY_AUTH={','.join(self.auth)!r}: none stands alone")
            if not is_loopback(self.host):
                raise SettingsError(
                    f"RATCHET_GATEWAY_AUTH='none' with RATCHET_GATEWAY_HOST={self.host!r}: without authentication the "
                    "gateway listens on loopback only; set the host to 127.0.0.1, or auth to keys or kubernetes"
                )
        if "keys" in self.auth and self.keys_file is None:
            raise SettingsError("RATCHET_GATEWAY_KEYS_FILE is not set; name the JSON file of API keys")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables; an absent or empty one means the default.

        Raises:
            SettingsError: a value cannot be used, or a needed one is missing.
        """
        read = Environment(environ)
        return cls(
            store=read.store(),
            namespace=read.needed("RATCHET_GATEWAY_NAMESPACE", "the namespace of its policies"),
            signing_keys=Path(read.needed("RATCHET_GATEWAY_SIGNING_KEYS", "the directory of the mounted signing keys")),
            auth=read.choices("RATCHET_GATEWAY_AUTH", "keys", AUTH_MODES),
            keys_file=read.path("RATCHET_GATEWAY_KEYS_FILE"),
            policies=read.words("RATCHET_GATEWAY_POLICIES") or None,
            host=read.text("RATCHET_GATEWAY_HOST", "127.0.0.1"),
            port=int(read.number("RATCHET_GATEWAY_PORT", 8000, 0, 65_535)),
            collection_rate=read.number("RATCHET_GATEWAY_COLLECTION_RATE", 1, 0, 1),
            interaction_lifetime=timedelta(hours=read.number("RATCHET_GATEWAY_INTERACTION_HOURS", 720, 0.01, 8760)),
            require_interaction=read.flag("RATCHET_GATEWAY_REQUIRE_INTERACTION"),
            key_events_per_minute=int(read.number("RATCHET_GATEWAY_KEY_EVENTS_PER_MINUTE", 60_000, 1, 1e9)),
            subject_events_per_minute=int(read.number("RATCHET_GATEWAY_SUBJECT_EVENTS_PER_MINUTE", 60, 1, 1e9)),
            max_body_bytes=int(read.number("RATCHET_GATEWAY_MAX_BODY_BYTES", 1 << 20, 1024, 16 << 20)),
            follow_seconds=read.number("RATCHET_GATEWAY_FOLLOW_SECONDS", 2, 0, 60),
            analyst_url=_url(read, "RATCHET_GATEWAY_ANALYST_URL"),
            drain_seconds=read.number("RATCHET_GATEWAY_DRAIN_SECONDS", 20, 0.1, 600),
            log=LogSettings(
                window_seconds=read.number("RATCHET_GATEWAY_COMMIT_MILLISECONDS", 100, 0, 1000) / 1000,
                segment_bytes=int(read.number("RATCHET_GATEWAY_SEGMENT_BYTES", 1 << 20, 1024, 8 << 20)),
                queue_bytes=int(read.number("RATCHET_GATEWAY_QUEUE_BYTES", 32 << 20, 1 << 20, 1 << 30)),
                patience_seconds=read.number("RATCHET_GATEWAY_PATIENCE_SECONDS", 15, 0.1, 300),
            ),
            log_level=read.choice("RATCHET_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        )


def _url(read: Environment, name: str) -> str:
    text = read.text(name).rstrip("/")
    if text and not re.fullmatch(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?", text):
        raise SettingsError(f"{name}={text!r} is no URL without a path; set one such as http://ratchet-analyst:8090")
    return text


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
