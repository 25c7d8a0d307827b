"""Memory that our thin client and the `kubernetes` package add to the operator's modules (ADR 0001).

    .venv/bin/python -m bench.operator_scale.client_memory

Each runs in a process of its own, with everything of the operator imported (kopf brings aiohttp anyway), against one
real API server with 500 runs, and lists them three times in pages of 100.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.ending import end_as_by_ctrl_c
from bench.operator_scale import ours
from bench.operator_scale.measure import create_at_once
from tests.controlplane import ControlPlane

RUNS = 500
ROUNDS = 3
NAMESPACE = "memory"

# kopf imports the package whenever it is installed; in the operator's image it is not.
OPERATOR = "import sys; sys.modules['kubernetes'] = None\nimport ratchet_operator.service\n"
THIN = """
import asyncio
from ratchet_operator.cluster.connect import connect
from ratchet_operator.cluster.http import HttpCluster
async def main():
    async with HttpCluster(connect()) as cluster:
        for _ in range(3):
            async for page in cluster.pages("rltrainingruns", "memory"):
                pass
asyncio.run(main())
"""
PACKAGE = """
del sys.modules["kubernetes"]
from kubernetes import client, config
config.load_kube_config()
api = client.CustomObjectsApi()
for _ in range(3):
    token = ""
    while True:
        answer = api.list_namespaced_custom_object(
            "ratchet.dev", "v1alpha1", "memory", "rltrainingruns", limit=100, _continue=token
        )
        token = answer["metadata"].get("continue")
        if not token:
            break
client.BatchV1Api().list_namespaced_job("memory")
"""
TELL = "\nprint(open('/proc/self/status').read().split('VmRSS:')[1].split()[0], end='')\n"

CASES = (
    ("operator's modules, idle", OPERATOR),
    ("... and the thin client", OPERATOR + THIN),
    ("... and the kubernetes package", OPERATOR + PACKAGE),
)


def rss_mb(code: str, kubeconfig: Path) -> float:
    """Resident memory at the end of a process that runs this code, in MB."""
    env = {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    told = subprocess.run([sys.executable, "-c", code + TELL], env=env, check=True, capture_output=True, text=True)
    return int(told.stdout) * 1024 / 1e6


def main() -> None:
    """Measure each client a few times and print medians."""
    end_as_by_ctrl_c()
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as place, ControlPlane(Path(place)) as plane:
        ours.install(plane, NAMESPACE)
        manifests = [ours.manifest(NAMESPACE, f"r{number}") for number in range(RUNS)]
        asyncio.run(create_at_once(plane, ours.path(NAMESPACE), manifests))
        for title, code in CASES:
            found = [rss_mb(code, plane.kubeconfig()) for _ in range(ROUNDS)]
            print(f"{title:31} {statistics.median(found):6.1f} MB ({min(found):.1f}-{max(found):.1f})")


if __name__ == "__main__":
    main()
