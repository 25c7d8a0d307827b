"""The RLPolicies of one namespace, read through the API server and remembered.

Decides how old an answer may be. When the API server is away, what was read last still holds: feedback is taken as
before (P37). Never writes and needs only `list` on rlpolicies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import urllib3.exceptions
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from ratchet_api.base import GROUP, VERSION
from ratchet_api.kinds import RL_POLICY
from ratchet_gateway.errors import Away
from ratchet_gateway.policies import PolicyView, view_of

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
UNKNOWN_SECONDS = 1.0
"""A name that is not known is looked for again after this long, so that guesses do not become API calls."""
_TIMEOUT = (2, 5)


class KubernetesPolicies:
    """Policies of a namespace.

    Args:
        api: logged in as the gateway.
        namespace: theirs.
        clock: monotonic seconds.
    """

    def __init__(self, api: client.ApiClient, *, namespace: str, clock: Callable[[], float]) -> None:
        self._objects = client.CustomObjectsApi(api)
        self._namespace, self._clock = namespace, clock
        self._views: dict[str, PolicyView] | None = None
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    async def find(self, name: str) -> PolicyView | None:
        """Return a policy as it was at most FRESH_SECONDS ago, or as it was last seen when nobody answers."""
        limit = FRESH_SECONDS if self._views is not None and name in self._views else UNKNOWN_SECONDS
        if self._clock() - self._asked >= limit:
            async with self._asking:
                if self._clock() - self._asked >= limit:
                    await self._refresh()
        if self._views is None:
            raise Away("the API server does not answer and no policy was read yet; try again", retry_after=5)
        return self._views.get(name)

    async def _refresh(self) -> None:
        try:
            listed: Any = await asyncio.to_thread(
                self._objects.list_namespaced_custom_object,
                GROUP,
                VERSION,
                self._namespace,
                RL_POLICY.plural,
                _request_timeout=_TIMEOUT,
            )
            self._views = {view.name: view for view in map(view_of, listed["items"])}
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            log.warning("policies could not be read; the last ones hold", extra={"error": str(error)[:300]})
        finally:
            self._asked = self._clock()
