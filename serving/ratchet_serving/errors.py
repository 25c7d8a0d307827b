"""What a request is refused with besides `Malformed`; `ratchet_web.errors` or `generation.routes` makes it an answer.

Refused
├── Malformed   422  the request cannot be what the sender means (400 of a generator, as OpenAI has it)
│   └── TooLong      the prompt leaves no room for an answer
├── Unknown     404  another policy is asked for than the one that is served
├── Busy        503  too many texts wait already
├── Leaving     503  the server is ending
├── NoEngine    503  the engine beside the server is away, silent, or refuses
└── Broken      500  the model's answer is no number

A message names the field, the value seen and the remedy. It never repeats a text or a subject.
"""

from __future__ import annotations

from ratchet_web.errors import Malformed, Refused


class TooLong(Malformed):
    """The prompt leaves no room for an answer."""


class Unknown(Refused):
    """The policy that is asked for is not served here."""

    status, why = 404, "unknown"


class Busy(Refused):
    """Too many texts wait."""

    status, why = 503, "busy"


class Leaving(Refused):
    """The server ends."""

    status, why = 503, "leaving"


class NoEngine(Refused):
    """The engine beside the server gives no answer."""

    status, why = 503, "engine"


class Broken(Refused):
    """The model gives no number."""

    status, why = 500, "numbers"
