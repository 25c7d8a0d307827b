"""Builders of the small pods that the lab's tests run; each is allowed under Pod Security `restricted`."""

from __future__ import annotations

from typing import Any

from tests.lab.settings import BUSYBOX_IMAGE

RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def shell_pod(name: str, script: str, **container: Any) -> dict[str, Any]:
    """A pod that runs a shell script once; keyword arguments go into its container."""
    return pod(name, image=BUSYBOX_IMAGE, command=["/bin/sh", "-c", script], **container)


def server_pod(name: str, body: str, **options: Any) -> dict[str, Any]:
    """A pod that answers every HTTP request on port 8080 (named metrics) with the text, as an exporter would."""
    answer = f"HTTP/1.0 200 OK\\r\\nContent-Type: text/plain; version=0.0.4\\r\\n\\r\\n{body}\\n"
    script = f"while true; do printf '{answer}' | nc -l -p 8080; done"
    return shell_pod(name, script, ports=[{"containerPort": 8080, "name": "metrics"}], **options)


def pod(name: str, *, labels: dict[str, str] | None = None, **container: Any) -> dict[str, Any]:
    """A pod with one container, a read-only root file system and a writable /tmp."""
    main = {
        "name": "main",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [main],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
