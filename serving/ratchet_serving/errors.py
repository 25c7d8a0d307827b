"""What a request is refused with, besides `Malformed`; `ratchet_web.errors` makes each an answer.

Refused
├── Malformed   422  the request cannot be what the sender means
├── Busy        503  too many texts wait already
├── Leaving     503  the server is ending
└── Broken      500  the model's answer is no number

A message names the field, the value seen and the remedy. It never repeats a text or a subject.
"""

from __future__ import annotations

from ratchet_web.errors import Refused


class Busy(Refused):
    """Too many texts wait."""

    status, why = 503, "busy"


class Leaving(Refused):
    """The server ends."""

    status, why = 503, "leaving"


class Broken(Refused):
    """The model gives no number."""

    status, why = 500, "numbers"
