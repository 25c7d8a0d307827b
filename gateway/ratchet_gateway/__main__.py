"""`ratchet-gateway`: reads the settings, then serves until it is told to stop.

Exit codes: 0 after SIGTERM or SIGINT, when everything that was accepted is stored; 78 when the settings, the keys or
the cluster's login cannot be used.
"""

from __future__ import annotations

import gc
import os
import sys
import time

import uvicorn

from ratchet_api.environment import SettingsError
from ratchet_api.signing import BadKey, KeyRing
from ratchet_gateway.analyst_http import HttpAnalyst
from ratchet_gateway.app import Parts, create_app
from ratchet_gateway.auth import Anyone, ApiKeys, Authenticator, BadKeyFile
from ratchet_gateway.datasets import Datasets, NoDatasets
from ratchet_gateway.experiments import NoAnalyst
from ratchet_gateway.policies import FixedPolicies, Policies
from ratchet_gateway.settings import Settings
from ratchet_gateway.training import Training
from ratchet_jobs.runtime.errors import BadConfigError
from ratchet_jobs.runtime.store import open_store
from ratchet_web import logs

EXIT_CONFIG = 78


def main() -> None:
    """Run the gateway; the console script."""
    try:
        settings = Settings.from_env(os.environ)
        parts = connect(settings)
    except (SettingsError, BadKey, BadKeyFile, BadConfigError) as error:
        sys.stderr.write(f"ratchet-gateway: {error}\n")
        sys.exit(EXIT_CONFIG)
    serve(settings, parts)


def serve(settings: Settings, parts: Parts) -> None:
    """Listen until SIGTERM or SIGINT, then finish what was accepted."""
    logs.configure(settings.log_level)
    # Little that is made here is part of a cycle, and the names of known events live long: look for garbage seldom.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    uvicorn.run(
        create_app(settings, parts),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        # requests that wait for the store are given their answer before the writer is drained
        timeout_graceful_shutdown=round(settings.drain_seconds) or 1,
    )


def connect(settings: Settings) -> Parts:
    """Open the store, the keys, and the cluster where one is used.

    Raises:
        SettingsError, BadKey, BadKeyFile, BadConfigError: one of them cannot be used.
    """
    policies: Policies | None = FixedPolicies.named(settings.policies) if settings.policies is not None else None
    training: Training | None = None
    datasets: Datasets = NoDatasets()
    ways: list[Authenticator] = []
    if "none" in settings.auth:
        ways.append(Anyone())
    if "keys" in settings.auth and settings.keys_file is not None:
        ways.append(ApiKeys(settings.keys_file, time.monotonic))
    if policies is None or "kubernetes" in settings.auth:
        # the generated client takes seconds to import, and a gateway without a cluster has no use for it
        from ratchet_gateway.cluster import (
            KubernetesDatasets,
            KubernetesPolicies,
            KubernetesTokens,
            KubernetesTraining,
            log_in,
        )

        api = log_in()
        if policies is None:
            policies = KubernetesPolicies(api, namespace=settings.namespace, clock=time.monotonic)
            training = KubernetesTraining(api, namespace=settings.namespace)
            datasets = KubernetesDatasets(api, namespace=settings.namespace, clock=time.monotonic)
        if "kubernetes" in settings.auth:
            ways.append(KubernetesTokens(api, namespace=settings.namespace, clock=time.monotonic))
    return Parts(
        store=open_store(settings.store, patience_seconds=0),
        ring=KeyRing.from_directory(settings.signing_keys),
        policies=policies,
        ways=tuple(ways),
        training=training,
        datasets=datasets,
        analyst=HttpAnalyst(settings.analyst_url) if settings.analyst_url else NoAnalyst(),
    )


if __name__ == "__main__":
    main()
