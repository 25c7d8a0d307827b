"""Build what the tests run beside our own code, ahead of the tests: the first time it takes minutes, later nothing.

    python -m tests.tools.prepare

A control plane and Helm are built everywhere; the rest of the one-node cluster, its Debian packages and our images
only where the cluster can run. Doing it here keeps compile times out of test timeouts and shows them as set-up.
Called by `suite.py`.
"""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import cluster_unavailable
from tests.lab import binaries
from tests.lab.settings import LabError
from tests.tools.files import ROOT

# API server and etcd for the contract tests, helm for the chart's: neither needs root.
EVERYWHERE = (binaries.KUBERNETES, binaries.ETCD, binaries.HELM)


def main() -> int:
    """Build and report; 1 with the reason when something cannot be built."""
    reason = cluster_unavailable()
    try:
        for module in EVERYWHERE if reason else (*EVERYWHERE, *binaries.CLUSTER):
            binaries.ensure(module)
        binaries.tools()
    except LabError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    if reason:
        print(f"set-up: no cluster and no images, because {reason}")
        return 0
    return subprocess.run([sys.executable, "-m", "tests.lab", "images"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
