"""P29: an interaction id cannot be forged, stretched or kept for ever; a stored subject cannot be read."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ratchet_api.signing import (
    CLOCK_SKEW,
    BadInteraction,
    BadKey,
    Exposure,
    KeyRing,
    pseudonym,
    sign_interaction,
    verify_interaction,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD, NEW = KeyRing({"2026-10": b"o" * 32}), KeyRing({"2026-10": b"o" * 32, "2026-11": b"n" * 32})


def exposure(*, issued: datetime = NOW, lives: timedelta = timedelta(hours=1)) -> Exposure:
    return Exposure(
        id="abc",
        policy="router",
        version=3,
        arm="canary",
        propensity=0.05,
        issued=int(issued.timestamp()),
        expires=int((issued + lives).timestamp()),
    )


def test_a_signed_id_says_what_was_signed() -> None:
    assert verify_interaction(sign_interaction(exposure(), NEW), NEW, now=NOW) == exposure()


def test_an_id_of_a_kept_key_is_good_and_one_of_a_dropped_key_is_not() -> None:
    signed = sign_interaction(exposure(), OLD)
    assert verify_interaction(signed, NEW, now=NOW).id == "abc"
    with pytest.raises(BadInteraction, match="signature"):
        verify_interaction(signed, KeyRing({"2026-11": b"n" * 32}), now=NOW)


def test_the_newest_key_signs() -> None:
    assert sign_interaction(exposure(), NEW).split(".")[1] == "2026-11"


@pytest.mark.parametrize("length", [32, 64, 65, 200])
def test_a_pseudonym_is_an_hmac_of_the_standard_library(length: int) -> None:
    """P29."""
    key = bytes(range(length))
    want = hmac.digest(key, b"subject\0" + "j\u00fcrg".encode(), "sha256").hex()[:32]
    assert pseudonym("j\u00fcrg", KeyRing({"2026-11": key})) == f"2026-11:{want}"


def test_no_single_changed_character_passes() -> None:
    """P29."""
    signed = sign_interaction(exposure(), NEW)
    for place, seen in enumerate(signed):
        other = "A" if seen != "A" else "B"
        with pytest.raises(BadInteraction):
            verify_interaction(signed[:place] + other + signed[place + 1 :], NEW, now=NOW)


@pytest.mark.parametrize("text", ["", "abc", "r1.2026-11.e30.", "r1...", "r1.2026-11.!!.!!", "r1.é.e30.AA", "x" * 1024])
def test_what_is_no_id_of_ours_is_refused(text: str) -> None:
    with pytest.raises(BadInteraction, match="exactly as x-ratchet-interaction"):
        verify_interaction(text, NEW, now=NOW)


@pytest.mark.parametrize(
    ("at", "want"),
    [
        pytest.param(NOW + timedelta(minutes=59), None, id="while it lives"),
        pytest.param(NOW + timedelta(minutes=70), None, id="ten minutes late: clocks may differ so much (P36)"),
        pytest.param(NOW + timedelta(minutes=70, seconds=1), "expired at 2026-11-21T13:00:00Z", id="later"),
        pytest.param(NOW - CLOCK_SKEW, None, id="ten minutes before it was issued (P36)"),
        pytest.param(NOW - CLOCK_SKEW - timedelta(seconds=1), "in the future", id="earlier"),
    ],
)
def test_an_id_counts_from_issue_to_expiry_with_ten_minutes_for_the_clocks(at: datetime, want: str | None) -> None:
    signed = sign_interaction(exposure(), NEW)
    if want is None:
        assert verify_interaction(signed, NEW, now=at).policy == "router"
        return
    with pytest.raises(BadInteraction, match=want):
        verify_interaction(signed, NEW, now=at)


def test_a_subject_is_stored_under_the_newest_key_and_found_again_under_each() -> None:
    """P30's precondition: an erasure tries all kept keys."""
    stored = pseudonym("anna@example.org", OLD)
    assert "anna" not in stored
    assert pseudonym("anna@example.org", NEW, key="2026-10") == stored
    assert pseudonym("anna@example.org", NEW) != stored
    assert pseudonym("bert@example.org", OLD) != stored


def test_keys_are_the_files_of_a_mounted_secret(tmp_path: Path) -> None:
    (tmp_path / "2026-11").write_bytes(b"k" * 40 + b"\n")
    (tmp_path / "..data").mkdir()
    (tmp_path / ".hidden").write_bytes(b"short")
    assert KeyRing.from_directory(tmp_path) == KeyRing({"2026-11": b"k" * 40})


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({}, "holds no key"),
        ({"2026-11": "short"}, "'2026-11': has 5 bytes, at least 32"),
        ({"my key": "k" * 32}, "letters, digits"),
        (None, "mount the Secret there"),
    ],
)
def test_a_key_that_would_sign_badly_is_refused(tmp_path: Path, files: dict[str, str] | None, want: str) -> None:
    for name, text in (files or {}).items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadKey, match=want):
        KeyRing.from_directory(tmp_path if files is not None else tmp_path / "absent")


def test_a_key_is_not_printed() -> None:
    assert "n" * 32 not in repr(NEW)
