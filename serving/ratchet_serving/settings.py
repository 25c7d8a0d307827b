"""The policy server's settings, read once from the environment that its Deployment sets.

Decides names, defaults and bounds of every variable. Never reads the store; `from_env` is called once in `__main__`,
tests and `ratchet serve` build `Settings` directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from ratchet_api.attempts import Artifact
from ratchet_api.environment import Environment, SettingsError
from ratchet_api.generation import Generation, KeptGeneration
from ratchet_api.stage import StoreConfig
from ratchet_serving.batching import BatchSettings
from ratchet_serving.generation.limits import StreamSettings

LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that may be decided about a server besides what it serves.

    Attributes:
        policy: name of the RLPolicy, as records and answers give it.
        version: of it; None = not published.
        host: address to listen on.
        port: 0 = any free one.
        batch: how a classifier's requests are put together.
        max_batch_tokens: of one pass of a classifier, padding included.
        streams: how a generator's answers grow together.
        generation: how a request is answered that does not say so itself.
        max_body_bytes: larger requests are refused unread.
        behind_router: whether x-ratchet-arm and x-ratchet-propensity come from our router, which overwrites what
            clients send; without it they are ignored.
        signing_keys: directory of the keys of interaction ids; None = answers carry none.
        interaction_lifetime: how long an answer may be rated.
        gateway_url: where answers are recorded; None = nowhere.
        gateway_token_file: of the gateway's API key or token; None = it asks for none.
        record_buffer: records that may wait for the gateway.
        drain_seconds: how long a clean end may take.
        engine_url: of vLLM's server beside this one, which makes a generator's tokens; None = they are made here.
        log_level: debug, info, warning or error.
    """

    policy: str
    version: int | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    batch: BatchSettings = field(default_factory=BatchSettings)
    max_batch_tokens: int = 4096
    streams: StreamSettings = field(default_factory=StreamSettings)
    generation: KeptGeneration = field(default_factory=KeptGeneration)
    max_body_bytes: int = 1 << 20
    behind_router: bool = False
    signing_keys: Path | None = None
    interaction_lifetime: timedelta = timedelta(days=30)
    gateway_url: str | None = None
    gateway_token_file: Path | None = None
    record_buffer: int = 20_000
    drain_seconds: float = 20.0
    engine_url: str | None = None
    log_level: str = "info"

    def __post_init__(self) -> None:
        """Refuse records that nobody could join feedback to.

        Raises:
            SettingsError: the combination and its remedy.
        """
        if self.gateway_url is not None and self.signing_keys is None:
            raise SettingsError(
                "RATCHET_SERVING_GATEWAY_URL is set without RATCHET_SERVING_SIGNING_KEYS: feedback could not be joined "
                "to what is recorded; mount the gateway's signing keys, too"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables; an absent or empty one means the default.

        Raises:
            SettingsError: a value cannot be used, or a needed one is missing.
        """
        read = Environment(environ)
        version = read.number("RATCHET_SERVING_VERSION", 0, 0, 2**31)
        return cls(
            policy=read.needed("RATCHET_SERVING_POLICY", "the name of the RLPolicy that is served"),
            version=int(version) or None,
            host=read.text("RATCHET_SERVING_HOST", "127.0.0.1"),
            port=int(read.number("RATCHET_SERVING_PORT", 8080, 0, 65_535)),
            batch=BatchSettings(
                max_texts=int(read.number("RATCHET_SERVING_BATCH_TEXTS", 64, 1, 4096)),
                max_wait_seconds=read.number("RATCHET_SERVING_BATCH_MILLISECONDS", 2, 0, 1000) / 1000,
                max_queue=int(read.number("RATCHET_SERVING_QUEUE_TEXTS", 2048, 1, 1_000_000)),
            ),
            max_batch_tokens=int(read.number("RATCHET_SERVING_BATCH_TOKENS", 4096, 16, 1 << 22)),
            streams=StreamSettings(
                max_streams=int(read.number("RATCHET_SERVING_STREAMS", 16, 1, 1024)),
                max_queue=int(read.number("RATCHET_SERVING_QUEUE_REQUESTS", 256, 1, 100_000)),
                prompt_tokens=int(read.number("RATCHET_SERVING_PROMPT_TOKENS", 512, 1, 1 << 20)),
                cache_tokens=int(read.number("RATCHET_SERVING_CACHE_TOKENS", 16_384, 16, 1 << 28)),
                max_new_tokens=int(read.number("RATCHET_SERVING_NEW_TOKENS", 512, 1, 1 << 20)),
            ),
            generation=_generation(read),
            max_body_bytes=int(read.number("RATCHET_SERVING_MAX_BODY_BYTES", 1 << 20, 1024, 64 << 20)),
            behind_router=read.flag("RATCHET_SERVING_BEHIND_ROUTER"),
            signing_keys=read.path("RATCHET_SERVING_SIGNING_KEYS"),
            interaction_lifetime=timedelta(hours=read.number("RATCHET_SERVING_INTERACTION_HOURS", 720, 0.01, 8760)),
            gateway_url=read.text("RATCHET_SERVING_GATEWAY_URL") or None,
            gateway_token_file=read.path("RATCHET_SERVING_GATEWAY_TOKEN_FILE"),
            record_buffer=int(read.number("RATCHET_SERVING_RECORD_BUFFER", 20_000, 1, 1_000_000)),
            drain_seconds=read.number("RATCHET_SERVING_DRAIN_SECONDS", 20, 0.1, 600),
            engine_url=_loopback(read),
            log_level=read.choice("RATCHET_LOG_LEVEL", "info", LEVELS),
        )


def _generation(read: Environment) -> KeptGeneration:
    if not (text := read.text("RATCHET_SERVING_GENERATION")):
        return KeptGeneration()
    try:
        return Generation.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise SettingsError(
            f"RATCHET_SERVING_GENERATION={text[:200]!r} cannot be: {where}: {first['msg']}; "
            'set JSON such as {"temperature": 0.7, "maxTokens": 200}'
        ) from error


def _loopback(read: Environment) -> str | None:
    url = read.text("RATCHET_SERVING_ENGINE_URL").rstrip("/")
    if url and not re.fullmatch(r"http://(127\.0\.0\.1|localhost|\[::1\]):[0-9]{1,5}", url):
        raise SettingsError(
            f"RATCHET_SERVING_ENGINE_URL={url!r} is not on this machine, and the engine asks nobody for a token; "
            "set one such as http://127.0.0.1:8081"
        )
    return url or None


@dataclass(frozen=True, slots=True)
class Source:
    """Which committed policy is served.

    Attributes:
        store: where it lies.
        namespace: the part of the store.
        artifact: URI and digest, as the version's status shows them.
        folder: where `ratchet-serve fetch` leaves it for the engine; None = it is fetched by whoever serves it.
    """

    store: StoreConfig
    namespace: str
    artifact: Artifact
    folder: Path | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Source:
        """Read which policy is served.

        Raises:
            SettingsError: a value cannot be used, or a needed one is missing.
        """
        read = Environment(environ)
        store = read.store()
        namespace = read.needed("RATCHET_SERVING_NAMESPACE", "the namespace of the policy")
        uri = read.needed("RATCHET_SERVING_ARTIFACT_URI", "the version's uri, as status.versions shows it")
        return cls(store, namespace, _artifact(read, uri), read.path("RATCHET_SERVING_FOLDER"))


@dataclass(frozen=True, slots=True)
class Exported:
    """A classifier that lies beside its base model in a folder, as `ratchet export --format kserve` writes it.

    Attributes:
        folder: of both.
        artifact: the folder's URI, and the digest of the policy's files.
    """

    folder: Path
    artifact: Artifact

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Exported | None:
        """Read which folder is served; None = none is, but what lies in a store.

        Raises:
            SettingsError: a value cannot be used, or a needed one is missing.
        """
        read = Environment(environ)
        if (folder := read.path("RATCHET_SERVING_EXPORT")) is None:
            return None
        for other in ("RATCHET_STORE_URI", "RATCHET_SERVING_ENGINE_URL"):
            if read.text(other):
                raise SettingsError(
                    f"RATCHET_SERVING_EXPORT={str(folder)!r} and {other} are both set, and one policy is served; "
                    "set one of them"
                )
        return cls(folder, _artifact(read, folder.absolute().as_uri()))


def _artifact(read: Environment, uri: str) -> Artifact:
    digest = read.needed("RATCHET_SERVING_ARTIFACT_DIGEST", "the version's digest, as status.versions shows it")
    try:
        return Artifact(uri=uri, digest=digest)
    except ValidationError as error:
        where = "DIGEST" if error.errors()[0]["loc"] == ("digest",) else "URI"
        raise SettingsError(
            f"RATCHET_SERVING_ARTIFACT_{where}={digest if where == 'DIGEST' else uri!r} cannot be: "
            f"{error.errors()[0]['msg']}; take it from status.versions"
        ) from error
