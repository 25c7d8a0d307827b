"""The RLPolicies of one namespace, read through the API server and remembered.

Decides how old an answer may be. When the API server is away, what was read last still holds: feedback is taken as
before (P37). Never writes and needs only `list` on rlpolicies.
"""

from __future__ import annotations

from collections.abc import Callable

from kubernetes import client

from ratchet_api.kinds import RL_POLICY
from ratchet_gateway.errors import Away
from ratchet_gateway.listing_kubernetes import KubernetesListing
from ratchet_gateway.policies import PolicyView, view_of

FRESH_SECONDS = 5.0
UNKNOWN_SECONDS = 1.0
"""A name that is not known is looked for again after this long, so that guesses do not become API calls."""


class KubernetesPolicies:
    """Policies of a namespace.

    Args:
        api: logged in as the gateway.
        namespace: theirs.
        clock: monotonic seconds.
    """

    def __init__(self, api: client.ApiClient, *, namespace: str, clock: Callable[[], float]) -> None:
        self._listing: KubernetesListing[dict[str, PolicyView]] = KubernetesListing(
            api,
            RL_POLICY.plural,
            namespace=namespace,
            clock=clock,
            make=lambda bodies: {view.name: view for view in map(view_of, bodies)},
        )

    async def find(self, name: str) -> PolicyView | None:
        """Return a policy as it was at most FRESH_SECONDS ago, or as it was last seen when nobody answers."""
        known = self._listing.last is not None and name in self._listing.last
        views = await self._listing.within(FRESH_SECONDS if known else UNKNOWN_SECONDS)
        if views is None:
            raise Away("the API server does not answer and no policy was read yet; try again", retry_after=5)
        return views.get(name)
