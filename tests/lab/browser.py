"""Chromium for the tests of the review page: Debian's, installed when it is missing, as the lab's packages are."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.lab.progress import locked, run
from tests.lab.settings import LabError

_HERE = Path(__file__).parent


def ensure_chromium() -> str:
    """Return the path of a Chromium.

    Raises:
        LabError: there is none and it cannot be installed.
    """
    if (found := shutil.which("chromium")) is None:
        with locked("browser"):
            sys.stdout.write(run(["bash", _HERE / "apt.sh", "chromium:chromium"], timeout_seconds=600))
        found = shutil.which("chromium")
    if found is None:
        raise LabError("chromium is not found after its installation; install Debian's package chromium")
    return found
