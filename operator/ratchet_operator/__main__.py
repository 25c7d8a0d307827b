"""`ratchet-operator`: reads the settings, then runs the service until it is told to stop or can no longer work.

Exit codes: 0 after SIGTERM or SIGINT, 70 when the operator stopped seeing the cluster (the kubelet starts it anew),
78 when its settings or its login cannot be used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import structlog

from ratchet_api.environment import SettingsError
from ratchet_operator import logs
from ratchet_operator.cluster.connect import LoginError, connect
from ratchet_operator.service import Service
from ratchet_operator.settings import Settings

EXIT_CONFIG = 78
_log = structlog.get_logger(__name__)


def main() -> None:
    """Run the operator; the console script."""
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"ratchet-operator: {error}\n")
        sys.exit(EXIT_CONFIG)
    logs.configure(settings.log_level)
    try:
        service = Service(settings, connect)
    except LoginError as error:
        _log.error("cannot_log_in", error=str(error))
        sys.exit(EXIT_CONFIG)
    asyncio.run(_serve(service))


async def _serve(service: Service) -> None:
    code = await service.run()
    logging.shutdown()
    # Not through the loop's own end: it waits for every task it cancels, and one of kopf's may never end.
    os._exit(code)


if __name__ == "__main__":
    main()
