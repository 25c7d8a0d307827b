"""policy.json: what a served classifier must know besides its weights.

Written by `supervised` (uncalibrated) and again by `evaluate` (with temperature and threshold); read by every later
stage and by the policy server. Pure data, no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ApiModel, LabelName
from ratchet_api.training_run import BaseModelRef

CARD_FILE = "policy.json"


class PolicyCard(ApiModel):
    """A trained classifier's label map, limits and calibration."""

    format: Literal["ratchet.dev/policy-v1"] = "ratchet.dev/policy-v1"
    policy_type: Literal["classifier"] = "classifier"
    labels: Annotated[tuple[LabelName, ...], Field(strict=False, min_length=2)]
    """Class names; the place in this list is the row of the head."""
    max_tokens: Annotated[int, Field(ge=4)]
    """Texts are cut to this many tokens, as they were in training."""
    pooling: Literal["mean"] = "mean"
    base_model: BaseModelRef
    """The encoder that the adapter belongs to, by digest."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by this before the softmax."""
    abstain_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """The policy abstains when its largest probability is below this; None = it never abstains."""

    def with_base_at(self, base: BaseModelRef | None) -> PolicyCard:
        """The card with its base where the run finds it, if it is the same one.

        A policy out of the cache, or of an earlier run, may name a place where the same bytes once were.
        """
        if base is None or base.sha256 != self.base_model.sha256:
            return self
        return self.model_copy(update={"base_model": base})
