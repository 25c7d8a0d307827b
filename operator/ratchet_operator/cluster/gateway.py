"""Asks a namespace's feedback gateway how many events are new: the operator's only question about the log.

Decides how the question looks on the wire and how a refusal is worded for the dataset's status. Sends the token made
for gateways, which opens nothing else, and never one for the API server. Never raises: whoever asks goes on without a
number and asks again. Called by `HttpCluster`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp

from ratchet_api.base import format_time

COUNT_SECONDS = 10.0
"""A gateway that was just started reads the newest segments first."""
_MAX_ANSWER_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class GatewayAccess:
    """Where gateways are, and who we are there.

    Attributes:
        url: of a gateway, `{namespace}` in place of the namespace; empty = there are none.
        token_file: file with our token for gateways, which the kubelet renews; None = none is sent.
    """

    url: str = ""
    token_file: Path | None = None

    async def count(self, session: aiohttp.ClientSession, namespace: str, policy: str, since: datetime) -> int | str:
        """Return how many events of feedback about a policy arrived after a time, or why nobody says."""
        if not self.url:
            return "the operator knows no gateway (RATCHET_GATEWAY_URL is empty)"
        base = self.url.replace("{namespace}", namespace)
        try:
            async with session.get(
                f"{base}/api/policies/{policy}/feedback/count",
                params={"since": format_time(since)},
                headers=self._headers(),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=COUNT_SECONDS),
            ) as response:
                text = (await response.content.read(_MAX_ANSWER_BYTES)).decode()
                if response.status != 200:
                    return f"the gateway at {base} answers {response.status}: {_detail(text)}"
                events = json.loads(text)["events"]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"the gateway at {base} does not answer ({type(error).__name__})"
        except (ValueError, KeyError, TypeError):
            return f"the gateway at {base} gives no count; is it of this version?"
        return events if isinstance(events, int) and events >= 0 else f"the gateway at {base} counts {events!r}"

    def _headers(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        # read each time: the kubelet renews it
        return {"Authorization": f"Bearer {self.token_file.read_text(encoding='utf-8').strip()}"}


def _detail(text: str) -> str:
    try:
        return str(json.loads(text)["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return "no reason"
