"""What a user may say about pods: resources and placement, and nothing else.

Shared by all kinds. A user never passes a pod spec, a service account or a volume (promise P20); the operator
checks class names and images against its own allow-lists when it renders.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, NullsAreAbsent

LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LabelKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=LABEL_KEY_PATTERN,
    ),
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]

NodeSelector = Annotated[dict[LabelKey, LabelValue], Field(max_length=16), NullsAreAbsent]
ClassName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
QueueName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class Resources(ApiModel):
    """Resources of one stage's pod; requests equal limits, so the pod is Guaranteed."""

    cpu: Annotated[
        float, Field(default=1, ge=0.1, le=512, description="cpu: cores; training uses one thread per whole core.")
    ]
    memory_gi: Annotated[float, Field(default=4, ge=0.25, le=16_384, description="memoryGi: memory in GiB.")]
    gpus: Annotated[int, Field(default=0, ge=0, le=16, description="gpus: nvidia.com/gpu; 0 trains on the CPU.")]
    ephemeral_storage_gi: Annotated[
        float,
        Field(
            default=4,
            ge=0.1,
            le=16_384,
            description="ephemeralStorageGi: size limit of the pod's scratch volume in GiB.",
        ),
    ]


Nodes = Annotated[
    int,
    Field(
        default=1,
        ge=1,
        le=16,
        description="nodes: pods that do the stage together, each with the stage's resources; the batch is shared evenly, and the result is one pod's up to the order of additions. Above 1 the Job is indexed, and a pod that is lost takes all back to the last checkpoint.",
    ),
]
"""How many pods do a stage together."""


class Toleration(ApiModel):
    """A toleration as in a pod spec."""

    key: Annotated[LabelKey, Field(description="key: the taint's key.")]
    operator: Annotated[Literal["Exists", "Equal"], Field(default="Equal", description="operator: Exists or Equal.")]
    value: Annotated[
        LabelValue | None, Field(default=None, description="value: the taint's value, with operator Equal.")
    ]
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(default=None, description="effect: the taint's effect. If omitted, every effect."),
    ]

    @model_validator(mode="after")
    def _value_for_equal(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError("value is only for operator Equal; remove it or set operator: Equal")
        return self


class NodePlacement(ApiModel):
    """Where pods may run."""

    node_selector: Annotated[
        NodeSelector,
        Field(default_factory=dict, description="nodeSelector: labels a node must have."),
    ]
    tolerations: Annotated[
        tuple[Toleration, ...],
        Field(default=(), strict=False, max_length=16, description="tolerations: taints that the pods accept."),
    ]
    priority_class_name: Annotated[
        ClassName | None,
        Field(
            default=None,
            description="priorityClassName: must be on the operator's allow-list. If omitted, the cluster's default.",
        ),
    ]


class Placement(NodePlacement):
    """Where pods may run and in which queue their Jobs wait."""

    queue_name: Annotated[
        QueueName | None,
        Field(
            default=None,
            description="queueName: Kueue LocalQueue; the Jobs then start suspended and the queue admits them. If omitted, Jobs start at once.",
        ),
    ]
