"""The FeedbackDatasets of one namespace, read through the API server and remembered.

Decides how old an answer may be, and what is said when there is none. Never writes and needs only `list` on
feedbackdatasets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kubernetes import client

from ratchet_api.kinds import FEEDBACK_DATASET
from ratchet_api.review import ReviewDataset
from ratchet_gateway.datasets import Untold, by_policy
from ratchet_gateway.listing_kubernetes import KubernetesListing

FRESH_SECONDS = 10.0
"""A snapshot takes longer, and each open page asks every few seconds."""


class KubernetesDatasets:
    """Data sets of a namespace.

    Args:
        api: logged in as the gateway.
        namespace: theirs.
        clock: monotonic seconds.
    """

    def __init__(self, api: client.ApiClient, *, namespace: str, clock: Callable[[], float]) -> None:
        self._namespace = namespace
        self._listing: KubernetesListing[dict[str, tuple[ReviewDataset, ...]]] = KubernetesListing(
            api, FEEDBACK_DATASET.plural, namespace=namespace, clock=clock, make=by_policy
        )

    async def of(self, policy: str) -> Sequence[ReviewDataset]:
        """Return the data sets of a policy's feedback as they were lately."""
        found = await self._listing.within(FRESH_SECONDS)
        if found is not None:
            return found.get(policy, ())
        if self._listing.forbidden:
            raise Untold(
                f"the gateway's service account may not list feedbackdatasets in namespace {self._namespace!r}; "
                "allow it, as the chart's role does"
            )
        raise Untold("the API server does not answer, and no data set was read yet; they come when it does")
