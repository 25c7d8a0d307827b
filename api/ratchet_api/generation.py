"""How a version answers where a request does not say so itself: its generation config, which is a part of what it is.

Decides fields and bounds, which of them are for which type of policy, and what two configs make together. The operator
writes the config into a version's row, where it never changes (`ratchet_operator.plan.variants`), and the policy server
answers by it. Used by `serving`, `fixed_shares`, `policy` and the server's settings. Pure.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from ratchet_api.base import StatusModel, digest_of
from ratchet_api.policy_types import GENERATOR, PolicyType

MOST_TOKENS = 1 << 20
LONGEST_PROMPT = 8192
_SHOWN = 40
_TEXT = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}]"
"""Tab, line feed and carriage return are text; the other controls are not. Written as both RE2 and Rust read it."""
SYSTEM_PROMPT = rf"^({_TEXT}*[^\x00-\x20\x7f-\x{{a0}}]{_TEXT}*)?$"
"""Empty, or some words."""

OF_GENERATORS = ("temperature", "topP", "maxTokens", "systemPrompt")
OF_CLASSIFIERS = ("abstainThreshold",)


class KeptGeneration(StatusModel):
    """A generation config, as a version's row keeps it."""

    temperature: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=2,
            description="temperature: of a generator's draws; 0 = always the likeliest token. If omitted, 1.",
        ),
    ]
    top_p: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1,
            description="topP: mass of the likeliest tokens that a generator's draws are limited to. If omitted, 1: all tokens.",
        ),
    ]
    max_tokens: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=MOST_TOKENS,
            description="maxTokens: of a generator's answer, which is cut there. If omitted, 512.",
        ),
    ]
    system_prompt: Annotated[
        str | None,
        Field(
            default=None,
            max_length=LONGEST_PROMPT,
            pattern=SYSTEM_PROMPT,
            description="systemPrompt: what a generator is told before a conversation that has no system message of its own; empty = nothing. Texts of /v1/completions are gone on with as they are. If omitted, nothing.",
        ),
    ]
    abstain_threshold: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=1,
            description="abstainThreshold: confidence below which a classifier abstains, in each of its tasks; 0 = never. If omitted, what its evaluation chose.",
        ),
    ]

    @property
    def sentence(self) -> str:
        """The settings in words, on one line."""
        told = [f"{name} {value:g}" for name, value in self._numbers().items() if value is not None]
        if (said := self.system_prompt) is not None:
            words = " ".join(said.split())
            short = words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"
            told.append(f"systemPrompt “{short}”" if words else "no systemPrompt")
        return ", ".join(told) or "no generation config"

    def _numbers(self) -> dict[str, float | None]:
        return {
            "temperature": self.temperature,
            "topP": self.top_p,
            "maxTokens": self.max_tokens,
            "abstainThreshold": self.abstain_threshold,
        }

    def over(self, below: KeptGeneration | None) -> KeptGeneration:
        """Return this config with what it leaves out as another one has it."""
        given = {} if below is None else below.model_dump(exclude_none=True)
        return KeptGeneration(**given | self.model_dump(exclude_none=True))


class ConfigRow(StatusModel):
    """The generation config of a version, as the history keeps it when the version's own row is gone."""

    version: Annotated[int, Field(ge=1, le=2**31, description="version: that answered by it.")]
    config: Annotated[str, Field(max_length=160, description="config: in words, a long system prompt cut.")]
    digest: Annotated[str, Field(max_length=32, description="digest: of the whole config.")]


def config_row(version: int, config: KeptGeneration) -> ConfigRow:
    """Return a version's config for the history."""
    return ConfigRow(version=version, config=config.sentence[:160], digest=config_digest(config))


class Generation(KeptGeneration):
    """How a version answers where a request does not say so itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"generation is empty; give {', '.join((*OF_GENERATORS, *OF_CLASSIFIERS))}, or remove it")
        return self


def kept(asked: KeptGeneration | None) -> KeptGeneration | None:
    """Return a config as a version's row keeps it; None = it says nothing, which is what no config says."""
    if asked is None:
        return None
    found = asked.over(None)
    return found if found.to_wire() else None


def config_digest(config: KeptGeneration | None) -> str:
    """Return the short digest of a config; empty = there is none."""
    return "" if config is None else digest_of(config.to_wire())[:32]


def check_generation(generation: Generation | None, policy_type: PolicyType, *, at: str) -> None:
    """Refuse settings that mean nothing to this type of policy.

    Args:
        generation: as somebody asks for it.
        policy_type: of the policy.
        at: where it stands.

    Raises:
        ValueError: names the field and the remedy.
    """
    if generation is None:
        return
    others = OF_CLASSIFIERS if policy_type == GENERATOR else OF_GENERATORS
    given = generation.to_wire()
    if odd := next((name for name in others if name in given), None):
        kind = "a classifier" if odd in OF_CLASSIFIERS else "a generator"
        raise ValueError(f"{at}.{odd} is only for {kind}, and this policy's type is {policy_type}; remove it")
