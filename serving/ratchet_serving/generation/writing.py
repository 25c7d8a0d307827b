"""Tokens to text as they come, cut where a stop stands.

Decides what may be said already: never half a character, never what may turn out to be the beginning of a stop, and,
in a conversation, no blanks at either end. Put together, the pieces are the text of the whole answer. Pure; called by
`streams` after each token.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Writer:
    """The text of one answer.

    Args:
        tokenizer: of the model.
        stops: texts that end the answer and are no part of it.
        trimmed: whether blanks at both ends are left out.
    """

    def __init__(self, tokenizer: Tokenizer, *, stops: Sequence[str] = (), trimmed: bool = True) -> None:
        self._tokenizer, self._stops, self._trimmed = tokenizer, stops, trimmed
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = self._waiting = ""
        self._begun = not trimmed
        self.stopped = False
        """Whether a stop was met; nothing is said after it."""

    def push(self, token: int) -> str:
        """Take a token; return what may be said now."""
        self._ids.append(token)
        self._take(self._stream.step(self._tokenizer, token) or "")
        if self.stopped:
            return self._rest()
        ready = len(self._waiting) - self._held()
        if self._trimmed:
            ready = len(self._waiting[:ready].rstrip())
        said, self._waiting = self._waiting[:ready], self._waiting[ready:]
        return said

    def end(self) -> str:
        """Return what is left to say when no token follows."""
        if self.stopped:
            return ""
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        if whole.startswith(self._decoded):  # half a character at the very end shows only there
            self._take(whole[len(self._decoded) :])
        return self._rest()

    def _take(self, text: str) -> None:
        self._decoded += text
        self._waiting += text
        if not self._begun:
            self._waiting = self._waiting.lstrip()
            self._begun = bool(self._waiting)
        if places := [place for stop in self._stops if (place := self._waiting.find(stop)) >= 0]:
            self._waiting, self.stopped = self._waiting[: min(places)], True

    def _held(self) -> int:
        """Characters at the end that may be the beginning of a stop."""
        longest = 0
        for stop in self._stops:
            for count in range(min(len(stop) - 1, len(self._waiting)), longest, -1):
                if self._waiting.endswith(stop[:count]):
                    longest = count
                    break
        return longest

    def _rest(self) -> str:
        said, self._waiting = self._waiting, ""
        return said.rstrip() if self._trimmed else said
