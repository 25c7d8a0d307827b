"""Ratchet installed on the lab as a user would install it, and the few things that the end-to-end tests do with it.

Holds no assertion about Ratchet itself: it installs, uploads, applies, waits and reads; the tests judge.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.lab.cluster import Lab
from tests.lab.settings import (
    GATEWAY_IMAGE,
    JOBS_IMAGE,
    OPERATOR_IMAGE,
    PROMETHEUS_URL,
    ROUTER_IMAGE,
    S3_TEAM,
    SERVING_IMAGE,
    LabError,
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "01-support-router"
SYSTEM = "ratchet-system"
TEAM = S3_TEAM
SECRET = "ratchet-store-credentials"
GATEWAY_SECRET = "ratchet-gateway-store"
SIGNING_SECRET = "ratchet-gateway-signing"
OPERATOR = "deployment/ratchet-operator"
ATTRIBUTION_SECONDS = 15
"""How long a vote counts: the tests' people vote at once."""

Object = dict[str, Any]


@dataclass
class Platform:
    """A lab with the chart installed and one restricted namespace for a team."""

    lab: Lab
    namespace: str = TEAM
    seen_progress: list[str] = field(default_factory=list)

    def install(self, *, time_scale: float) -> None:
        """Make the namespaces, the store's Secret and the release."""
        for name in (SYSTEM, self.namespace):
            self.lab.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
                }
            )
        for name, identity in ((SECRET, "admin"), (GATEWAY_SECRET, "gateway")):
            access, secret = self.lab.s3_credentials(identity)
            self._secret(name, {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret})
        self._secret(SIGNING_SECRET, {"2026-11": secrets.token_hex(32)})
        self.lab.helm(
            "install", "ratchet", str(ROOT / "charts" / "ratchet"), "--namespace", SYSTEM,
            "--set", f"images.operator={OPERATOR_IMAGE}",
            "--set", f"images.jobs={JOBS_IMAGE}",
            "--set", f"images.gateway={GATEWAY_IMAGE}",
            "--set", "gateway.enabled=true",
            "--set", f"images.router={ROUTER_IMAGE}",
            "--set", f"images.serving={SERVING_IMAGE}",
            "--set", "gateway.training.enabled=true",
            "--set", "gateway.analyst.enabled=true",
            "--set", f"gateway.analyst.attributionSeconds={ATTRIBUTION_SECONDS}",
            "--set", "gateway.analyst.settleSeconds=2",
            "--set", "serving.enabled=true",
            "--set", "serving.httpRoutes.enabled=true",
            "--set", f"serving.prometheus.url={PROMETHEUS_URL}",
            "--set", f"gateway.namespaces={{{self.namespace}}}",
            "--set", f"gateway.storeSecretName={GATEWAY_SECRET}",
            "--set", f"store.uri=s3://{self.lab.s3_bucket}",
            "--set", f"store.endpoint={self.lab.s3_endpoint}",
            "--set", f"store.secretName={SECRET}",
            "--set", f"timeScale={time_scale}",
            "--wait", "--timeout", "180s",
        )  # fmt: skip

    def _secret(self, name: str, content: Mapping[str, str]) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        self.lab.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(content)})

    def s3(self, identity: str = "admin") -> Any:
        """A boto3 client; use it inside `with platform.lab.inside()`."""
        access, secret = self.lab.s3_credentials(identity)
        return boto3.client(
            "s3",
            endpoint_url=self.lab.s3_endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """Put files below the team's prefix, where store:// URIs of its manifests point."""
        with self.lab.inside():
            client = self.s3()
            for key, content in files.items():
                body = content if isinstance(content, bytes) else content.read_bytes()
                client.put_object(Bucket=self.lab.s3_bucket, Key=f"{self.namespace}/{key}", Body=body)

    def forget_everything(self) -> None:
        """Empty the team's prefix, so that a lab that was kept from an earlier session has nothing cached."""
        for key in self.keys(f"{self.namespace}/"):
            self.delete_object(key)

    def read_object(self, key: str) -> bytes:
        """Bytes of one object, by its key in the bucket."""
        with self.lab.inside():
            data: bytes = self.s3().get_object(Bucket=self.lab.s3_bucket, Key=key)["Body"].read()
        return data

    def keys(self, prefix: str) -> list[str]:
        """Every key of the bucket below the prefix."""
        with self.lab.inside():
            pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket=self.lab.s3_bucket, Prefix=prefix)
            return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def delete_object(self, key: str) -> None:
        """Delete one object, by its key in the bucket."""
        with self.lab.inside():
            self.s3().delete_object(Bucket=self.lab.s3_bucket, Key=key)

    def kubectl(self, *args: str, **kwargs: Any) -> str:
        """Run kubectl in the team's namespace."""
        return self.lab.kubectl("-n", self.namespace, *args, **kwargs)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects in the team's namespace."""
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str) -> Object:
        """One object as served, or an empty dict when it does not exist."""
        text = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text.strip() else {}

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind with a label selector."""
        found: list[Object] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    def jobs_of(self, owner: str) -> list[Object]:
        """Jobs that work for the run or dataset of that name."""
        return self.items("jobs", f"ratchet.dev/owner={owner}")

    def pods_of(self, owner: str) -> list[Object]:
        """Pods that work for the run or dataset of that name."""
        return self.items("pods", f"ratchet.dev/owner={owner}")

    def condition(self, kind: str, name: str, condition: str) -> Object:
        """One condition of an object, empty while absent."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == condition), {})

    def wait(self, what: str, condition: Callable[[], bool], timeout_seconds: float = 300) -> None:
        """Poll until the condition holds; on time-out say how everything stands."""
        try:
            self.lab.wait_for(condition, what, timeout_seconds)
        except LabError:
            state = self.lab.kubectl("get", "fbd,rltr,rlp,jobs,pods", "-A", "-o", "wide", check=False)
            log = self.lab.kubectl("-n", SYSTEM, "logs", OPERATOR, "--tail=40", check=False)
            raise AssertionError(f"waited {timeout_seconds} s for {what}\n{state}\n{log}") from None

    def finish(self, run: str, timeout_seconds: float = 600) -> Object:
        """Wait until the run is Complete and return it, noting what kubectl showed; a failure ends the wait."""

        def done() -> bool:
            obj = self.get("rltr", run)
            status = obj.get("status", {})
            shown = self.kubectl("get", "rltr", run, "--no-headers")
            if not self.seen_progress or self.seen_progress[-1] != shown:
                self.seen_progress.append(shown)
            for condition in status.get("conditions", []):
                if condition["type"] == "Failed" and condition["status"] == "True":
                    raise AssertionError(f"run {run} failed: {condition['reason']}: {condition['message']}")
            return any(c["type"] == "Complete" and c["status"] == "True" for c in status.get("conditions", []))

        self.wait(f"run {run} to be Complete", done, timeout_seconds)
        return self.get("rltr", run)

    def wait_training(self, run: str, *, step: int = 1, timeout_seconds: float = 240) -> Object:
        """Wait until the supervised stage's pod reports at least that step; return the run."""

        def training() -> bool:
            progress = self.get("rltr", run).get("status", {}).get("progress") or {}
            return progress.get("stage") == "supervised" and progress.get("step", 0) >= step

        self.wait(f"run {run} to reach step {step} of its supervised stage", training, timeout_seconds)
        return self.get("rltr", run)

    def kill_operator(self) -> None:
        """End the operator's pod at once, as a node failure would."""
        self.lab.kubectl("-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=operator",
                         "--grace-period=0", "--force", "--wait=false")  # fmt: skip

    @contextmanager
    def without_s3(self) -> Iterator[None]:
        """Take the S3 server away for a block."""
        with self.lab.without("s3"):
            yield
