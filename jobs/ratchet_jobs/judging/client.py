"""One question to a judge over HTTP, asked again where that may help: its answer's text, or why there is none.

Decides which failure is whose: of the settings (the stage ends), of the service, or of this question. Never reads what
the answer says, and never repeats it: neither texts nor the key may end up in a log or in a status. Called by
`judge.AskedJudge`, from several threads at once.
"""

from __future__ import annotations

import json
import time
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, TimeoutError
from urllib3.util import Retry, Timeout

from ratchet_api.judge import SECRET_KEY, JudgeEndpoint
from ratchet_jobs.runtime.errors import BadConfigError

_LATER = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers that ask to come back."""
_REMEDIES = {
    401: f"correct the key {SECRET_KEY} of the Secret that apiKeySecretRef names",
    403: f"give the key {SECRET_KEY} of the Secret that apiKeySecretRef names the right to ask this model",
    404: "correct endpoint, which ends with the API's version as in https://host/v1, or model",
    405: "correct endpoint, which ends with the API's version as in https://host/v1",
}
_MOST_BYTES = 1 << 20
_MOST_TOKENS = 512
_LONGEST_PAUSE_SECONDS = 60


class Unanswered(Exception):
    """This question has no usable answer; says why in a few words that quote nobody."""

    def __init__(self, why: str, *, away: bool = False) -> None:
        """Say why.

        Args:
            why: the kind of failure, by which failures are counted.
            away: the service did not answer, in contrast to an answer that is of no use.
        """
        super().__init__(why)
        self.away = away


class ChatClient:
    """A judge's endpoint."""

    def __init__(self, settings: JudgeEndpoint, *, key: str | None, field: str) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: endpoint, model and patience.
            key: sent as the bearer token.
            field: path of the judge in the spec, for messages.
        """
        self._settings, self._field = settings, field
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        retries = Retry(
            total=settings.retries,
            allowed_methods=None,  # a question changes nothing
            status_forcelist=_LATER,
            backoff_factor=0.5,
            backoff_max=_LONGEST_PAUSE_SECONDS,
            backoff_jitter=0.5,
            retry_after_max=_LONGEST_PAUSE_SECONDS,
            raise_on_status=False,
        )
        timeout = Timeout(total=settings.timeout_seconds)
        self._pool = urllib3.PoolManager(
            maxsize=settings.concurrency, block=True, retries=retries, timeout=timeout, headers=self._headers
        )

    def ask(self, question: str) -> str:
        """Return what the judge says.

        Raises:
            Unanswered: it says nothing, or not as the API has it.
            BadConfigError: it refuses the settings; every other question would end alike.
        """
        settings = self._settings
        body = {
            "model": settings.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": _MOST_TOKENS,
        }
        url = f"{settings.endpoint.rstrip('/')}/chat/completions"
        try:
            response = self._pool.request(
                "POST", url, body=json.dumps(body).encode(), redirect=False, preload_content=False
            )
        except MaxRetryError as error:
            raise Unanswered(self._why(error.reason), away=True) from error
        except HTTPError as error:
            raise Unanswered(self._why(error), away=True) from error
        try:
            data = self._read(response)
        finally:
            response.release_conn()
        self._check(response.status)
        return _content(data)

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """The body, at most so much of it and for so long: a server may drip for ever."""
        end, data = time.monotonic() + self._settings.timeout_seconds, b""
        try:
            for part in response.stream(1 << 14):
                data += part
                if len(data) > _MOST_BYTES:
                    response.close()
                    raise Unanswered(f"answer of more than {_MOST_BYTES} bytes")
                if time.monotonic() > end:
                    response.close()
                    raise Unanswered(self._late(), away=True)
        except HTTPError as error:
            raise Unanswered(self._why(error), away=True) from error
        return data

    def _check(self, status: int) -> None:
        if status == 200:
            return
        if status in _LATER or status >= 500:
            raise Unanswered(f"HTTP {status}", away=True)
        if status in _REMEDIES or 300 <= status < 400:
            remedy = _REMEDIES.get(status, "name the address that it redirects to as endpoint")
            raise BadConfigError(
                f"{self._field}: {self._settings.endpoint} answered HTTP {status} for model "
                f"{self._settings.model!r}; {remedy}"
            )
        raise Unanswered(f"HTTP {status}")  # of this question: too long, or of a kind that the judge does not take

    def _why(self, error: Exception | None) -> str:
        late = isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError)
        return self._late() if late else "no connection"

    def _late(self) -> str:
        return f"no answer within {self._settings.timeout_seconds:g} s"


def _content(data: bytes) -> str:
    """The text of a chat completion.

    Raises:
        Unanswered: it has none.
    """
    try:
        found: Any = json.loads(data)
        text = found["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unanswered("no chat completion in the answer") from error
    if not isinstance(text, str) or not text.strip():
        raise Unanswered("an empty answer")
    return text.strip()
