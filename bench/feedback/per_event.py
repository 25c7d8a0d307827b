"""The peer of the bench: this gateway, storing every event as an object of its own, as many servers do.

Everything but the writer is the same: routes, checks, store. Its writes wait for nothing and 32 are under way at once,
as many as the store's client has connections, so that it is not held up by waiting alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace

from ratchet_gateway import app
from ratchet_gateway.__main__ import connect, serve
from ratchet_gateway.log.writer import LogSettings, LogWriter
from ratchet_gateway.settings import Settings

ONE_EACH = LogSettings(window_seconds=0, segment_events=1, in_flight=32, patience_seconds=60)


class PerEventWriter(LogWriter):
    """Parts a request's events."""

    async def append(self, lines: Sequence[bytes]) -> None:
        """Return when each event is an object in the store."""
        await asyncio.gather(*(super(PerEventWriter, self).append([line]) for line in lines))


if __name__ == "__main__":
    app.LogWriter = PerEventWriter  # type: ignore[misc]
    settings = replace(Settings.from_env(os.environ), log=ONE_EACH)
    serve(settings, connect(settings))
