"""Every committed way to break the code is noticed by the tests that are named for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tools.files import ROOT


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_mutant_survives() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "mutate.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
