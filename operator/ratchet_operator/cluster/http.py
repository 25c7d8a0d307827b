"""`Cluster` against a real API server: a thin client over one aiohttp session.

Decides how a call looks on the wire (creation under our field manager, deletion by uid, status under its
resourceVersion, lists in pages) and how a refusal is named. Never decides what to call, and repeats a request only
where the server said that it did not run it. Called by observe and apply through the `Cluster` protocol, and by the
heartbeat. Why not the `kubernetes` package: ADR 0001.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

from ratchet_api.base import GROUP, VERSION
from ratchet_api.names import FIELD_MANAGER, PROGRESS_PORT
from ratchet_operator.cluster.answers import host_of, read_at_most
from ratchet_operator.cluster.connect import Connection
from ratchet_operator.cluster.events import EventSink
from ratchet_operator.cluster.gateway import GatewayAccess
from ratchet_operator.cluster.prometheus import PrometheusAccess
from ratchet_operator.cluster.protocol import (
    Conflict,
    Denied,
    KubeObject,
    Rejected,
    Resource,
    Unavailable,
)
from ratchet_operator.cluster.refusals import classify
from ratchet_operator.cluster.rollouts import ask_analyst, ask_router

CallObserver = Callable[[str, str, str, float], None]
"""Hears verb, resource, status code (or `error`) and seconds of every request."""

_PAGE = 100  # a page of runs with full statuses stays below a few MB once parsed
_MAX_ANSWER_BYTES = 64 * 2**20
_WRITTEN = 4096  # remembered versions of our own writes; a forgotten one costs a needless pass
_PROGRESS_MAX_BYTES = 16 * 1024
_PROGRESS_SECONDS = 2.0
_THROTTLED_RETRIES = 2
_THROTTLED_PAUSE_SECONDS = 2.0  # a longer wish goes to the queue: a worker must not sleep on it

_OURS = (f"/apis/{GROUP}/{VERSION}", f"{GROUP}/{VERSION}")
_PATHS: dict[str, tuple[str, str, str]] = {
    "feedbackdatasets": (*_OURS, "FeedbackDataset"),
    "rltrainingruns": (*_OURS, "RLTrainingRun"),
    "rlpolicies": (*_OURS, "RLPolicy"),
    "jobs": ("/apis/batch/v1", "batch/v1", "Job"),
    "pods": ("/api/v1", "v1", "Pod"),
    "configmaps": ("/api/v1", "v1", "ConfigMap"),
    "services": ("/api/v1", "v1", "Service"),
    "deployments": ("/apis/apps/v1", "apps/v1", "Deployment"),
    "poddisruptionbudgets": ("/apis/policy/v1", "policy/v1", "PodDisruptionBudget"),
    "httproutes": ("/apis/gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1", "HTTPRoute"),
    "events": ("/apis/events.k8s.io/v1", "events.k8s.io/v1", "Event"),
    "leases": ("/apis/coordination.k8s.io/v1", "coordination.k8s.io/v1", "Lease"),
}
"""Plural -> path of its group, apiVersion, kind. Events and leases are ours to write, not observe's to read."""


