"""`ratchet-serve`: reads the settings, brings the policy, then serves until it is told to stop.

Exit codes: 0 after SIGTERM or SIGINT, when everything that was accepted is answered; 78 when the settings or the keys
cannot be used; the stages' own codes (13, 20 to 23) when the policy cannot be brought.
"""

from __future__ import annotations

import os
import sys

import torch

from ratchet_api.environment import SettingsError
from ratchet_api.signing import BadKey
from ratchet_jobs.runtime.errors import StageError
from ratchet_serving.loading import load
from ratchet_serving.serving import listen, parts_of, serve
from ratchet_serving.settings import Settings, Source
from ratchet_web import logs

EXIT_CONFIG = 78


def main() -> None:
    """Run the server; the console script."""
    try:
        settings, source = Settings.from_env(os.environ), Source.from_env(os.environ)
        logs.configure(settings.log_level)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))  # as a stage has it
        parts = parts_of(settings, load(source), digest=source.artifact.digest)
    except (SettingsError, BadKey) as error:
        sys.stderr.write(f"ratchet-serve: {error}\n")
        sys.exit(EXIT_CONFIG)
    except StageError as error:
        sys.stderr.write(f"ratchet-serve: {error}\n")
        sys.exit(int(error.code))
    try:
        door = listen(settings.host, settings.port)
    except OSError as error:
        sys.stderr.write(f"ratchet-serve: RATCHET_SERVING_PORT={settings.port} on {settings.host}: {error.strerror}\n")
        sys.exit(EXIT_CONFIG)
    serve(settings, parts, door=door)


if __name__ == "__main__":
    main()
