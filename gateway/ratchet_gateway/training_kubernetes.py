"""Training objects in the gateway's namespace, through the API server.

Decides which refusal of the server is whose: a missing right and an outage are ours, a spec that is refused is the
caller's. Needs `create` and `get` on feedbackdatasets and rltrainingruns, nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import urllib3.exceptions
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from ratchet_api.base import GROUP, VERSION
from ratchet_gateway.errors import Away
from ratchet_web.errors import Malformed

_TIMEOUT = (2, 10)


class KubernetesTraining:
    """Objects of a namespace.

    Args:
        api: logged in as the gateway.
        namespace: theirs.
    """

    def __init__(self, api: client.ApiClient, *, namespace: str) -> None:
        self._objects, self._namespace = client.CustomObjectsApi(api), namespace

    async def create(self, plural: str, body: Mapping[str, Any]) -> None:
        """Create an object; one of that name that is there already stays as it is."""
        try:
            await self._ask(self._objects.create_namespaced_custom_object, plural, dict(body))
        except ApiException as error:
            if error.status == 409:
                return
            if error.status in (400, 422):
                raise Malformed(f"{body['kind']}: the API server refuses it: {_message(error)}") from error
            raise self._away("create", plural, error) from error

    async def read(self, plural: str, name: str) -> Mapping[str, Any] | None:
        """Return an object, or None."""
        try:
            found: Mapping[str, Any] = await self._ask(self._objects.get_namespaced_custom_object, plural, name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise self._away("get", plural, error) from error
        return found

    async def _ask(self, call: Callable[..., Any], plural: str, what: Any) -> Any:
        try:
            return await asyncio.to_thread(
                call, GROUP, VERSION, self._namespace, plural, what, _request_timeout=_TIMEOUT
            )
        except urllib3.exceptions.HTTPError as error:
            raise Away(f"the API server does not answer ({type(error).__name__}); try again", retry_after=5) from error

    def _away(self, verb: str, plural: str, error: ApiException) -> Away:
        if error.status == 403:
            return Away(
                f"the gateway's service account may not {verb} {plural} in namespace {self._namespace!r}; "
                "enable training in the chart",
                retry_after=60,
            )
        return Away(f"the API server answers {error.status}: {_message(error)}; try again", retry_after=5)


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])[:1000]
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
