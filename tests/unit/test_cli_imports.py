"""What `make demo` installs (extras jobs and cli) is enough for the command, and light verbs stay light."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import ratchet_cli.main
heavy = sorted(name for name in {watched!r} if name in sys.modules)
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""


@pytest.mark.parametrize(
    ("blocked", "watched"),
    [(("kopf", "aiohttp"), ()), ((), ("torch", "transformers", "sklearn", "pyarrow", "boto3"))],
    ids=["the operator's extra is not needed", "no training library is loaded before it is needed"],
)
def test_the_command_imports_only_what_it_needs(blocked: tuple[str, ...], watched: tuple[str, ...]) -> None:
    probe = PROBE.format(blocked=blocked, watched=watched)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
