"""`ratchet-serve`: reads the settings, brings the policy, then serves until it is told to stop.

`ratchet-serve fetch` brings a generator into RATCHET_SERVING_FOLDER and ends: vLLM takes it from there, and so does the
server beside it, which is told RATCHET_SERVING_ENGINE_URL. With RATCHET_SERVING_EXPORT an exported folder is served,
and no store is asked.

Whatever ends it is written to the container's termination message, too, RATCHET_TERMINATION_PATH or
/dev/termination-log, where the operator reads it.

Exit codes: 0 after SIGTERM or SIGINT, when everything that was accepted is answered; 78 when the settings or the keys
cannot be used; the stages' own codes (13, 20 to 23) when the policy cannot be brought.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from ratchet_api.attempts import Artifact
from ratchet_api.environment import SettingsError
from ratchet_api.signing import BadKey
from ratchet_api.stage import TERMINATION_LIMIT, TERMINATION_PATH
from ratchet_jobs.models.classifier import LoadedPolicy
from ratchet_jobs.runtime.errors import StageError
from ratchet_serving.loading import LoadedGenerator, RemoteGenerator, fetch, load, load_exported, load_remote
from ratchet_serving.serving import listen, parts_of, serve
from ratchet_serving.settings import Exported, Settings, Source
from ratchet_web import logs

log = logging.getLogger(__name__)

EXIT_CONFIG = 78


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server; the console script.

    Args:
        arguments: none, or `fetch`; None = as the process was given them.
    """
    try:
        fetching = _asked(sys.argv[1:] if arguments is None else list(arguments))
        settings = Settings.from_env(os.environ)
        logs.configure(settings.log_level)
        if fetching:
            _fetch(Source.from_env(os.environ))
            return
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))  # as a stage has it
        loaded, artifact = _load(settings)
        parts = parts_of(settings, loaded, digest=artifact.digest)
    except (SettingsError, BadKey) as error:
        _leave(str(error), EXIT_CONFIG)
    except StageError as error:
        _leave(str(error), int(error.code))
    try:
        door = listen(settings.host, settings.port)
    except OSError as error:
        _leave(f"RATCHET_SERVING_PORT={settings.port} on {settings.host}: {error.strerror}", EXIT_CONFIG)
    serve(settings, parts, door=door)


def _leave(why: str, code: int) -> NoReturn:
    """End the process, and leave the reason where the operator reads it: in the pod's status."""
    sys.stderr.write(f"ratchet-serve: {why}\n")
    path = Path(os.environ.get("RATCHET_TERMINATION_PATH", TERMINATION_PATH))
    if path.exists():  # the kubelet makes it; outside of a pod nobody reads it
        try:
            path.write_bytes(why.encode()[:TERMINATION_LIMIT])
        except OSError as error:
            sys.stderr.write(f"ratchet-serve: {path}: {error.strerror}\n")
    sys.exit(code)


def _load(settings: Settings) -> tuple[LoadedPolicy | LoadedGenerator | RemoteGenerator, Artifact]:
    """Return the policy from where the environment says that it lies, and what it is."""
    if (exported := Exported.from_env(os.environ)) is not None:
        return load_exported(exported), exported.artifact
    source = Source.from_env(os.environ)
    if settings.engine_url is None:
        return load(source), source.artifact
    return load_remote(_folder(source), settings.engine_url), source.artifact


def _fetch(source: Source) -> None:
    merged = fetch(source, into=_folder(source))
    log.info("fetched", extra={"folder": str(merged), "digest": source.artifact.digest})


def _asked(arguments: list[str]) -> bool:
    """Whether the policy shall only be fetched."""
    if arguments not in ([], ["fetch"]):
        raise SettingsError(f"{' '.join(arguments)!r} is no command; leave it out to serve, or say fetch")
    return bool(arguments)


def _folder(source: Source) -> Path:
    if source.folder is None:
        raise SettingsError(
            "RATCHET_SERVING_FOLDER is not set: vLLM takes the policy from a folder; name one that all containers mount"
        )
    return source.folder


if __name__ == "__main__":
    main()
