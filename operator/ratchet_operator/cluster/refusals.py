"""Turns the API server's refusals into the errors of `cluster.protocol`.

Decides from status code and message alone whether the object is at fault (Denied), our permissions (Forbidden), a
race (Conflict) or the server (Unavailable). Keeps the server's own text, because it names quota, policy or field.
Pure; called by `cluster.http` and its tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ratchet_operator.cluster.protocol import ClusterError, Conflict, Denied, Forbidden, Unavailable

# RBAC's text is fixed in the API server (`forbiddenMessage` of its authorizer); quota, Pod Security and admission
# webhooks use the same code 403 with any other text.
_RBAC = re.compile(r'User "[^"]*" cannot [a-z*]+ (resource|path) ')
_LONGEST_MESSAGE = 2000


def classify(status: int, body: str, headers: Mapping[str, str], *, what: str) -> ClusterError:
    """Return the error for an answer of 400 and above.

    Args:
        status: HTTP status code.
        body: the answer's body, a `Status` object or any text.
        headers: the answer's headers (Retry-After is read).
        what: verb, resource and name of the request, for the message.
    """
    message = f"{what}: {_text(body) or 'no message'} (HTTP {status})"
    retry_after = _retry_after(body, headers)
    if status == 409:
        return Conflict(message, status=status)
    if status == 403:
        kind = Forbidden if _RBAC.search(message) else Denied
        return kind(message, status=status)
    # 401 heals when the rotated token is read; 408, 410 and 429 heal by asking again.
    if status in {401, 408, 410, 429} or status >= 500:
        return Unavailable(message, status=status, retry_after_seconds=retry_after)
    return Denied(message, status=status)


def _status_object(body: str) -> Mapping[str, object]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) and parsed.get("kind") == "Status" else {}


def _text(body: str) -> str:
    message = _status_object(body).get("message")
    return (str(message) if message else body.strip())[:_LONGEST_MESSAGE]


def _retry_after(body: str, headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After")
    if value is None:
        details = _status_object(body).get("details")
        value = str(details.get("retryAfterSeconds", "")) if isinstance(details, dict) else ""
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        # A date would be read against our own clock, which may be minutes off; the queue's backoff is safer.
        return None
