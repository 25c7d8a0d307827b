"""Which environment variables a process asks for, found by letting it ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Asked(dict[str, str]):
    """An environment that remembers every name that it was asked for."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(variables)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """Return the text, as a mapping does."""
        self.names.add(name)
        return super().get(name, default)


def names_asked(from_env: Callable[[Mapping[str, str]], object], needed: Sequence[str]) -> set[str]:
    """Return the variables that settings are read from.

    Args:
        from_env: reads them all.
        needed: those that have no default; any text will do for them.
    """
    variables = Asked(dict.fromkeys(needed, "file:///x"))
    from_env(variables)
    return variables.names
