"""Which keys a change concerns. Pure; called by the watchers of both bodies and by the in-memory world.

`keys_to_wake` answers from the object alone. Who names an object is the reverse question: `references` lists what an
object names, and whoever keeps a cache of objects inverts it (`dependents` does so for a plain list).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ratchet_api.conditions import Reason
from ratchet_api.kinds import FEEDBACK_DATASET, KINDS, RL_POLICY, RL_TRAINING_RUN
from ratchet_api.names import ANNOTATION_OWNER_NAME, LABEL_OWNER_KIND, LABEL_OWNER_NAME
from ratchet_operator.cluster.protocol import Resource
from ratchet_operator.plan.sights import rows_of, table_of, text_of

_WANTS_POLICY = frozenset({Reason.WAITING_FOR_POLICY, Reason.POLICY_NOT_FOUND, Reason.POLICY_TYPE_MISMATCH})


class Key(NamedTuple):
    """One object of ours: the unit of work of the queue."""

    plural: str
    namespace: str
    name: str


OUR_RESOURCES: tuple[Resource, ...] = ("feedbackdatasets", "rltrainingruns", "rlpolicies")


def key_of(resource: str, obj: Mapping[str, Any]) -> Key:
    """Return an object's own key."""
    metadata = table_of(obj.get("metadata"))
    return Key(resource, text_of(metadata.get("namespace")), text_of(metadata.get("name")))


def keys_to_wake(resource: str, obj: Mapping[str, Any]) -> list[Key]:
    """Return the keys that a change of this object concerns, as far as the object itself tells.

    Args:
        resource: plural name, such as `jobs` or `rltrainingruns`.
        obj: the object as the watch served it.
    """
    if resource not in OUR_RESOURCES:
        return _owner(obj)
    keys = [key_of(resource, obj)]
    if resource == RL_TRAINING_RUN.plural and (policy := _policy_wanted(obj)):
        keys.append(policy)
    return keys


def references(resource: str, obj: Mapping[str, Any]) -> list[Key]:
    """Return the keys that this object names: a change of one of those concerns this object."""
    namespace, spec = key_of(resource, obj).namespace, table_of(obj.get("spec"))
    named: list[tuple[str, object]] = []
    if resource == RL_TRAINING_RUN.plural:
        named = [*_datasets(spec), (RL_POLICY.plural, spec.get("publishTo"))]
        named.append((RL_POLICY.plural, table_of(spec.get("startFrom")).get("policy")))
    elif resource == RL_POLICY.plural:
        template = table_of(table_of(spec.get("training")).get("template"))
        named = _datasets(template)
    return [Key(plural, namespace, name) for plural, ref in named if (name := text_of(table_of(ref).get("name")))]


def _datasets(template: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What a run learns from: its dataset, and the log of answers or what people thought of answers."""
    stages = table_of(template.get("stages"))
    beside = [table_of(stages.get(name)).get("datasetRef") for name in ("rl", "rewardModel", "preference")]
    return [(FEEDBACK_DATASET.plural, ref) for ref in (template.get("datasetRef"), *beside)]


def dependents(key: Key, known: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Key]:
    """Return the keys of the known (resource, object) pairs that name this key."""
    return [key_of(resource, obj) for resource, obj in known if key in references(resource, obj)]


def _owner(obj: Mapping[str, Any]) -> list[Key]:
    """The owner of a Job or pod, from labels; its whole name stands in an annotation."""
    metadata = table_of(obj.get("metadata"))
    labels, annotations = table_of(metadata.get("labels")), table_of(metadata.get("annotations"))
    kind = KINDS.get(text_of(labels.get(LABEL_OWNER_KIND)))
    name = text_of(annotations.get(ANNOTATION_OWNER_NAME)) or text_of(labels.get(LABEL_OWNER_NAME))
    if kind is None or not name:
        return []
    return [Key(kind.plural, text_of(metadata.get("namespace")), name)]


def _policy_wanted(run: Mapping[str, Any]) -> Key | None:
    """The policy that a run waits for; a run that does not wait for it is none of its business."""
    conditions = rows_of(table_of(run.get("status")).get("conditions"))
    published = next((c for c in conditions if c.get("type") == "Published"), {})
    if published.get("reason") not in _WANTS_POLICY:
        return None
    name = text_of(table_of(table_of(run.get("spec")).get("publishTo")).get("name"))
    return Key(RL_POLICY.plural, key_of("rltrainingruns", run).namespace, name) if name else None
