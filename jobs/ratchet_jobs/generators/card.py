"""policy.json of a generator: what must be known besides its weights to put a prompt to it.

Written by `supervised`, copied by `evaluate`; read by every later stage and by `ratchet chat`. Pure data, no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ApiModel
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.models.card import CARD_FILE, policy_type_of
from ratchet_jobs.runtime.errors import BadModelError

Template = Literal["chat", "plain"]


class GeneratorCard(ApiModel):
    """A trained generator's template and limits."""

    format: Literal["ratchet.dev/policy-v1"] = "ratchet.dev/policy-v1"
    policy_type: Literal["generator"] = "generator"
    template: Template
    """chat = the tokenizer's own chat template; plain = lines that begin with who speaks."""
    max_tokens: Annotated[int, Field(ge=4)]
    """Longest prompt and answer together, as they were in training."""
    base_model: BaseModelRef
    """The language model that the adapter belongs to, by digest."""

    def with_base_at(self, base: BaseModelRef | None) -> GeneratorCard:
        """The card with its base where the run finds it, if it is the same one."""
        if base is None or base.sha256 != self.base_model.sha256:
            return self
        return self.model_copy(update={"base_model": base})


def read_generator_card(folder: Path) -> GeneratorCard:
    """Read policy.json.

    Raises:
        BadModelError: it is missing, no card, or that of a classifier.
    """
    try:
        data = (folder / CARD_FILE).read_bytes()
    except OSError as error:
        raise BadModelError(f"policy: {CARD_FILE} cannot be read: {error}; take a committed policy folder") from error
    return parse_generator_card(data)


def parse_generator_card(data: bytes) -> GeneratorCard:
    """Read the bytes of policy.json.

    Raises:
        BadModelError: they are no card, or that of a classifier.
    """
    try:
        kind = policy_type_of(data)
        if kind == "generator":
            return GeneratorCard.model_validate_json(data)
    except ValueError as error:  # pydantic's ValidationError is a ValueError
        raise BadModelError(f"policy: {CARD_FILE} cannot be read: {error}; take a committed policy folder") from error
    raise BadModelError(f"policy: {CARD_FILE} says policyType {kind!r}, a generator is needed; name a generator")


def write_generator_card(folder: Path, card: GeneratorCard) -> None:
    """Write policy.json."""
    text = json.dumps(card.to_wire(), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")
