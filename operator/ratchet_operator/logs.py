"""One JSON object per log line, with the pass's object bound once.

Decides the shape of the log and how loud libraries are; never what is logged. `configure` is called once by
`__main__`; `pass_context` by whoever runs passes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# kopf tells of every handler call at INFO and of every retry at ERROR; our own lines say both once.
_QUIET = {"kopf": logging.WARNING, "aiohttp.access": logging.WARNING, "asyncio": logging.WARNING}

# Without local variables: they hold whole objects, and a traceback must fit one line of a log store.
_TRACEBACKS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)


def configure(level: str, *, stream: TextIO | None = None) -> None:
    """Send everything, ours and the libraries', as JSON lines to the stream (stdout).

    Raises:
        ValueError: the level is not one of debug, info, warning, error.
    """
    try:
        number = _LEVELS[level.lower()]
    except KeyError:
        raise ValueError(f"log level {level!r} is unknown; use one of {', '.join(_LEVELS)}") from None
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_TRACEBACKS),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(number, least) if number > logging.DEBUG else number)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


@contextmanager
def pass_context(*, kind: str, namespace: str, name: str, **more: str | int) -> Iterator[None]:
    """Bind the object of a pass (and its stage and attempt, where known) to every line logged inside."""
    tokens = structlog.contextvars.bind_contextvars(kind=kind, namespace=namespace, name=name, **more)
    try:
        yield
    finally:
        structlog.contextvars.reset_contextvars(**tokens)
