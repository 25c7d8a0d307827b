"""Names, labels and annotations: every child's name is a function of its owner, the stage and the attempt.

Used by the operator (children), the jobs (store keys) and the CLI (selectors). Pure; never asks a cluster.
Names must be short enough for a Job's pods (63 characters with the pod's own suffix), so long owner names are
cut and told apart by a hash of the whole name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

MANAGED_BY = "ratchet"
FIELD_MANAGER = "ratchet-operator"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_OWNER_KIND = "ratchet.dev/owner-kind"
LABEL_OWNER_NAME = "ratchet.dev/owner"
LABEL_OWNER_UID = "ratchet.dev/owner-uid"
LABEL_STAGE = "ratchet.dev/stage"
LABEL_ATTEMPT = "ratchet.dev/attempt"
LABEL_POLICY = "ratchet.dev/policy"
LABEL_VERSION = "ratchet.dev/version"
"""On a policy's servers: which version they serve."""
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"

ANNOTATION_SPEC_HASH = "ratchet.dev/spec-hash"
"""Hash of the manifest as we rendered it; tells an adopted child from a foreign one."""
ANNOTATION_STAGE_INPUT = "ratchet.dev/stage-input"
"""On a stage's pod: the whole of its stage.json, which the pod mounts as a file."""
ANNOTATION_OWNER_NAME = "ratchet.dev/owner-name"
"""Whole name of a child's owner; its label may hold a cut form."""
ANNOTATION_PROMOTE = "ratchet.dev/promote"
"""On an RLPolicy: the version number that shall become champion (set by `ratchet promote`)."""
ANNOTATION_ROLLOUT = "ratchet.dev/rollout"
"""On an RLPolicy: what its rollout shall do, as VERB or VERB:ANYTHING; each new value is obeyed once."""
ANNOTATION_ASKED_BY = "ratchet.dev/asked-by"
"""On an RLPolicy: `VALUE NAME`, who set one of the two above to that value, as they say themselves."""
ANNOTATION_TABLE = "ratchet.dev/table"
"""On a router's pod: which table it was told of. A new value makes the kubelet look at once."""
ANNOTATION_REFRESH = "ratchet.dev/refresh"
"""On a FeedbackDataset: any new value asks for a fresh snapshot of unchanged sources."""

ANNOTATION_ERASED = "ratchet.dev/erased"
"""On an RLTrainingRun: id of the newest erasure that removed data which it had learned from; on an RLPolicy: the
versions that such runs published, as in 3,5."""

ANNOTATION_INDEX = "batch.kubernetes.io/job-completion-index"
"""On a pod of an indexed Job, by Kubernetes: which node of the stage it is, from 0."""

STORE_CONFIGMAP = "ratchet-store"
"""Name of the optional ConfigMap that gives a namespace its own store (keys uri, endpoint, region, secretName)."""
STAGE_FILE = "stage.json"
STAGE_DIR = "/etc/ratchet"
STAGE_CONTAINER = "stage"
"""Name of the one container of a stage's pod."""
PROGRESS_PORT = 9402
SERVER_PORT = 8080
"""Of a policy's servers."""
ENGINE_PORT = 8081
"""Of the engine beside a server, on their pod's loopback."""
ROUTER_PORT = 8080
"""Of a policy's routers, as their pods have it; their Service has 80."""

_CHILD_LIMIT = 52  # a Job's pod name adds "-" and 5 characters; label values and host names end at 63


def short_hash(text: str, length: int = 8) -> str:
    """Return the first `length` hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _fit(stem: str, suffix: str, limit: int) -> str:
    whole = f"{stem}-{suffix}"
    if len(whole) <= limit:
        return whole
    tag = short_hash(stem)
    room = limit - len(suffix) - len(tag) - 2
    return f"{stem[:room].rstrip('-.')}-{tag}-{suffix}"


def child_name(owner: str, stage: str, attempt: int) -> str:
    """Name of the Job of one attempt at a stage."""
    return part_name(owner, f"{stage}-{attempt}")


def part_name(owner: str, suffix: str) -> str:
    """Name of a child whose pods take their names from it, or which is a host name itself.

    Dots are not allowed in the names of a pod's host, so they become dashes; an owner whose name was changed
    that way or cut carries a hash of its whole name.
    """
    if "." in owner:
        return _fit(
            f"{owner.replace('.', '-')[: _CHILD_LIMIT - len(suffix) - 10]}-{short_hash(owner)}", suffix, _CHILD_LIMIT
        )
    return _fit(owner, suffix, _CHILD_LIMIT)


def server_name(policy: str, version: int) -> str:
    """Name of the Deployment and of the headless Service of one version's servers."""
    return part_name(policy, f"v{version}")


def router_name(policy: str) -> str:
    """Name of a policy's routers: their Deployment, and the Service that people call."""
    return part_name(policy, "router")


def route_name(policy: str) -> str:
    """Name of the HTTPRoute by which Gateways deal a policy's requests."""
    return part_name(policy, "route")


def history_name(policy: str, first: int) -> str:
    """Name of the ConfigMap with the rows of a policy's history from this number on."""
    return part_name(policy, f"history-{first}")


def run_name_for_template(policy: str, template_digest: str) -> str:
    """Name of the run that a policy stamps from its template: equal inputs give the equal name."""
    return _fit(policy, template_digest[:10], 63)


def label_value(text: str) -> str:
    """Return the text if it is a valid label value (at most 63 characters), else a cut form with a hash."""
    if len(text) <= 63:
        return text
    return f"{text[:54].rstrip('-.')}-{short_hash(text)}"


def owner_prefix(namespace: str, kind_dir: str, name: str, uid: str) -> str:
    """Store prefix of one object: `<ns>/<runs|datasets>/<name>-<uid8>`; the uid keeps a recreated name apart."""
    return f"{namespace}/{kind_dir}/{name}-{uid[:8]}"


def stage_prefix(namespace: str, kind_dir: str, name: str, uid: str, stage: str) -> str:
    """Store prefix of one stage of one object; its COMMIT.json lies directly below."""
    return f"{owner_prefix(namespace, kind_dir, name, uid)}/{stage}"


def index_key(namespace: str, input_digest: str) -> str:
    """Store key that maps a stage's input digest to the COMMIT that first produced it."""
    return f"{namespace}/index/{input_digest}.json"


def judge_prefix(namespace: str) -> str:
    """Store prefix of what judges said of answers; entries are found by what was asked."""
    return f"{namespace}/judge"


def snapshot_prefix(namespace: str, digest: str) -> str:
    """Store prefix of an immutable dataset snapshot, named by the digest of its content."""
    return f"{namespace}/snapshots/{digest}"


def asked_by(annotations: Mapping[str, str], value: str) -> str:
    """Return who asked a policy for something, as the client of `ratchet` wrote it; empty if nobody said so.

    Args:
        annotations: of the policy.
        value: that was asked for; a name that belongs to another value is not given.
    """
    told, _, who = annotations.get(ANNOTATION_ASKED_BY, "").partition(" ")
    return "".join(each for each in who if each.isprintable())[:80].strip() if told == value else ""
