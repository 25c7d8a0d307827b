"""Where `ratchet` keeps things on this machine, and the three settings that flags and environment share.

Decides names and defaults only: RATCHET_HOME (state of local runs, default ./.ratchet), RATCHET_STORE (data and
artifacts, default <home>/store), RATCHET_CACHE (downloads), RATCHET_LOG_LEVEL. Creates nothing. Used by every verb.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ratchet_cli.errors import UsageProblem

DEFAULT_NAMESPACE = "default"
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one local state directory.

    Attributes:
        path: the state directory.
        store_uri: s3://BUCKET[/PREFIX] or file:///DIR.
    """

    path: Path
    store_uri: str

    @property
    def exists(self) -> bool:
        """Whether something was ever run here."""
        return (self.path / "objects").is_dir()


def find_home(home: str | None = None, store: str | None = None, environ: Mapping[str, str] = os.environ) -> Home:
    """Return the state directory: flag before environment before default.

    Raises:
        UsageProblem: a path or URI cannot be used.
    """
    path = Path(home or environ.get("RATCHET_HOME") or ".ratchet").expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise UsageProblem(f"RATCHET_HOME {path} is a file; name a directory")
    return Home(path, _store_uri(store or environ.get("RATCHET_STORE") or "", path))


def _store_uri(text: str, home: Path) -> str:
    if not text:
        return (home / "store").as_uri()
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text).expanduser().absolute().as_uri()
    if scheme not in ("file", "s3") or not rest:
        raise UsageProblem(f"RATCHET_STORE {text!r} is no store; give a directory, file:///DIR or s3://BUCKET[/PREFIX]")
    return text.rstrip("/")


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for downloads: RATCHET_CACHE, else $XDG_CACHE_HOME/ratchet, else ~/.cache/ratchet."""
    if environ.get("RATCHET_CACHE"):
        return Path(environ["RATCHET_CACHE"]).expanduser().absolute()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "ratchet"


def log_level(flag: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the log level: flag before RATCHET_LOG_LEVEL before info.

    Raises:
        UsageProblem: the level is unknown.
    """
    level = (flag or environ.get("RATCHET_LOG_LEVEL") or "info").lower()
    if level not in LOG_LEVELS:
        raise UsageProblem(f"log level {level!r} is unknown; use one of {', '.join(LOG_LEVELS)}")
    return level
