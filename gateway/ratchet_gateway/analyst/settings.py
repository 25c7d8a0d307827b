"""The analyst's settings, read once from the environment that the chart sets.

Decides names, defaults and bounds of every variable of the analyst. Never reads the store; `from_env` is called once in
`__main__`, tests build `Settings` directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ratchet_api.environment import Environment
from ratchet_api.stage import StoreConfig

ANSWER_SECONDS = 60.0
"""What a version does is seen at once; what people think of it takes their time."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an administrator may decide about the analyst.

    Attributes:
        store: where the log is.
        namespace: whose log.
        host: address to listen on.
        port: 0 = any free one.
        attribution_seconds: how long feedback counts after a subject's first answer; then the subject enters the
            comparison, once.
        settle_seconds: how far behind its newest event the log is taken for whole.
        look_seconds: pause between two looks for new segments.
        days: how much of the log is read; a trial that is older cannot be judged.
        log_level: debug, info, warning or error.
    """

    store: StoreConfig
    namespace: str
    host: str = "127.0.0.1"
    port: int = 8090
    attribution_seconds: float = 3600.0
    settle_seconds: float = 30.0
    look_seconds: float = 5.0
    days: int = 60
    log_level: str = "info"

    @property
    def answer_seconds(self) -> float:
        """How long failures and abstentions count after a subject's first answer."""
        return min(ANSWER_SECONDS, self.attribution_seconds)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables; an absent or empty one means the default.

        Raises:
            SettingsError: a value cannot be used, or a needed one is missing.
        """
        read = Environment(environ)
        return cls(
            store=read.store(),
            namespace=read.needed("RATCHET_ANALYST_NAMESPACE", "the namespace of its policies"),
            host=read.text("RATCHET_ANALYST_HOST", "127.0.0.1"),
            port=int(read.number("RATCHET_ANALYST_PORT", 8090, 0, 65_535)),
            attribution_seconds=read.number("RATCHET_ANALYST_ATTRIBUTION_SECONDS", 3600, 1, 2_592_000),
            settle_seconds=read.number("RATCHET_ANALYST_SETTLE_SECONDS", 30, 0, 3600),
            look_seconds=read.number("RATCHET_ANALYST_LOOK_SECONDS", 5, 0.05, 300),
            days=int(read.number("RATCHET_ANALYST_DAYS", 60, 1, 400)),
            log_level=read.choice("RATCHET_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        )
