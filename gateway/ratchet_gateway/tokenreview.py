"""Callers that are known to Kubernetes: TokenReview says who, SubjectAccessReview says what they may do.

Decides which right in the cluster stands for which role, so that access is given by RBAC and taken away by it:
`ingest` = create rlpolicies/feedback, `read` = get rlpolicies, `train` = create rltrainingruns, `erase` = delete
rlpolicies/feedback, all in the gateway's namespace. Answers are kept for a minute. Never keeps a token, only its
digest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import urllib3.exceptions
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from ratchet_api.base import GROUP
from ratchet_gateway.auth import Caller, Role
from ratchet_gateway.errors import Away

AUDIENCE = "ratchet-gateway"
RIGHTS: dict[Role, tuple[str, str, str]] = {
    Role.INGEST: ("create", "rlpolicies", "feedback"),
    Role.READ: ("get", "rlpolicies", ""),
    Role.TRAIN: ("create", "rltrainingruns", ""),
    Role.ERASE: ("delete", "rlpolicies", "feedback"),
}
"""Verb, resource and subresource that stand for a role."""
KEPT_SECONDS = 60.0
_KEPT = 10_000
_TIMEOUT = (2, 5)


class KubernetesTokens:
    """Tokens of service accounts and users.

    Args:
        api: logged in as the gateway; it needs create on tokenreviews and subjectaccessreviews.
        namespace: in which the rights are asked about.
        clock: monotonic seconds.
    """

    def __init__(self, api: client.ApiClient, *, namespace: str, clock: Callable[[], float]) -> None:
        self._tokens, self._rights = client.AuthenticationV1Api(api), client.AuthorizationV1Api(api)
        self._namespace, self._clock = namespace, clock
        self._known: OrderedDict[str, tuple[float, Caller | None]] = OrderedDict()

    async def caller(self, token: str) -> Caller | None:
        """Return whose token this is, with the roles that RBAC gives them."""
        if token.count(".") != 2:
            return None  # no JSON web token; the API server need not be bothered
        digest, now = hashlib.sha256(token.encode()).hexdigest(), self._clock()
        until, caller = self._known.get(digest, (0.0, None))
        if until > now:
            return caller
        try:
            caller = await asyncio.to_thread(self._ask, token)
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise Away(
                f"the API server did not say whose token this is ({reason}); try again", retry_after=5
            ) from error
        self._known[digest] = (now + KEPT_SECONDS, caller)
        self._known.move_to_end(digest)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return caller

    def _ask(self, token: str) -> Caller | None:
        review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token, audiences=[AUDIENCE]))
        status: Any = self._tokens.create_token_review(review, _request_timeout=_TIMEOUT).status
        if not status.authenticated or AUDIENCE not in (status.audiences or []):
            return None
        return Caller(str(status.user.username), frozenset(role for role in Role if self._may(status.user, role)))

    def _may(self, user: Any, role: Role) -> bool:
        verb, resource, subresource = RIGHTS[role]
        review = client.V1SubjectAccessReview(
            spec=client.V1SubjectAccessReviewSpec(
                user=user.username,
                uid=user.uid,
                groups=user.groups,
                resource_attributes=client.V1ResourceAttributes(
                    group=GROUP,
                    resource=resource,
                    subresource=subresource or None,
                    verb=verb,
                    namespace=self._namespace,
                ),
            )
        )
        answer: Any = self._rights.create_subject_access_review(review, _request_timeout=_TIMEOUT)
        return bool(answer.status.allowed)
