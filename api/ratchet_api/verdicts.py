"""What a status keeps of a verdict. Decides fields and bounds; `ratchet_api.stats` draws it. Used by `rollout`. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ratchet_api.base import StatusModel


class VerdictStatus(StatusModel):
    """What is thought of the candidate now."""

    outcome: Annotated[
        str, Field(default="", max_length=16, description="outcome: Successful, Failed, Inconclusive or Error.")
    ]
    reason: Annotated[str, Field(default="", max_length=64, description="reason: the rule that spoke.")]
    message: Annotated[str, Field(default="", max_length=1024, description="message: the same with its numbers.")]
    samples: Annotated[
        int, Field(default=0, ge=0, le=2**53, description="samples: subjects of both arms whose feedback counts.")
    ]
    needed: Annotated[
        int | None,
        Field(
            default=None,
            ge=0,
            le=2**53,
            description="needed: how many more a decision takes, as it looks; none = nobody can say.",
        ),
    ]
