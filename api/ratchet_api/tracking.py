"""Which experiment trackers a run writes to, besides what it always serves and commits.

Decides the fields of `spec.tracking`. Credentials are no field: the trackers' own variables (MLFLOW_TRACKING_TOKEN,
WANDB_API_KEY) come from the stage image or stand in the store's Secret. A tracker never decides a stage's result, so none
of this is part of an input digest.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel

TrackerName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/-]*$")]


class MlflowTracking(ApiModel):
    """An MLflow tracking server."""

    uri: Annotated[
        str,
        Field(
            min_length=8,
            max_length=1024,
            pattern=r"^(https?|file)://[^\t\n\f\r ?#@]+$",
            description="uri: http:// or https:// address of the tracking server; file:///DIR for runs on this machine. Credentials do not belong here.",
        ),
    ]
    experiment: Annotated[
        TrackerName,
        Field(default="ratchet", description="experiment: name of the experiment; made if it does not exist."),
    ]


class WandbTracking(ApiModel):
    """Weights & Biases."""

    project: Annotated[TrackerName, Field(description="project: that the runs appear in.")]
    entity: Annotated[
        TrackerName | None, Field(default=None, description="entity: user or team. If omitted, the API key's own.")
    ]
    mode: Annotated[
        Literal["online", "offline"],
        Field(
            default="online",
            description="mode: online sends while training; offline writes files into the store, for `wandb sync`.",
        ),
    ]


class Tracking(ApiModel):
    """Trackers that get every metric of every stage and its resolved settings."""

    tensorboard: Annotated[
        bool,
        Field(
            default=False,
            description="tensorboard: write TensorBoard's event files into the store, below the stage's prefix, when the stage ends.",
        ),
    ]
    mlflow: Annotated[
        MlflowTracking | None, Field(default=None, description="mlflow: a server to log to. If omitted, none.")
    ]
    wandb: Annotated[
        WandbTracking | None, Field(default=None, description="wandb: a project to log to. If omitted, none.")
    ]

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if not self.tensorboard and self.mlflow is None and self.wandb is None:
            raise ValueError("tracking names no tracker; set tensorboard: true, mlflow or wandb, or remove it")
        return self
