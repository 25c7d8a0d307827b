"""`ratchet-erase`: carries out what was asked of a namespace's gateways, then ends. The chart runs it on a schedule.

A program of its own, so that the gateway, which strangers talk to, can neither delete from the store nor change a
run: this one can, takes no request, and reads what to do from the records that the gateway left in the store.

Exit codes: 0 when nothing is pending any more; 1 when the store or the cluster failed, and the next start goes on
where this one ended; 78 when a setting is missing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from ratchet_api.environment import Environment, SettingsError
from ratchet_cli.erasing import finish_pending
from ratchet_cli.errors import CliError
from ratchet_cli.remote import RemoteBackend
from ratchet_jobs.runtime.errors import BadConfigError, StageError
from ratchet_jobs.runtime.store import open_store
from ratchet_web import logs

EXIT_FAILED, EXIT_CONFIG = 1, 78
PATIENCE_SECONDS = 60.0
"""How long an outage of the store is waited out; the schedule comes round again."""

log = logging.getLogger(__name__)


def main() -> None:
    """Erase whoever is pending; the console script."""
    logs.configure(os.environ.get("RATCHET_LOG_LEVEL") or "info")
    try:
        config.load_incluster_config()
    except ConfigException as error:
        sys.stderr.write(
            f"ratchet-erase: {error}; it runs in a pod: elsewhere use `ratchet feedback erase --pending`\n"
        )
        sys.exit(EXIT_CONFIG)
    sys.exit(run(os.environ, client.ApiClient()))


def run(env: Mapping[str, str], api: client.ApiClient) -> int:
    """Carry out every pending erasure; returns the exit code.

    Args:
        env: settings: RATCHET_ERASER_NAMESPACE, RATCHET_STORE_URI, _ENDPOINT and _REGION.
        api: of the cluster.
    """
    read = Environment(env)
    try:
        namespace = read.needed("RATCHET_ERASER_NAMESPACE", "the namespace of the gateways")
        place = read.store()
    except SettingsError as error:
        sys.stderr.write(f"ratchet-erase: {error}\n")
        return EXIT_CONFIG
    try:
        store = open_store(place, patience_seconds=PATIENCE_SECONDS)
        backend = RemoteBackend(namespace=namespace, api=api)
        for report in finish_pending(store, namespace, backend, now=lambda: datetime.now(UTC)):
            facts = report.model_dump(mode="json", include={"id", "events", "segments", "runs", "versions", "datasets"})
            log.info("erased", extra=facts | {"snapshots": len(report.snapshots)})
    except BadConfigError as error:
        sys.stderr.write(f"ratchet-erase: {error}\n")
        return EXIT_CONFIG
    except (StageError, CliError) as error:
        log.error("erasing failed", extra={"error": str(error)})
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    main()
