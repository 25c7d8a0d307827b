"""A shadow: a candidate that is asked what the champion is asked, before anybody gets its answers.

Decides the fields of what is asked for and of what was found. The router asks both, servers record what they said, the
analyst pairs it; the operator decides by it. Used by `rollout` (spec and status) and `evidence`. Pure.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ratchet_api.base import ApiModel, StatusModel

MOST_CONFUSIONS = 20
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Milliseconds = Annotated[float, Field(ge=0, le=1e9)]


class Shadow(ApiModel):
    """How long a candidate is only asked besides. A failed answer, and one that abstains alone, are other answers."""

    percent: Annotated[
        float,
        Field(
            default=10,
            ge=0.01,
            le=100,
            description="percent: share of the champion's requests that the candidate is asked, too.",
        ),
    ]
    seconds: Annotated[
        int,
        Field(
            default=3600,
            ge=1,
            le=31_536_000,
            description="seconds: how long at least, from when every router applied it.",
        ),
    ]
    min_pairs: Annotated[
        int,
        Field(
            default=200,
            ge=1,
            le=100_000_000,
            description="minPairs: texts that both have answered, before the candidate's first step. With less traffic it waits.",
        ),
    ]
    max_flip_rate: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            lt=1,
            description="maxFlipRate: a candidate that then has answered more than this share of the texts otherwise than the champion is taken out, and nobody ever got it. If omitted, the share is only reported.",
        ),
    ]


class Confusion(StatusModel):
    """Texts of one class that the candidate put into another."""

    champion: Annotated[
        str, Field(max_length=256, description="champion: the class that the champion answered; empty = it abstained.")
    ]
    candidate: Annotated[str, Field(max_length=256, description="candidate: likewise of the candidate.")]
    pairs: Annotated[_Count, Field(description="pairs: texts.")]
    of: Annotated[_Count, Field(description="of: all texts that the champion put into its class.")]


class ShadowReport(StatusModel):
    """What the two answered to the same texts."""

    pairs: Annotated[
        _Count, Field(default=0, description="pairs: texts that both were asked and the champion has answered.")
    ]
    flips: Annotated[
        _Count, Field(default=0, description="flips: of them, those that the candidate answered otherwise.")
    ]
    failures: Annotated[
        _Count, Field(default=0, description="failures: of the flips, those that the candidate gave no answer to.")
    ]
    confusions: Annotated[
        tuple[Confusion, ...],
        Field(
            default=(),
            strict=False,
            max_length=MOST_CONFUSIONS,
            description="confusions: the most frequent changes of class, most frequent first.",
        ),
    ]
    champion_p50_ms: Annotated[
        _Milliseconds | None,
        Field(
            default=None,
            description="championP50Ms: milliseconds that half of the champion's answers took at most, to 5 %. In its server, without the way there.",
        ),
    ]
    champion_p99_ms: Annotated[
        _Milliseconds | None, Field(default=None, description="championP99Ms: likewise of 99 % of them.")
    ]
    candidate_p50_ms: Annotated[
        _Milliseconds | None, Field(default=None, description="candidateP50Ms: likewise of the candidate.")
    ]
    candidate_p99_ms: Annotated[
        _Milliseconds | None, Field(default=None, description="candidateP99Ms: likewise of 99 % of them.")
    ]

    @property
    def flip_rate(self) -> float:
        """Share of the texts that the candidate answered otherwise, 0 to 1."""
        return self.flips / self.pairs if self.pairs else 0.0

    @property
    def sentence(self) -> str:
        """The numbers in words."""
        if not self.pairs:
            return "no text was answered by both yet"
        text = f"{self.flips:,} of {self.pairs:,} texts ({self.flip_rate:.1%}) were answered otherwise"
        if self.failures:
            text += f", {self.failures:,} of them not at all"
        if self.champion_p99_ms is not None and self.candidate_p99_ms is not None:
            text += f"; 99 % within {self.candidate_p99_ms:.3g} ms, the champion's within {self.champion_p99_ms:.3g} ms"
        return text
