"""Backend for a Kubernetes cluster, through the `kubernetes` client and the user's own kubeconfig.

Decides how server errors are worded. Uses the client's transport and authentication only; requests are plain REST,
because our kinds are custom resources. Used by the verbs when they are not local.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import urllib3.exceptions
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from ratchet_api.base import GROUP, VERSION
from ratchet_api.kinds import Kind
from ratchet_api.names import LABEL_OWNER_KIND, LABEL_OWNER_NAME, LABEL_STAGE, label_value
from ratchet_cli.backend import Body, owned_by
from ratchet_cli.errors import CliError, NotFound

FIELD_MANAGER = "ratchet-cli"
APPLY_PATCH = "application/apply-patch+yaml"


class RemoteBackend:
    """Objects of our kinds in one namespace of a cluster.

    Args:
        context: kubeconfig context; None = the current one.
        namespace: None = the context's.
        api: a client that is logged in; None = by the kubeconfig.

    Raises:
        CliError: no kubeconfig, or it names no such context.
    """

    def __init__(
        self, *, context: str | None = None, namespace: str | None = None, api: client.ApiClient | None = None
    ) -> None:
        if api is not None:
            self.namespace, self.where, self._api = namespace or "default", "the cluster", api
            return
        try:
            file = os.environ.get("KUBECONFIG") or "~/.kube/config"  # the client itself looks only when it is imported
            contexts, active = config.list_kube_config_contexts(config_file=file)
            chosen = next((c for c in contexts if c["name"] == context), active if context is None else None)
            if chosen is None:
                names = ", ".join(c["name"] for c in contexts) or "none"
                raise CliError(f"context {context!r} is not in the kubeconfig; it has: {names}")
            config.load_kube_config(config_file=file, context=chosen["name"])
            self.namespace = namespace or chosen["context"].get("namespace") or "default"
            self.where = f"cluster {chosen['context'].get('cluster', chosen['name'])!r}"
        except ConfigException as error:
            remedy = "set KUBECONFIG, or use --local for runs of this machine"
            raise CliError(f"no usable kubeconfig: {error}; {remedy}") from error
        self._api = client.ApiClient()

    def notice(self) -> str:
        """Return nothing: a cluster speaks through its objects."""
        return ""

    def get(self, kind: Kind[Any, Any], name: str) -> Body | None:
        """Return the object or None."""
        try:
            return self._call("GET", self._path(kind, name))
        except NotFound:
            self.list(kind)  # tells a missing CRD from a missing object
            return None

    def list(self, kind: Kind[Any, Any]) -> Sequence[Body]:
        """Return all objects of the kind, sorted by name."""
        try:
            items = self._call("GET", self._path(kind)).get("items", [])
        except NotFound as error:
            raise CliError(
                f"{self.where} does not know {kind.plural}.{GROUP}; install the CRDs with the chart first"
            ) from error
        return sorted(items, key=lambda each: str(each["metadata"]["name"]))

    def apply(self, kind: Kind[Any, Any], body: Body) -> str:
        """Server-side apply as the user's own field manager."""
        name = body["metadata"]["name"]
        before = self.get(kind, name)
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        after = self._call("PATCH", self._path(kind, name), query=query, body=body, content=APPLY_PATCH)
        if before is None:
            return "created"
        same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
        return "unchanged" if same else "configured"

    def patch(self, kind: Kind[Any, Any], name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the object."""
        query = {"fieldManager": FIELD_MANAGER}
        self._call(
            "PATCH", self._path(kind, name), query=query, body=dict(patch), content="application/merge-patch+json"
        )

    def who(self) -> str:
        """Return the user name that the API server has for these credentials; empty if it does not tell."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            said = self._call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)
        except CliError:  # before Kubernetes 1.28, or not allowed: the name is a courtesy
            return ""
        return str(said.get("status", {}).get("userInfo", {}).get("username", ""))

    def delete(self, kind: Kind[Any, Any], name: str) -> None:
        """Delete the object; its pods go with it."""
        self._call("DELETE", self._path(kind, name), query={"propagationPolicy": "Background"})

    def read(self, plural: str, name: str) -> Body | None:
        """Return a ConfigMap or Secret of the namespace, or None."""
        try:
            return self._call("GET", f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")
        except NotFound:
            return None

    def config_maps(self, labels: Mapping[str, str], *, owner_uid: str) -> Sequence[Body]:
        """Return the ConfigMaps with these labels that the object with this uid owns."""
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())}
        items = self._call("GET", f"/api/v1/namespaces/{self.namespace}/configmaps", query=query).get("items", [])
        return [each for each in items if owned_by(each, owner_uid)]

    def pods(self, kind: Kind[Any, Any], name: str, stage: str | None) -> Sequence[Body]:
        """Return the pods that worked for the object, oldest first."""
        labels = {LABEL_OWNER_KIND: kind.kind, LABEL_OWNER_NAME: label_value(name)} | (
            {LABEL_STAGE: stage} if stage else {}
        )
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        items = self._call("GET", path, query={"labelSelector": selector}).get("items", [])
        return sorted(items, key=lambda each: str(each["metadata"]["creationTimestamp"]))

    def logs(self, pod: Body, *, follow: bool) -> Iterator[str]:
        """Yield the pod's output line by line."""
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/log"
        try:
            answer = self._send("GET", path, query={"follow": str(follow).lower()}, seconds=None)
            if answer.status != 200:
                raise _as_cli_error(answer.status, answer.read(), f"log of pod {name}")
            rest = b""
            for chunk in answer.response.stream(4096):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error

    def _path(self, kind: Kind[Any, Any], name: str | None = None) -> str:
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{kind.plural}"
        return f"{path}/{name}" if name else path

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content: str = "application/json",
    ) -> Body:
        try:
            answer = self._send(method, path, query=query, body=body, content=content, seconds=60)
            text = answer.read()
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        if not 200 <= answer.status < 300:
            raise _as_cli_error(answer.status, text, path.rpartition(f"/{VERSION}/")[2])
        found: Body = json.loads(text or b"{}")
        return found

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content: str = "application/json",
        seconds: float | None,
    ) -> Any:
        # the client writes JSON for every JSON content type; an apply patch is sent as text, JSON being YAML
        sent = json.dumps(body) if content == APPLY_PATCH else body
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content},
            body=sent,
            auth_settings=["BearerToken"],
        )
        return self._api.call_api(*request, _request_timeout=(5, seconds))

    def _unreachable(self, error: Exception) -> CliError:
        host = self._api.configuration.host
        return CliError(f"{self.where} does not answer at {host}: {_short(error)}; see `kubectl cluster-info`")


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason if reason is not None else error).rpartition(": ")[2][:200]


def _as_cli_error(status: int | None, text: bytes | str | None, subject: str) -> CliError:
    try:
        message = str(json.loads(text or b"{}").get("message") or f"HTTP {status}")
    except (ValueError, AttributeError):
        message = f"HTTP {status}"
    if status == 404:
        return NotFound(message)
    if status in (401, 403):
        return CliError(f"{message}; ask for access, or choose another --context")
    return CliError(f"{subject}: {message}")
