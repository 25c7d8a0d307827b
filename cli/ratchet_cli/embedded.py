"""Settings and environment with which the operator's parts run inside `ratchet`: no cluster, a directory as store."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from ratchet_cli.home import Home
from ratchet_operator.settings import Settings, StoreSettings

TIME_SCALE = 0.1
"""Retry pauses and progress polls are a tenth of a cluster's: the user sits in front of it."""


def local_settings(
    home: Home,
    level: str,
    *,
    priority_classes: Collection[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the operator's settings for this machine, where images and priority classes mean nothing.

    Args:
        home: state directory and store.
        level: log level, of the stages too.
        priority_classes: those that the manifests name; all of them are allowed.
        environ: endpoint and region of an S3 store.
    """
    store = StoreSettings(
        uri=home.store_uri,
        endpoint=environ.get("RATCHET_STORE_ENDPOINT") or None,
        region=environ.get("RATCHET_STORE_REGION") or "us-east-1",
    )
    return Settings(
        stage_image="local",
        allowed_images=("*",),
        allowed_priority_classes=tuple(priority_classes),
        store=store,
        time_scale=TIME_SCALE,
        log_level=level,
    )
