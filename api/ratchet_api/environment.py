"""Settings from environment variables: what is absent means the default, what cannot be used is named with its remedy.

Decides how a variable's text becomes a word, a number or a path, and what a wrong one is answered with; and how the
store is named, which is the same for every process that reads or writes one. Never which other variables there are, nor
their defaults and bounds: the `settings` of operator, gateway and policy server say that, and call this once, when their
process starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ratchet_api.stage import StoreConfig


class SettingsError(ValueError):
    """An environment variable has a value that cannot be used; the text names it, the value and what is wanted."""


class Environment:
    """Reads one process's variables. A blank variable counts as absent, for charts set what is empty, too.

    Args:
        variables: names and their texts, as `os.environ` has them.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str, default: str = "") -> str:
        """Return the text without blanks around it."""
        return self._variables.get(name, "").strip() or default

    def needed(self, name: str, what: str) -> str:
        """Return a text that has no default.

        Raises:
            SettingsError: it is absent; `what` says what to set it to.
        """
        if not (text := self.text(name)):
            raise SettingsError(f"{name} is not set; set it to {what}")
        return text

    def words(self, name: str) -> tuple[str, ...]:
        """Return the words of a comma-separated list; blanks around a word do not count."""
        return tuple(word for part in self.text(name).split(",") if (word := part.strip()))

    def path(self, name: str) -> Path | None:
        """Return a path, which need not exist; None = absent."""
        return Path(text) if (text := self.text(name)) else None

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number from `low` to `high`, both included.

        Raises:
            SettingsError: it is none, or beyond them.
        """
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{name}={text!r} is not a number; set one between {low:g} and {high:g}") from None
        if not low <= value <= high:
            raise SettingsError(f"{name}={text!r} is out of bounds; set a number between {low:g} and {high:g}")
        return value

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """Return one of the allowed words, in their spelling; capitals do not count.

        Raises:
            SettingsError: it is none of them.
        """
        return _among(name, self.text(name, default), allowed)

    def choices(self, name: str, default: str, allowed: Sequence[str]) -> tuple[str, ...]:
        """Return several of the allowed words, of a comma-separated list.

        Raises:
            SettingsError: one is none of them.
        """
        return tuple(_among(name, word, allowed) for word in self.words(name) or (default,))

    def store(self) -> StoreConfig:
        """Return the store that RATCHET_STORE_URI, _ENDPOINT and _REGION name.

        Raises:
            SettingsError: no store is named.
        """
        return StoreConfig(
            uri=self.needed("RATCHET_STORE_URI", "s3://BUCKET[/PREFIX] or file:///DIR"),
            endpoint=self.text("RATCHET_STORE_ENDPOINT") or None,
            region=self.text("RATCHET_STORE_REGION", "us-east-1"),
        )

    def flag(self, name: str) -> bool:
        """Return true or false, which is the default.

        Raises:
            SettingsError: it is neither.
        """
        text = self.text(name, "false")
        if text.lower() not in ("true", "false"):
            raise SettingsError(f"{name}={text!r} is unknown; set true or false")
        return text.lower() == "true"


def _among(name: str, word: str, allowed: Sequence[str]) -> str:
    known = {one.lower(): one for one in allowed}
    if word.lower() not in known:
        raise SettingsError(f"{name}={word!r} is unknown; set one of {', '.join(allowed)}")
    return known[word.lower()]
