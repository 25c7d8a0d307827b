"""How answers over HTTP are read: never more than so much of them. Called by the clients of this package."""

from __future__ import annotations

import aiohttp


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the whole body.

    Raises:
        ValueError: it is larger than the limit.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise ValueError(f"answer is larger than {limit} bytes")
    return bytes(body)


def host_of(address: str) -> str:
    """Return an IP address as a URL has it."""
    return f"[{address}]" if ":" in address else address
