"""`ratchet-analyst`: reads the settings, then counts and answers until it is told to stop.

Exit codes: 0 after SIGTERM or SIGINT; 78 when the settings cannot be used.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime

import uvicorn
from prometheus_client import CollectorRegistry

from ratchet_api.environment import SettingsError
from ratchet_gateway.analyst.app import create_app
from ratchet_gateway.analyst.metrics import AnalystMetrics
from ratchet_gateway.analyst.settings import Settings
from ratchet_gateway.analyst.tables import Tables
from ratchet_gateway.analyst.watch import Watch
from ratchet_jobs.runtime.errors import BadConfigError
from ratchet_jobs.runtime.store import open_store
from ratchet_web import logs

EXIT_CONFIG = 78


def main() -> None:
    """Run the analyst; the console script."""
    try:
        settings = Settings.from_env(os.environ)
        store = open_store(settings.store, patience_seconds=0)
    except (SettingsError, BadConfigError) as error:
        sys.stderr.write(f"ratchet-analyst: {error}\n")
        sys.exit(EXIT_CONFIG)
    logs.configure(settings.log_level)
    metrics = AnalystMetrics(CollectorRegistry())
    tables = Tables(attribution_seconds=settings.attribution_seconds, answer_seconds=settings.answer_seconds)
    watch = Watch(store, settings, tables, metrics, now=lambda: datetime.now(UTC), monotonic=time.monotonic)
    uvicorn.run(
        create_app(watch, metrics),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
