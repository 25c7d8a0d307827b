"""Asks those who know how a rollout goes: each router which table it applied, the analyst what it counted.

Decides how the questions look on the wire and how silence is worded. Never raises: whoever asks holds the rollout
without an answer, and asks again. No credential of ours travels here. Called by `HttpCluster`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from ratchet_api.names import ROUTER_PORT
from ratchet_operator.cluster.answers import host_of, read_at_most
from ratchet_operator.desired.router_table import READY_PATH, TABLE_PATH

ANALYST_SECONDS = 5.0
_ANSWER_MAX_BYTES = 4096
_EVIDENCE_MAX_BYTES = 256 * 1024
_GAVE_UP = (aiohttp.ClientError, TimeoutError, OSError)


async def ask_router(
    session: aiohttp.ClientSession, address: str, versions: Sequence[int]
) -> tuple[str, frozenset[int]]:
    """Return the table that a router applied, empty if it does not answer, and the versions that it reaches.

    Args:
        session: with a limit of time per request.
        address: of its pod.
        versions: to ask about.
    """
    base = f"http://{host_of(address)}:{ROUTER_PORT}"
    table, *reached = await asyncio.gather(
        _text(session, f"{base}{TABLE_PATH}"), *(_text(session, f"{base}{READY_PATH}{version}") for version in versions)
    )
    if table is None:
        return "", frozenset()
    return table, frozenset(v for v, answer in zip(versions, reached, strict=True) if answer is not None)


async def ask_analyst(
    session: aiohttp.ClientSession, url: str, namespace: str, policy: str, experiment: str
) -> Mapping[str, Any] | str:
    """Return what the namespace's analyst says of an experiment, or why it says nothing."""
    if not url:
        return "the operator knows no analyst (RATCHET_OPERATOR_ANALYST_URL is empty)"
    base = url.replace("{namespace}", namespace)
    try:
        async with session.get(
            f"{base}/v1/policies/{policy}/experiments/{experiment}",
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=ANALYST_SECONDS),
        ) as response:
            body = await read_at_most(response, _EVIDENCE_MAX_BYTES)
            if response.status != 200:
                return f"the analyst at {base} answers {response.status}"
            told = json.loads(body)
    except _GAVE_UP as error:
        return f"the analyst at {base} does not answer ({type(error).__name__})"
    except ValueError:
        return f"the analyst at {base} gives no JSON; is it of this version?"
    return told if isinstance(told, dict) else f"the analyst at {base} gives no object; is it of this version?"


async def _text(session: aiohttp.ClientSession, url: str) -> str | None:
    """Return the body of a 200, else None."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await read_at_most(response, _ANSWER_MAX_BYTES)
            return body.decode("utf-8", "replace").strip() if response.status == 200 else None
    except (*_GAVE_UP, ValueError):
        return None
