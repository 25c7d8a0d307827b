"""vLLM beside a policy's server: what brings the policy, what makes the tokens, and what both are told.

Decides the containers and volumes that an engine of its own adds to a server's pod. The engine listens on the pod's own
loopback alone, since it asks nobody for a token, and reads what was fetched, whose digest was checked; it has neither
the store's credentials nor the signing keys. Pure; called by `desired.serving`, which hardens every container alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ratchet_api.names import ENGINE_PORT
from ratchet_api.placement import Resources

Manifest = dict[str, Any]
MODEL_DIR, FOLDER = "/model", "/model/policy"
MERGED = f"{FOLDER}/policy"
"""Where `ratchet-serve fetch` leaves the merged model."""
SERVED_NAME = "policy"
"""How the engine calls it, as the server beside it asks."""
MOST_STREAMS = 256
"""Answers at once: the server lets so many grow, and the engine is started for as many."""
SERVER_RESOURCES = Resources(cpu=1, memory_gi=2, ephemeral_storage_gi=1)
"""Of the server beside the engine, which has no model; and of what fetches one."""
_SHARED = "2Gi"
"""Memory by which the engine's processes talk to each other, one for each GPU."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What a pod has besides its server.

    Attributes:
        fetch: brings the policy before the others start.
        container: the engine.
        volumes: of both.
        mounts: of the server.
        environment: of the server, besides its own.
    """

    fetch: Manifest
    container: Manifest
    volumes: tuple[Manifest, ...]
    mounts: tuple[Manifest, ...]
    environment: dict[str, str]


def engine_of(server: Manifest, *, image: str, resources: Resources, scratch: str, drain_seconds: int) -> Engine:
    """Return what stands beside a server.

    Args:
        server: its container; the one that fetches has its image.
        image: of vLLM.
        resources: of the engine.
        scratch: size limit of the policy's volume and of the engine's own.
        drain_seconds: how long the server may go on with answers after it was told to end.
    """
    fetch = {
        "name": "fetch",
        "image": server["image"],
        "command": ["ratchet-serve", "fetch"],
        "volumeMounts": [_mount("scratch", "/tmp"), _mount("model", MODEL_DIR)],
    }
    container = {
        "name": "vllm",
        "image": image,
        "command": ["vllm", "serve", MERGED, *_flags(resources.gpus)],
        "env": [{"name": key, "value": value} for key, value in _ENVIRONMENT.items()],
        "startupProbe": {**_probe(), "periodSeconds": 5, "failureThreshold": 360},
        "readinessProbe": {**_probe(), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**_probe(), "periodSeconds": 10, "failureThreshold": 6},
        "volumeMounts": [
            _mount("engine", "/tmp"),
            _mount("shared", "/dev/shm"),
            {**_mount("model", MODEL_DIR), "readOnly": True},
        ],
        # it ends at once when it is told to, and the server beside it has answers to finish
        "lifecycle": {"preStop": {"sleep": {"seconds": drain_seconds}}},
    }
    return Engine(
        fetch=fetch,
        container=container,
        volumes=(
            {"name": "model", "emptyDir": {"sizeLimit": scratch}},
            {"name": "engine", "emptyDir": {"sizeLimit": scratch}},
            {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED}},
        ),
        mounts=({**_mount("model", MODEL_DIR), "readOnly": True},),
        environment={
            "RATCHET_SERVING_ENGINE_URL": f"http://127.0.0.1:{ENGINE_PORT}",
            "RATCHET_SERVING_FOLDER": FOLDER,
            "RATCHET_SERVING_STREAMS": str(MOST_STREAMS),
        },
    )


def _flags(gpus: int) -> list[str]:
    return [
        "--host=127.0.0.1",
        f"--port={ENGINE_PORT}",
        f"--served-model-name={SERVED_NAME}",
        f"--tensor-parallel-size={gpus}",
        f"--max-num-seqs={MOST_STREAMS}",
        # probabilities after temperature and top_p: those of the draws
        "--logprobs-mode=processed_logprobs",
        # nothing of how answers are drawn comes from the model's files
        "--generation-config=vllm",
        "--disable-uvicorn-access-log",
    ]


_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "XDG_CACHE_HOME": "/tmp/cache",
    "XDG_CONFIG_HOME": "/tmp/config",
    "VLLM_CACHE_ROOT": "/tmp/cache/vllm",
    "TRITON_CACHE_DIR": "/tmp/cache/triton",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/cache/inductor",
    # the user id has no name in the image, and PyTorch's caches ask for one
    "USER": "ratchet",
    "LOGNAME": "ratchet",
}
"""The root is read-only, and nothing is told to anybody."""


def _probe() -> Manifest:
    """By a command, since a kubelet does not reach the pod's loopback."""
    ask = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{ENGINE_PORT}/health', timeout=4)"
    return {"exec": {"command": ["python3", "-c", ask]}, "timeoutSeconds": 5}


def _mount(name: str, path: str) -> Manifest:
    return {"name": name, "mountPath": path}
