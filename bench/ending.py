"""Lets a bench that is asked to end stop the servers that it started, as Ctrl-C does. Called first by those that do."""

from __future__ import annotations

import signal


def end_as_by_ctrl_c() -> None:
    """Turn SIGTERM, and a SIGINT that a shell's background job ignores, into KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
