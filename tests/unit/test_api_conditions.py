"""Conditions as everywhere in Kubernetes; reasons from one closed list, each with a meaning and a next step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.conditions import (
    CONDITIONS,
    MESSAGE_LIMIT,
    REASONS,
    Condition,
    ConditionType,
    Reason,
    find_condition,
    is_true,
    set_condition,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def ready(status: bool | None, *, now: datetime = NOON, message: str = "", reason: Reason = Reason.ACCEPTED,
          before: tuple[Condition, ...] = (), generation: int = 1) -> tuple[Condition, ...]:  # fmt: skip
    return set_condition(before, ConditionType.READY, status, reason, message, generation=generation, now=now)


def test_last_transition_time_moves_only_when_the_status_changes() -> None:
    first = ready(False)
    same = ready(False, before=first, now=LATER, reason=Reason.STAGE_RUNNING, message="still", generation=2)
    flipped = ready(True, before=same, now=LATER)
    assert same[0].last_transition_time == NOON
    assert (same[0].reason, same[0].message, same[0].observed_generation) == ("StageRunning", "still", 2)
    assert flipped[0].last_transition_time == LATER


@pytest.mark.parametrize(("status", "wire"), [(True, "True"), (False, "False"), (None, "Unknown")])
def test_a_status_is_one_of_three_words(status: bool | None, wire: str) -> None:
    assert ready(status)[0].status == wire
    assert is_true(ready(status), ConditionType.READY) is (status is True)


def test_the_order_of_conditions_is_kept_and_a_new_type_goes_last() -> None:
    before = ready(True)
    both = set_condition(before, ConditionType.STALLED, True, Reason.BAD_DATA, generation=1, now=NOON)
    again = ready(False, before=both)
    assert [c.type for c in again] == ["Ready", "Stalled"]
    assert ready(False, before=again) == again, "an unchanged world gives an equal status, hence no write"


def test_fractions_of_a_second_are_cut_because_the_server_stores_none() -> None:
    stored = ready(True, now=NOON + timedelta(microseconds=999_999))
    assert stored[0].last_transition_time == NOON


@given(st.text(max_size=3 * MESSAGE_LIMIT))
def test_a_message_always_fits_its_field(message: str) -> None:
    kept = ready(True, message=message)[0].message
    assert len(kept) <= MESSAGE_LIMIT
    assert kept == message or (len(message) > MESSAGE_LIMIT and kept.endswith("…"))


def test_a_missing_condition_is_neither_found_nor_true() -> None:
    assert find_condition((), ConditionType.READY) is None
    assert not is_true((), ConditionType.READY)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_what_it_means_and_what_to_do(reason: Reason) -> None:
    """P39: no reason without a next step."""
    info = REASONS[reason]
    assert info.meaning.endswith(".")
    assert info.remedy.endswith(".")
    assert reason.value.isidentifier(), "kubectl and metrics use it as one word"
    assert len(reason.value) <= 64


def test_the_lists_are_closed() -> None:
    assert set(REASONS) == set(Reason)
    assert set(CONDITIONS) == set(ConditionType)
    assert len({reason.value for reason in Reason}) == len(Reason)
