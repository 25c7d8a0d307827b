"""How many answers grow at once and how long they may be; read by `settings`, obeyed by `streams`. No torch."""

from __future__ import annotations

from dataclasses import dataclass


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
