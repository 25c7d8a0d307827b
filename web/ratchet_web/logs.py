"""One JSON object per log line, in the shape of the operator's log.

Decides the shape of the log and how loud libraries are; never what is logged. Called once by the `__main__` of
each server, and by the eraser.
"""

from __future__ import annotations

import logging
import sys

import structlog

# The server's own lines say what our metrics say; its errors stay.
_QUIET = {"uvicorn.access": logging.WARNING, "asyncio": logging.WARNING, "botocore": logging.WARNING}
_TRACEBACKS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)


def configure(level: str) -> None:
    """Send everything, ours and the libraries', as JSON lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_TRACEBACKS),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(root.level, least))
