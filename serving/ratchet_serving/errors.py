"""What a request is refused with; `app` turns each into its status and `{"detail": …}`.

Refused
├── Malformed   422  the request cannot be what the sender means
├── Busy        503  too many texts wait already
├── Leaving     503  the server is ending
└── Broken      500  the model's answer is no number

A message names the field, the value seen and the remedy. It never repeats a text or a subject.
"""

from __future__ import annotations

from typing import ClassVar


class Refused(Exception):
    """Base of everything that ends a request in an orderly way.

    Attributes:
        retry_after: seconds, where coming back helps.
    """

    status: ClassVar[int] = 500
    why: ClassVar[str] = "defect"
    """One word for the metric."""

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Malformed(Refused):
    """The request contradicts itself, or asks for what the policy has not."""

    status, why = 422, "malformed"


class Busy(Refused):
    """Too many texts wait."""

    status, why = 503, "busy"


class Leaving(Refused):
    """The server ends."""

    status, why = 503, "leaving"


class Broken(Refused):
    """The model gives no number."""

    status, why = 500, "numbers"
