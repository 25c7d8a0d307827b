"""RLPolicy (`rlp`): the long-lived thing that runs publish to: its versions, its champion, its run template.

Decides the fields of the kind. The operator appends versions and sets the champion in status and never writes
spec, so that tools which own the spec (Argo CD, Flux) never fight it.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, MetricValue, StatusModel, Timestamp, digest_of
from ratchet_api.conditions import Condition
from ratchet_api.generation import KeptGeneration, check_generation
from ratchet_api.label_sets import LabelSet
from ratchet_api.policy_types import GENERATOR, PolicyType, check_type
from ratchet_api.rollout import Rollout, RolloutStatus
from ratchet_api.serving import Serving
from ratchet_api.training_run import RunTemplate


class Training(ApiModel):
    """How the policy gets new versions."""

    template: Annotated[
        RunTemplate,
        Field(
            description="template: a run is stamped from it for each new snapshot of its dataset and each change of the template; the run's name is a hash of both."
        ),
    ]
    suspend: Annotated[
        bool, Field(default=False, description="suspend: true stamps no further run; running ones go on.")
    ]


class RLPolicySpec(ApiModel):
    """What the user asks for."""

    type: Annotated[PolicyType, Field(description="type: which runs may publish here: those with this policyType.")]
    training: Annotated[
        Training | None,
        Field(
            default=None,
            description="training: the run template. If omitted, versions come only from runs that name this policy in publishTo.",
        ),
    ]
    serving: Annotated[
        Serving | None,
        Field(
            default=None, description="serving: what answers people. If omitted, versions are listed and not served."
        ),
    ]
    rollout: Annotated[
        Rollout | None,
        Field(
            default=None,
            description="rollout: how a new version reaches people, tried against the champion. If omitted, no version goes on trial: everybody gets the champion, which `ratchet promote` sets.",
        ),
    ]

    @model_validator(mode="after")
    def _rollout_is_of_what_is_served(self) -> Self:
        if self.rollout is not None and self.serving is None:
            raise ValueError("rollout needs serving; add it (serving: {} takes the defaults), or remove rollout")
        return self

    @model_validator(mode="after")
    def _classes_are_compared(self) -> Self:
        if self.type == GENERATOR and self.rollout is not None and self.rollout.shadow is not None:
            raise ValueError("rollout.shadow compares classes and is not for a generator; remove it")
        return self

    @model_validator(mode="after")
    def _classifiers_have_labels(self) -> Self:
        if self.type == GENERATOR and self.rollout is not None and self.rollout.allow_other_labels:
            raise ValueError("rollout.allowOtherLabels is for classifiers, since a generator has no labels; remove it")
        return self

    @model_validator(mode="after")
    def _classes_are_drawn(self) -> Self:
        if self.type == GENERATOR and self.serving is not None and self.serving.explore_percent > 0:
            raise ValueError(
                f"serving.explorePercent is {self.serving.explore_percent:g}; it is for classifiers, since a generator "
                "draws by its temperature: remove it"
            )
        return self

    @model_validator(mode="after")
    def _generation_fits_the_type(self) -> Self:
        if self.serving is not None:
            check_generation(self.serving.generation, self.type, at="serving.generation")
        test = None if self.rollout is None else self.rollout.ab_test
        for number, arm in enumerate(() if test is None else test.arms):
            check_generation(arm.generation, self.type, at=f"rollout.abTest.arms[{number}].generation")
        return self

    @model_validator(mode="after")
    def _tokens_are_made(self) -> Self:
        if self.type != GENERATOR and self.serving is not None and self.serving.engine == "vllm":
            raise ValueError("serving.engine vllm makes a generator's tokens; a classifier has engine builtin")
        return self

    @model_validator(mode="after")
    def _routers_ask_a_shadow(self) -> Self:
        gateways = self.serving is not None and self.serving.http_route is not None
        if gateways and self.rollout is not None and self.rollout.shadow is not None:
            raise ValueError("rollout.shadow is asked by routers; remove it or serving.httpRoute")
        return self

    @model_validator(mode="after")
    def _template_fits_the_type(self) -> Self:
        if self.training is not None:
            check_type(self.training.template, self.type, at="training.template.")
        return self


class TrainedFrom(StatusModel):
    """The base model of a version."""

    uri: Annotated[str, Field(max_length=2048, description="uri: as the run named it.")]
    sha256: Annotated[str, Field(max_length=64, description="sha256: of its folder, as `ratchet digest` prints it.")]


class PolicyVersion(StatusModel):
    """One published version: numbers are given by the operator, rise, and are never used again."""

    version: Annotated[int, Field(ge=1, le=2**31, description="version: its number.")]
    run: Annotated[str, Field(max_length=253, description="run: the run that trained it.")]
    run_uid: Annotated[str, Field(max_length=64, description="runUid: uid of that run.")]
    uri: Annotated[str, Field(max_length=2048, description="uri: the artifact's directory in the store.")]
    digest: Annotated[str, Field(min_length=64, max_length=64, description="digest: of the artifact.")]
    dataset_digest: Annotated[
        str, Field(min_length=64, max_length=64, description="datasetDigest: the snapshot it was trained on.")
    ]
    code_version: Annotated[
        str, Field(default="", max_length=128, description="codeVersion: of the stages that trained it.")
    ]
    base_model: Annotated[
        TrainedFrom | None,
        Field(default=None, description="baseModel: that it was trained from; none = registered before this was kept."),
    ]
    labels: Annotated[
        LabelSet | None,
        Field(
            default=None,
            description="labels: the classes that it tells; none = of a generator, or registered before this was kept.",
        ),
    ]
    metrics: Annotated[
        dict[Annotated[str, Field(max_length=64)], MetricValue],
        Field(default_factory=dict, max_length=16, description="metrics: measured on the test split."),
    ]
    published: Annotated[Timestamp, Field(description="published: when it was registered.")]
    generation: Annotated[
        KeptGeneration | None,
        Field(
            default=None,
            description="generation: how it answers where a request does not say so itself; never changes. None = as it was trained.",
        ),
    ]
    variant_of: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=2**31,
            description="variantOf: version with whose files it answers by another generation config; none = a run published it.",
        ),
    ]

    @property
    def identity(self) -> str:
        """Digest of all that it is: its artifact and its generation config."""
        if self.generation is None:
            return self.digest
        return digest_of({"artifact": self.digest, "generation": self.generation.to_wire()})

    @property
    def sentence(self) -> str:
        """What sets it apart from the version whose files it has; empty = it has a run of its own."""
        config = "as it was trained" if self.generation is None else self.generation.sentence
        return "" if self.variant_of is None else f"version {self.variant_of} with {config}"


class LedgerRow(StatusModel):
    """Who was champion since when and why."""

    version: Annotated[int, Field(ge=1, le=2**31, description="version: that became champion.")]
    since: Annotated[Timestamp, Field(description="since: when.")]
    why: Annotated[str, Field(max_length=256, description="why: what made it champion.")]
    generation: Annotated[
        KeptGeneration | None,
        Field(default=None, description="generation: how it answers; none = as it was trained."),
    ]


class RLPolicyStatus(StatusModel):
    """What the operator found and did."""

    observed_generation: Annotated[
        int,
        Field(default=0, ge=0, le=2**53, description="observedGeneration: the spec generation this status speaks of."),
    ]
    state: Annotated[
        str, Field(default="", max_length=32, description="state: one word for people; conditions are the truth.")
    ]
    conditions: Annotated[
        tuple[Condition, ...],
        Field(default=(), strict=False, max_length=16, description="conditions: Reconciling, Stalled, Ready."),
    ]
    versions: Annotated[
        tuple[PolicyVersion, ...],
        Field(default=(), strict=False, max_length=20, description="versions: the newest 20 and the champion."),
    ]
    next_version: Annotated[
        int, Field(default=1, ge=1, le=2**31, description="nextVersion: number of the next version; only rises.")
    ]
    champion: Annotated[
        int | None, Field(default=None, ge=1, le=2**31, description="champion: the version that users get.")
    ]
    champion_digest: Annotated[
        str, Field(default="", max_length=64, description="championDigest: digest of the champion's artifact.")
    ]
    observed_promote: Annotated[
        str,
        Field(
            default="",
            max_length=64,
            description="observedPromote: value of the ratchet.dev/promote annotation that was last acted upon.",
        ),
    ]
    refused_promote: Annotated[
        str,
        Field(
            default="",
            max_length=64,
            description="refusedPromote: the same value, if it named no version when it was asked for.",
        ),
    ]
    observed_generation_config: Annotated[
        str,
        Field(
            default="",
            max_length=32,
            description="observedGenerationConfig: digest of the spec.serving.generation that was last acted upon; empty = of none.",
        ),
    ]
    latest_run: Annotated[
        str, Field(default="", max_length=253, description="latestRun: the run stamped last from the template.")
    ]
    ledger: Annotated[
        tuple[LedgerRow, ...],
        Field(default=(), strict=False, max_length=20, description="ledger: the last 20 changes of the champion."),
    ]
    rollout: Annotated[
        RolloutStatus | None,
        Field(default=None, description="rollout: which version people get, and where a trial stands."),
    ]
