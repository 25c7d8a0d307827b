"""Asks Prometheus for a user's own number of the version on trial.

Decides how the question looks on the wire, that only one finite number is an answer, and how anything else is worded
for the policy's status. Sends no credential. Never raises: whoever asks holds the rollout without an answer, and asks
again. Called by `HttpCluster`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import aiohttp

from ratchet_operator.cluster.answers import read_at_most

_MAX_ANSWER_BYTES = 64 * 1024
_SHOWN = 120
"""Characters of a foreign text that a status repeats."""


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """Where Prometheus is.

    Attributes:
        url: of its HTTP API without `/api`, `{namespace}` in place of the policy's namespace; empty = there is none.
        seconds: limit of one question.
    """

    url: str = ""
    seconds: float = 5.0

    async def ask(self, session: aiohttp.ClientSession, namespace: str, query: str) -> float | str:
        """Return the one finite number that a query gives now, or why there is none."""
        if not self.url:
            return "the operator knows no Prometheus (RATCHET_OPERATOR_PROMETHEUS_URL is empty)"
        base = self.url.replace("{namespace}", namespace)
        try:
            async with session.post(
                f"{base}/api/v1/query",
                data={"query": query, "timeout": f"{self.seconds:g}s"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self.seconds),
            ) as response:
                told = json.loads(await read_at_most(response, _MAX_ANSWER_BYTES))
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"Prometheus at {base} does not answer ({type(error).__name__})"
        except ValueError as error:
            return f"Prometheus at {base} gives no answer that can be read ({str(error)[:_SHOWN]})"
        return _number(told, base, status)


def _number(told: Any, base: str, status: int) -> float | str:
    """Read an answer of `/api/v1/query`."""
    if not isinstance(told, dict) or told.get("status") != "success":
        why = told.get("error") if isinstance(told, dict) else None
        return f"Prometheus at {base} answers {status}: {str(why or 'no reason')[:_SHOWN]}"
    if told.get("warnings"):
        return f"Prometheus at {base} warns that its answer may lack something: {str(told['warnings'])[:_SHOWN]}"
    try:
        kind, result = told["data"]["resultType"], told["data"]["result"]
        if kind == "vector" and len(result) != 1:
            return _not_one(len(result))
        if kind not in ("vector", "scalar"):
            return f"the query gives a {str(kind)[:16]}; ask for one number"
        value = float(result[0]["value"][1] if kind == "vector" else result[1])
    except (KeyError, IndexError, TypeError, ValueError):
        return f"Prometheus at {base} gives no value where one should stand; is it Prometheus?"
    return value if math.isfinite(value) else f"the query gives {value}, as a share of nothing does"


def _not_one(series: int) -> str:
    if not series:
        return "the query gives no series; nothing of that name was measured in the last minutes"
    return f"the query gives {series} series; aggregate them to one"
