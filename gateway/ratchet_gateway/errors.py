"""What a request is refused with, besides `Malformed`; `ratchet_web.errors` makes each an answer.

Refused
├── Malformed          422  the event cannot be what the sender means
├── NotEnough          400  too few samples to train
├── Unauthenticated    401  no token, or one that nobody knows
├── Forbidden          403  a known caller without the role
├── UnknownPolicy      404  no such policy
├── UnknownRun         404  no such run of the policy
├── UnknownErasure     404  no such erasure
├── Conflict           409  the same key or interaction with another content
├── TooMany            429  a rate limit
└── Away               503  the store or the API server does not answer

A message names the field, the value seen and the remedy. It never repeats a text or a subject.
"""

from __future__ import annotations

from ratchet_web.errors import Refused


class NotEnough(Refused):
    """Too few samples."""

    status, why = 400, "samples"


class Unauthenticated(Refused):
    """Nobody we know."""

    status, why = 401, "token"


class Forbidden(Refused):
    """Known, without the role."""

    status, why = 403, "role"


class UnknownPolicy(Refused):
    """No such policy."""

    status, why = 404, "policy"


class UnknownRun(Refused):
    """No such run of the policy."""

    status, why = 404, "run"


class UnknownErasure(Refused):
    """No such erasure."""

    status, why = 404, "erasure"


class Conflict(Refused):
    """Something else was stored under this key or for this interaction."""

    status, why = 409, "conflict"


class TooMany(Refused):
    """A rate limit."""

    status, why = 429, "rate"


class Away(Refused):
    """What we depend on does not answer."""

    status, why = 503, "unavailable"