class HttpCluster:
    """A `Cluster` over HTTP; use it as an async context manager.

    Args:
        connection: where the server is and who we are.
        namespaces: the namespaces that `list(namespace=None)` covers; empty = the whole cluster.
        request_seconds: limit of one request, connecting included.
        on_call: hears of every request.
        instance: our pod's name, written into Events.
        gateways: where feedback is counted.
        idle: returns when no pass waits or runs; Events wait for it a few seconds.
        analyst_url: where experiments are, `{namespace}` in place of the namespace; empty = nowhere.
        prometheus: where users' own numbers are.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        namespaces: Sequence[str] = (),
        request_seconds: float = 30.0,
        on_call: CallObserver | None = None,
        instance: str = "ratchet-operator",
        gateways: GatewayAccess | None = None,
        idle: Callable[[], Awaitable[None]] | None = None,
        analyst_url: str = "",
        prometheus: PrometheusAccess | None = None,
    ) -> None:
        self._prometheus = prometheus or PrometheusAccess()
        self._analyst_url = analyst_url
        self._gateways = gateways or GatewayAccess()
        self._connection = connection
        self._namespaces = tuple(namespaces)
        self._on_call = on_call
        self._timeout = aiohttp.ClientTimeout(total=request_seconds, sock_connect=min(5.0, request_seconds))
        self._api: aiohttp.ClientSession | None = None
        self._pods: aiohttp.ClientSession | None = None
        self._events = EventSink(self._post_event, instance=instance, idle=idle)
        self._written: OrderedDict[tuple[str, str], str] = OrderedDict()  # resource, uid -> our last version of it

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._connection.tls or True, limit=64)
        self._api = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        # Pods get a session of their own, so that no credential of ours can ever travel to one.
        self._pods = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PROGRESS_SECONDS))
        self._events.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._events.close()
        for session in (self._api, self._pods):
            if session is not None:
                await session.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """Return the object, or None if it does not exist."""
        status, answer = await self._call("get", resource, namespace, name)
        return None if status == 404 else answer

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: Mapping[str, str] | None = None
    ) -> Sequence[KubeObject]:
        """Return all objects with these labels, read page by page; namespace None = every watched namespace."""
        found: dict[tuple[str, str], KubeObject] = {}
        async for page in self.pages(resource, namespace, labels=labels):
            for item in page:
                found[item["metadata"]["namespace"], item["metadata"]["name"]] = item
        return tuple(found.values())

    async def create(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """Create the object; Conflict if it exists."""
        namespace = str(manifest["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER}
        name = str(manifest["metadata"].get("name", ""))
        _, answer = await self._call("create", resource, namespace, name, query=query, body=_whole(resource, manifest))
        self._note_written(resource, answer)
        return answer

    async def apply(self, resource: Resource, manifest: KubeObject, *, uid: str | None) -> KubeObject:
        """Server-side apply under our field manager; without a uid it never takes a field from somebody else."""
        metadata = manifest["metadata"] | ({"uid": uid} if uid else {})
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if uid else "false"}
        body = _whole(resource, {**manifest, "metadata": metadata})
        _, answer = await self._call("apply", resource, metadata["namespace"], metadata["name"], query=query, body=body)
        self._note_written(resource, answer)
        return answer

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, foreground: bool = False
    ) -> None:
        """Delete the object if it still has that uid; gone, or replaced by another of its name, is success."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Foreground" if foreground else "Background",
        }
        try:
            await self._call("delete", resource, namespace, name, body=body)
        except Conflict:
            # The precondition failed: the name belongs to another object now, so ours is gone.
            return

    async def patch_status(self, resource: Resource, obj: KubeObject, status: Mapping[str, Any]) -> KubeObject:
        """Replace the whole status under obj's resourceVersion; Conflict if it changed, Rejected 404 if it is gone."""
        metadata = obj["metadata"]
        _, api_version, kind = _PATHS[resource]
        body = {
            "apiVersion": api_version,
            "kind": kind,
            # The status subresource takes nothing else from what is sent, so nothing else is.
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
            "status": dict(status),
        }
        query = {"fieldManager": FIELD_MANAGER}
        code, answer = await self._call(
            "update-status", resource, metadata["namespace"], metadata["name"], query=query, body=body
        )
        if code == 404:
            raise Rejected(f"{resource} {metadata['namespace']}/{metadata['name']} is gone", status=404)
        self._note_written(resource, answer)
        return answer

    async def emit(self, obj: KubeObject, *, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Queue a Kubernetes Event about the object; it is sent beside the passes, and never raises."""
        self._events.put(obj, type=type, reason=reason, message=message)

    async def events(self, obj: KubeObject) -> Sequence[KubeObject]:
        """Return the Events about exactly this object (by uid), at most 50."""
        query = {"limit": "50"} | _selector("fieldSelector", {"regarding.uid": str(obj["metadata"]["uid"])})
        page = await self._page("events", obj["metadata"]["namespace"], query, "")
        found: Sequence[KubeObject] = page["items"]
        return found

    async def new_feedback(self, namespace: str, policy: str, since: datetime) -> int | str:
        """Ask the namespace's gateway how many events are new; a text says why it does not tell."""
        if self._pods is None:
            return "the client is closed"
        return await self._gateways.count(self._pods, namespace, policy, since)

    async def progress(self, pod: KubeObject) -> Mapping[str, Any] | None:
        """Ask the pod's /progress; None if it has no address yet or gives no proper answer within two seconds."""
        address = pod.get("status", {}).get("podIP")
        if not address or self._pods is None:
            return None
        try:
            url = f"http://{host_of(address)}:{PROGRESS_PORT}/progress"
            async with self._pods.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                parsed = json.loads(await read_at_most(response, _PROGRESS_MAX_BYTES))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        return parsed if isinstance(parsed, dict) else None

    async def routed(self, pod: KubeObject, versions: Sequence[int]) -> tuple[str, frozenset[int]]:
        """Ask a router's pod for its table and for each version's readiness, all at once."""
        address = pod.get("status", {}).get("podIP")
        return await ask_router(self._pods, address, versions) if address and self._pods else ("", frozenset())

    async def evidence(self, namespace: str, policy: str, experiment: str) -> Mapping[str, Any] | str:
        """Ask the namespace's analyst; a text says why it does not tell."""
        if self._pods is None:
            return "the client is closed"
        return await ask_analyst(self._pods, self._analyst_url, namespace, policy, experiment)

    async def measured(self, namespace: str, query: str) -> float | str:
        """Ask Prometheus for one number; a text says why there is none."""
        return (
            "the client is closed" if self._pods is None else await self._prometheus.ask(self._pods, namespace, query)
        )

    async def apply_lease(self, manifest: KubeObject) -> KubeObject:
        """Server-side apply of a Lease: the heartbeat's only write."""
        metadata = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        _, answer = await self._call(
            "apply", "leases", metadata["namespace"], metadata["name"], query=query, body=_whole("leases", manifest)
        )
        return answer

    def is_echo(self, resource: str, obj: Mapping[str, Any]) -> bool:
        """Whether this revision of the object is the one that our own last write to it made."""
        metadata = obj["metadata"]
        version = self._written.get((resource, str(metadata.get("uid", ""))))
        return version is not None and version == metadata.get("resourceVersion")

    async def flush_events(self) -> None:
        """Wait until every queued Event was sent or given up."""
        await self._events.flush()

    def _note_written(self, resource: str, answer: KubeObject) -> None:
        metadata = answer["metadata"]
        self._written[resource, str(metadata.get("uid", ""))] = str(metadata.get("resourceVersion", ""))
        if len(self._written) > _WRITTEN:
            self._written.popitem(last=False)

    async def _post_event(self, event: KubeObject) -> None:
        namespace = event["metadata"]["namespace"]
        await self._call("create", "events", namespace, event["metadata"]["name"], body=_whole("events", event))

    async def pages(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Sequence[KubeObject]]:
        """Yield the objects page by page; a list that the server lost its place in begins anew, once.

        A reader may then see an object twice, as it may see one that is gone by the end of the list.
        """
        scopes = self._namespaces if namespace is None and self._namespaces else (namespace,)
        query = {"limit": str(_PAGE)} | _selector("labelSelector", labels) | _selector("fieldSelector", fields)
        for scope in scopes:
            token, restarted = "", False
            while True:
                try:
                    page = await self._page(resource, scope, query, token)
                except Unavailable as error:
                    if error.status != 410 or not token or restarted:
                        raise
                    token, restarted = "", True
                    continue
                yield page["items"]
                token = page["metadata"].get("continue") or ""
                if not token:
                    break

    async def _page(self, resource: str, namespace: str | None, query: Mapping[str, str], token: str) -> KubeObject:
        page_query = {**query, "continue": token} if token else query
        status, page = await self._call("list", resource, namespace, "", query=page_query)
        if status == 404:
            raise Unavailable(
                f"list {resource}: the API server does not know them; are the CRDs installed?", status=404
            )
        _, api_version, kind = _PATHS[resource]
        # Items of a list come without these two.
        items = [{"apiVersion": api_version, "kind": kind} | item for item in page.get("items") or ()]
        return {"items": items, "metadata": page.get("metadata") or {}}

    async def _call(
        self,
        verb: str,
        resource: str,
        namespace: str | None,
        name: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> tuple[int, KubeObject]:
        """Send one request; 404 is returned to verbs for which it is an answer, any other refusal raised."""
        what = f"{verb} {resource} {namespace or '*'}/{name or '*'}"
        url = self._url(verb, resource, namespace, name)
        for attempt in range(_THROTTLED_RETRIES + 1):
            status, text, headers = await self._exchange(verb, resource, url, query, body, what)
            if status < 400:
                return status, json.loads(text) if text else {}
            if status == 404 and verb not in {"create", "apply"}:
                return status, {}
            error = classify(status, text, headers, what=what)
            pause = getattr(error, "retry_after_seconds", None)
            if status != 429 or attempt == _THROTTLED_RETRIES or (pause or 0.0) > _THROTTLED_PAUSE_SECONDS:
                raise error
            await asyncio.sleep(pause or 0.1)
        raise AssertionError("the loop above returns or raises")

    async def _exchange(
        self,
        verb: str,
        resource: str,
        url: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        what: str,
    ) -> tuple[int, str, Mapping[str, str]]:
        if self._api is None:
            raise RuntimeError("HttpCluster is used outside its `async with` block")
        method, content_type = _METHODS[verb]
        headers = self._connection.headers()
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body, separators=(",", ":")).encode()
        loop = asyncio.get_running_loop()
        began, code = loop.time(), "error"
        try:
            async with self._api.request(method, url, params=query, data=data, headers=headers) as response:
                text = (await read_at_most(response, _MAX_ANSWER_BYTES)).decode("utf-8", "replace")
                code = str(response.status)
                return response.status, text, response.headers
        except TimeoutError as error:
            raise Unavailable(f"{what}: no answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{what}: {str(error) or type(error).__name__}") from error
        finally:
            if self._on_call is not None:
                self._on_call(verb, resource, code, loop.time() - began)

    def _url(self, verb: str, resource: str, namespace: str | None, name: str) -> str:
        path = _PATHS[resource][0]
        scope = f"/namespaces/{namespace}" if namespace else ""
        tail = "" if verb in {"create", "list"} else f"/{name}"
        subresource = "/status" if verb == "update-status" else ""
        return f"{self._connection.server}{path}{scope}/{resource}{tail}{subresource}"


_METHODS: dict[str, tuple[str, str]] = {
    "get": ("GET", ""),
    "list": ("GET", ""),
    "create": ("POST", "application/json"),
    "apply": ("PATCH", "application/apply-patch+yaml"),  # JSON is YAML
    "delete": ("DELETE", "application/json"),
    "update-status": ("PUT", "application/json"),
}


def _selector(name: str, wanted: Mapping[str, str] | None) -> dict[str, str]:
    return {name: ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))} if wanted else {}


def _whole(resource: str, manifest: KubeObject) -> KubeObject:
    """Return the manifest with apiVersion and kind, refusing a manifest that claims to be something else."""
    _, api_version, kind = _PATHS[resource]
    if manifest.get("kind", kind) != kind:
        raise Denied(f"manifest of kind {manifest['kind']!r} sent to {resource}, which holds {kind}")
    return {"apiVersion": api_version, "kind": kind} | manifest
