"""A conversation with a generator's server, by OpenAI's route and its events.

Decides how a server's refusals are told. Any server of that route will do: `ratchet serve`, a router, another engine.
Used by `ratchet chat --url`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ratchet_cli.errors import CliError, UsageProblem

if TYPE_CHECKING:
    import httpx2

    from ratchet_jobs.data.turns import Turn

PATIENCE_SECONDS = 300.0
"""Between two pieces of an answer; the first may wait behind others'."""
_DATA, _DONE = "data: ", "[DONE]"


class ChatServer:
    """One server; use `server_at`."""

    def __init__(self, http: httpx2.Client, *, url: str, model: str) -> None:
        self._http, self._url, self._model = http, url, model

    def answer(
        self, turns: Sequence[Turn], *, max_new_tokens: int | None, temperature: float | None, seed: int
    ) -> Iterator[str]:
        """Answer a conversation so far, piece by piece.

        Args:
            turns: what was said.
            max_new_tokens: where the answer is cut; None = as the server has it.
            temperature: of its draws; None = likewise.
            seed: of them.

        Raises:
            CliError: the server refuses, breaks off or is not there.
        """
        import httpx2

        body = {
            "model": self._model,
            "messages": [turn._asdict() for turn in turns],
            "seed": seed,
            "stream": True,
        }
        told = {"max_tokens": max_new_tokens, "temperature": temperature}
        body |= {name: value for name, value in told.items() if value is not None}
        ended = False
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise CliError(f"{self._url}: {response.status_code}: {_message(response.read())}")
                for line in response.iter_lines():
                    ended = ended or line == _DATA + _DONE
                    if line.startswith(_DATA) and not ended:
                        yield self._piece(json.loads(line.removeprefix(_DATA)))
        except httpx2.TransportError as error:
            raise CliError(
                f"--url {self._url}: {str(error) or type(error).__name__}; is a server running there?"
            ) from error
        except ValueError as error:
            raise CliError(f"{self._url}: sent what is no event ({error}); is it a server of generators?") from error
        if not ended:
            raise CliError(f"{self._url}: the answer broke off; ask again")

    def _piece(self, event: dict[str, Any]) -> str:
        if "error" in event:
            raise CliError(f"{self._url}: {_message(json.dumps(event).encode())}")
        choices = event.get("choices") or [{}]
        return str(choices[0].get("delta", {}).get("content") or "")


@contextmanager
def server_at(url: str, *, model: str) -> Iterator[ChatServer]:
    """Have a server by its address, which may end with /v1.

    Raises:
        UsageProblem: the address is none.
    """
    import httpx2

    if not url.startswith(("http://", "https://")):
        raise UsageProblem(f"--url {url}: is no address; give one such as http://127.0.0.1:8080")
    root = url.rstrip("/").removesuffix("/v1")
    with httpx2.Client(base_url=root, timeout=httpx2.Timeout(PATIENCE_SECONDS, connect=10.0)) as http:
        yield ChatServer(http, url=url, model=model)


def _message(raw: bytes) -> str:
    """What a refusal says: OpenAI's shape, ours, or its first words."""
    try:
        body = json.loads(raw)
        if isinstance(body, dict):
            error = body.get("error")
            said = error.get("message") if isinstance(error, dict) else error or body.get("detail")
            if said:
                return str(said)
    except ValueError:
        pass
    return raw.decode(errors="replace").strip()[:200] or "no reason was given"
