"""All objects of one of our kinds in a namespace, read through the API server and remembered.

Decides that what was read last holds while the API server is away (P37), and that one question at a time is put to it.
How old an answer may be is the caller's affair. Never writes and needs only `list` on the kind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import urllib3.exceptions
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from ratchet_api.base import GROUP, VERSION

log = logging.getLogger(__name__)

_TIMEOUT = (2, 5)
Made = TypeVar("Made")


class KubernetesListing(Generic[Made]):
    """What `make` makes of a listing.

    Args:
        api: logged in as the gateway.
        plural: of the kind.
        namespace: of the objects.
        clock: monotonic seconds.
        make: from the objects to what is remembered.
    """

    def __init__(
        self,
        api: client.ApiClient,
        plural: str,
        *,
        namespace: str,
        clock: Callable[[], float],
        make: Callable[[Sequence[Mapping[str, Any]]], Made],
    ) -> None:
        self.last: Made | None = None
        """As it was last seen; None = never."""
        self.forbidden = False
        """Whether the API server refused the last question."""
        self._objects = client.CustomObjectsApi(api)
        self._plural, self._namespace, self._clock, self._make = plural, namespace, clock, make
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    async def within(self, seconds: float) -> Made | None:
        """Return what there is, asking again if that was asked longer ago; what was seen last when nobody answers."""
        if self._clock() - self._asked >= seconds:
            async with self._asking:
                if self._clock() - self._asked >= seconds:
                    await self._refresh()
        return self.last

    async def _refresh(self) -> None:
        try:
            listed: Any = await asyncio.to_thread(
                self._objects.list_namespaced_custom_object,
                GROUP,
                VERSION,
                self._namespace,
                self._plural,
                _request_timeout=_TIMEOUT,
            )
            self.last, self.forbidden = self._make(listed["items"]), False
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            self.forbidden = getattr(error, "status", None) == 403
            log.warning(
                "objects could not be read; the last ones hold", extra={"kind": self._plural, "error": str(error)[:300]}
            )
        finally:
            self._asked = self._clock()
