"""`spec.refresh` of a FeedbackDataset: when its snapshot is taken anew, and what its status says of that.

Decides fields and bounds. When a refresh is due is the operator's to say, which counts days and events; nothing here
has a clock.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, StatusModel, Timestamp

CRON_PATTERN = r"^[0-9A-Z*/,-]+( [0-9A-Z*/,-]+){4}$"
"""Five fields; whether they are a time that ever comes is judged by the operator, which can compute it."""


class Refresh(ApiModel):
    """When the log is read again. What is missed while nobody looks is made up for once."""

    schedule: Annotated[
        str | None,
        Field(
            default=None,
            min_length=9,
            max_length=128,
            pattern=CRON_PATTERN,
            description="schedule: five fields of cron in UTC, such as `0 5 * * MON-FRI`: minute, hour, day of the month, month, day of the week. If omitted, no time is due.",
        ),
    ]
    every_events: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=100_000_000,
            description="everyEvents: as soon as this many events of feedback about the policy came after the newest that the last snapshot read. The namespace's gateway counts them about once a minute. If omitted, no event is counted.",
        ),
    ]

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.schedule is None and self.every_events is None:
            raise ValueError("schedule or everyEvents must be set, or both; add one, or remove refresh")
        return self


class RefreshStatus(StatusModel):
    """What became of spec.refresh."""

    number: Annotated[
        int,
        Field(default=0, ge=0, le=2**31, description="number: how many refreshes were due so far."),
    ]
    last_refresh: Annotated[
        Timestamp | None,
        Field(default=None, description="lastRefresh: when the newest snapshot was begun, for whatever reason."),
    ]
    next_refresh: Annotated[
        Timestamp | None,
        Field(default=None, description="nextRefresh: when the next one is due by spec.refresh.schedule."),
    ]
    new_events: Annotated[
        int | None,
        Field(
            default=None,
            ge=0,
            le=2**53,
            description="newEvents: events of feedback since the last snapshot, as the gateway counted them, retries that were stored twice included.",
        ),
    ]
    reason: Annotated[
        str,
        Field(default="", max_length=64, description="reason: what the next refresh waits for, from the closed list."),
    ]
    message: Annotated[str, Field(default="", max_length=1024, description="message: the same in a sentence.")]
