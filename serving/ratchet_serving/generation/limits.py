"""How many answers grow at once and how long they may be; `settings` reads, `streams` and `upstream` obey. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet_serving.errors import Busy, Leaving


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How answers grow together.

    Attributes:
        max_streams: answers at once.
        max_queue: requests that may wait; beyond, they are refused with 503.
        prompt_tokens: of prompts, read between two turns; more makes answers that grow wait longer.
        cache_tokens: answers at once times the longest of them, prompt included.
        max_new_tokens: of an answer whose request names no number.
    """

    max_streams: int = 16
    max_queue: int = 256
    prompt_tokens: int = 512
    cache_tokens: int = 16_384
    max_new_tokens: int = 512

    def admit(self, waiting: int, *, ending: bool) -> None:
        """Let one more request wait.

        Raises:
            Busy: too many wait.
            Leaving: the server ends.
        """
        if ending:
            raise Leaving("the server is ending; ask again, another one will answer", retry_after=1)
        if waiting >= self.max_queue:
            raise Busy(
                f"{waiting} requests wait already, at most {self.max_queue} may; ask later, or run more replicas",
                retry_after=1,
            )
