"""The operator's settings, read once from the environment that the chart sets.

Decides names, defaults and bounds of every RATCHET_* variable of the operator. Never reads a cluster or a file;
`from_env` is called once in `__main__`, tests build `Settings` directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from ratchet_api import __version__
from ratchet_api.environment import Environment, SettingsError
from ratchet_api.names import short_hash

_CODE_VERSION_LIMIT = 128
VLLM_IMAGE = "docker.io/vllm/vllm-openai:v0.11.0"
"""The chart's default, too; the first release need only know `--logprobs-mode processed_logprobs`."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the stages of a namespace keep their files.

    Attributes:
        uri: s3://BUCKET[/PREFIX] or file:///DIR.
        endpoint: S3 endpoint URL; None = AWS.
        region: S3 region.
        secret_name: Secret in the run's namespace whose keys become the pod's environment; None = workload identity.
    """

    uri: str
    endpoint: str | None = None
    region: str = "us-east-1"
    secret_name: str | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """What the administrator decides about serving.

    Attributes:
        server_image: of the policy servers.
        router_image: Envoy.
        service_account: of all these pods; its own token is never mounted.
        uid: user and group id.
        pull_policy: of images.
        pull_secrets: names of pull Secrets in the policy's namespace.
        signing_secret: Secret with the keys of interaction ids.
        gateway_url: where answers are recorded; empty = nowhere.
        log_level: of the servers.
        vllm_image: of the engine beside servers whose policy asks for it.
    """

    server_image: str
    router_image: str
    service_account: str = "default"
    uid: int = 65532
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    signing_secret: str = "ratchet-gateway-signing"
    gateway_url: str = ""
    log_level: str = "info"
    vllm_image: str = VLLM_IMAGE


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an administrator may decide about the operator.

    Attributes:
        stage_image: image of stage pods where the spec names none; always allowed.
        allowed_images: further images a spec may name; a pattern may use `*`.
        allowed_priority_classes: priority classes a spec may name.
        namespaces: namespaces to watch; empty = all.
        stage_service_account: service account of stage pods (its token is never mounted).
        store: the default store; None = each namespace must bring its own ConfigMap.
        workers: how many keys are in work at once.
        resync_seconds: how often every object is looked at again without an event.
        time_scale: factor on the operator's own pauses and poll intervals; tests use 0.05.
        http_port: /healthz, /readyz and /metrics.
        log_level: of the operator and of the stages it starts.
        image_pull_secrets: names of pull Secrets, expected in each run's namespace.
        image_pull_policy: of stage pods.
        stage_uid: user and group id that stage pods run as.
        gateway_url: of a namespace's feedback gateway, `{namespace}` in its place; empty = there is none.
        gateway_token_file: file with the token that is sent there; None = none.
        analyst_url: of a namespace's analyst, `{namespace}` in its place; empty = there is none.
        prometheus_url: where users' own numbers are, `{namespace}` in place of the policy's; empty = nowhere.
        prometheus_seconds: limit of one question there.
        serving: how policies are served; None = this operator serves none.
    """

    stage_image: str = f"ghcr.io/ratchet/jobs:{__version__}"
    allowed_images: tuple[str, ...] = ()
    allowed_priority_classes: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    stage_service_account: str = "default"
    store: StoreSettings | None = None
    workers: int = 16
    resync_seconds: float = 300.0
    time_scale: float = 1.0
    http_port: int = 9400
    log_level: str = "info"
    image_pull_secrets: tuple[str, ...] = field(default=())
    image_pull_policy: str = "IfNotPresent"
    stage_uid: int = 65532
    gateway_url: str = ""
    gateway_token_file: Path | None = None
    analyst_url: str = ""
    prometheus_url: str = ""
    prometheus_seconds: float = 5.0
    serving: Platform | None = None

    def pause(self, seconds: float) -> timedelta:
        """Return one of the operator's own pauses, scaled by `time_scale`."""
        return timedelta(seconds=seconds * self.time_scale)

    def image_allowed(self, image: str) -> bool:
        """Tell whether stage pods may run this image."""
        return image == self.stage_image or any(fnmatchcase(image, pattern) for pattern in self.allowed_images)

    def code_version(self, image: str) -> str:
        """Version of the stage code in an image: ours for our own image, the image's name for any other."""
        if image == self.stage_image:
            return __version__
        # cut, two images could have one version, and the cache would take one's results for the other's
        return image if len(image) <= _CODE_VERSION_LIMIT else f"{image[:95]}~{short_hash(image, 32)}"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables; an absent or empty one means the default.

        Raises:
            SettingsError: a value cannot be used.
        """
        read = Environment(environ)
        uri = read.text("RATCHET_STORE_URI")
        store = None
        if uri:
            store = StoreSettings(
                uri=uri,
                endpoint=read.text("RATCHET_STORE_ENDPOINT") or None,
                region=read.text("RATCHET_STORE_REGION", "us-east-1"),
                secret_name=read.text("RATCHET_STORE_SECRET") or None,
            )
        return cls(
            stage_image=read.text("RATCHET_STAGE_IMAGE", cls().stage_image),
            allowed_images=read.words("RATCHET_ALLOWED_IMAGES"),
            allowed_priority_classes=read.words("RATCHET_ALLOWED_PRIORITY_CLASSES"),
            namespaces=read.words("RATCHET_WATCH_NAMESPACES"),
            stage_service_account=read.text("RATCHET_STAGE_SERVICE_ACCOUNT", "default"),
            store=store,
            workers=int(read.number("RATCHET_WORKERS", 16, 1, 256)),
            resync_seconds=read.number("RATCHET_RESYNC_SECONDS", 300, 1, 86_400),
            time_scale=read.number("RATCHET_TIME_SCALE", 1, 0.001, 10),
            http_port=int(read.number("RATCHET_HTTP_PORT", 9400, 0, 65_535)),
            log_level=read.choice("RATCHET_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
            image_pull_secrets=read.words("RATCHET_IMAGE_PULL_SECRETS"),
            image_pull_policy=read.choice(
                "RATCHET_IMAGE_PULL_POLICY", "IfNotPresent", ("Always", "IfNotPresent", "Never")
            ),
            stage_uid=int(read.number("RATCHET_STAGE_UID", 65532, 1, 2**31 - 1)),
            gateway_url=_url(read, "RATCHET_GATEWAY_URL", "http://ratchet-gateway.{namespace}:8000"),
            gateway_token_file=read.path("RATCHET_GATEWAY_TOKEN_FILE"),
            analyst_url=_url(read, "RATCHET_OPERATOR_ANALYST_URL", "http://ratchet-analyst.{namespace}:8090"),
            prometheus_url=_url(
                read,
                "RATCHET_OPERATOR_PROMETHEUS_URL",
                "http://prometheus.monitoring:9090",
                path="(/[A-Za-z0-9._{}-]+)*",
            ),
            prometheus_seconds=read.number("RATCHET_OPERATOR_PROMETHEUS_SECONDS", 5, 0.1, 60),
            serving=_platform(read) if read.choice("RATCHET_SERVING", "off", ("on", "off")) == "on" else None,
        )


def _platform(read: Environment) -> Platform:
    return Platform(
        server_image=read.text("RATCHET_SERVING_IMAGE", f"ghcr.io/ratchet/serving:{__version__}"),
        router_image=read.text("RATCHET_ROUTER_IMAGE", f"ghcr.io/ratchet/router:{__version__}"),
        service_account=read.text("RATCHET_SERVING_SERVICE_ACCOUNT", "default"),
        uid=int(read.number("RATCHET_STAGE_UID", 65532, 1, 2**31 - 1)),
        pull_policy=read.choice("RATCHET_IMAGE_PULL_POLICY", "IfNotPresent", ("Always", "IfNotPresent", "Never")),
        pull_secrets=read.words("RATCHET_IMAGE_PULL_SECRETS"),
        signing_secret=read.text("RATCHET_SIGNING_SECRET", "ratchet-gateway-signing"),
        gateway_url=_url(read, "RATCHET_GATEWAY_URL", "http://ratchet-gateway.{namespace}:8000"),
        log_level=read.choice("RATCHET_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        vllm_image=read.text("RATCHET_VLLM_IMAGE", VLLM_IMAGE),
    )


def _url(read: Environment, name: str, such_as: str, *, path: str = "") -> str:
    text = read.text(name).rstrip("/")
    if text and not re.fullmatch(rf"https?://[A-Za-z0-9.:{{}}-]+{path}", text):
        raise SettingsError(f"{name}={text!r} is no URL; set one such as {such_as}")
    return text
