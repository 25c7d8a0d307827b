"""Whom the router gives which version: sticky, nested while it ramps, and independent between policies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ratchet_api.assign import (
    WHOLE,
    BadSplit,
    Pair,
    Slot,
    Split,
    canary_split,
    fixed_split,
    is_subject,
    place,
    salt_of,
    xxh64,
)

PEOPLE = 1_000_000
SALT = salt_of("uid-1", "v1-v2")
RAMP = (100, 500, 1000, 2500, 5000)

# Seen: a subject's arm in what Envoy 1.40 sent to two servers, canary_split(SALT, champion=1, candidate=2, share=2500).
SEEN = """
user-1 champion user-2 control user-4 champion user-7 canary user-8 canary user-10 control user-11 champion
user-13 control user-14 champion user-17 control user-19 canary user-20 control user-22 control
user-25 champion user-34 canary user-40 canary 0@mail.example.org/long-subject-name-beyond-32-bytes-0 champion
3@mail.example.org/long-subject-name-beyond-32-bytes-23757 control
9@mail.example.org/long-subject-name-beyond-32-bytes-71271 canary
12@mail.example.org/long-subject-name-beyond-32-bytes-95028 control
15@mail.example.org/long-subject-name-beyond-32-bytes-118785 canary
27@mail.example.org/long-subject-name-beyond-32-bytes-213813 control
""".split()


def test_the_hash_is_xxhash_64() -> None:
    """Values of the reference implementation; the last is longer than one stripe of 32 bytes and ends unevenly."""
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"a") == 0xD24EC4F1A98C6E5B
    assert xxh64(b"abc") == 0x44BC2CF5AD770999
    assert xxh64(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1


def test_subjects_get_the_arm_that_envoy_gave_them() -> None:
    """P31: one arm, whoever works it out."""
    split = canary_split(SALT, champion=1, candidate=2, share=2500)
    pairs = list(zip(SEEN[::2], SEEN[1::2], strict=True))
    assert len(pairs) == 22
    assert [split.slot(subject).arm for subject, _ in pairs] == [arm for _, arm in pairs]


def test_a_million_subjects_keep_their_arm_while_the_share_rises() -> None:
    """P31: a rise moves exactly those on whom it must fall, out of the rest and into the two ends."""
    at = _places(SALT)
    for earlier, later in zip((0, *RAMP), RAMP, strict=False):
        before, after = _arms(at, earlier), _arms(at, later)
        moved = before != after
        assert not np.any(moved & (before != "champion"))
        for arm in ("canary", "control"):
            gained = np.mean(moved & (after == arm))
            want = (later - earlier) / WHOLE
            assert abs(gained - want) < 5 * np.sqrt(want * (1 - want) / PEOPLE)


def test_canary_and_control_are_as_many() -> None:
    """P32: of those in one of both, half are in each, at every step."""
    at = _places(SALT)
    for share in RAMP:
        arms = _arms(at, share)
        canary, control = np.sum(arms == "canary"), np.sum(arms == "control")
        assert abs(canary - control) < 5 * np.sqrt(canary + control)


def test_two_policies_deal_independently() -> None:
    """P31: chi-square of a million subjects' arms in two policies; 4 degrees of freedom, p > 0.001."""
    first, second = _arms(_places(SALT), 2500), _arms(_places(salt_of("uid-2", "v1-v2")), 2500)
    names = ("canary", "champion", "control")
    seen = np.array([[np.sum((first == one) & (second == two)) for two in names] for one in names])
    want = seen.sum(1, keepdims=True) * seen.sum(0, keepdims=True) / PEOPLE
    assert float(np.sum((seen - want) ** 2 / want)) < 18.47


def test_another_experiment_or_policy_has_another_salt() -> None:
    salts = {salt_of("uid-1", "v1-v2"), salt_of("uid-2", "v1-v2"), salt_of("uid-1", "v1-v3")}
    assert len(salts) == 3


def test_a_test_with_fixed_shares_deals_every_version_and_its_control_as_much_and_the_champion_the_rest() -> None:
    split = fixed_split(SALT, champion=3, pairs=(Pair(5, 2000, "e5"), Pair(7, 1000, "e7")))
    assert split.slots == (
        Slot("canary", 5, 2000, "e5"),
        Slot("control", 3, 2000, "e5"),
        Slot("canary", 7, 1000, "e7"),
        Slot("control", 3, 1000, "e7"),
        Slot("champion", 3, 4000),
    )
    assert split.slots[0].propensity == 0.2


def test_who_leaves_a_test_moves_nobody_else() -> None:
    """P31."""
    pairs = (Pair(5, 1000, "e5"), Pair(7, 1000, "e7"))
    before = fixed_split(SALT, champion=3, pairs=pairs)
    after = fixed_split(SALT, champion=3, pairs=(pairs[0]._replace(out=True), pairs[1]))
    for number in range(300):
        old, new = before.slot(f"user-{number}"), after.slot(f"user-{number}")
        assert (new.arm, new.version) == (("champion", 3) if old.experiment == "e5" else (old.arm, old.version))


@pytest.mark.parametrize(
    ("subject", "want"),
    [
        ("user-1", True),
        ("a@b.example/c|d", True),
        ("x" * 300, True),
        ("", False),
        (None, False),
        ("a b", False),
        ("a,b", False),
        ("jürgen", False),
        ("a\n", False),
    ],
)
def test_a_subject_is_printable_ascii_without_blank_or_comma(subject: str | None, want: bool) -> None:
    assert is_subject(subject) is want


def test_what_makes_no_split_is_refused_by_name() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: canary_split(SALT, champion=1, candidate=2, share=5001), "candidate's share is 50.01 %"),
        (lambda: canary_split(SALT, champion=1, candidate=2, share=-1), "candidate's share is -0.01 %"),
        (lambda: canary_split(SALT, champion=2, candidate=2, share=1), "both version 2"),
        (lambda: canary_split("a$b", champion=1, candidate=2, share=1), "split.salt is 'a.b'"),
        (lambda: fixed_split(SALT, champion=1, pairs=()), "at least one"),
        (lambda: fixed_split(SALT, champion=1, pairs=(Pair(2, 50, "a"), Pair(2, 50, "b"))), "each once"),
        (lambda: fixed_split(SALT, champion=1, pairs=(Pair(1, 50, "a"),)), "not the champion"),
        (lambda: fixed_split(SALT, champion=1, pairs=(Pair(2, 5001, "a"),)), "sum to 10000"),
        (lambda: Split(SALT, (Slot("champion", 1, WHOLE), Slot("canary", 2, 0))), "give positive ones"),
        (lambda: canary_split(SALT, champion=1, candidate=2, share=1).slot("a b"), "'a b' cannot be dealt with"),
    ]
    for make, want in cases:
        with pytest.raises(BadSplit, match=want):
            make()


def _arms(at: NDArray[np.int64], share: int) -> NDArray[np.str_]:
    slots = canary_split(SALT, champion=1, candidate=2, share=share).slots if share else (Slot("champion", 1, WHOLE),)
    ends = np.cumsum([slot.share for slot in slots])
    return np.array([slot.arm for slot in slots])[np.searchsorted(ends, at, side="right")]


def _places(salt: str) -> NDArray[np.int64]:
    """Where a million subjects fall, by XXH64 written again for columns of 26 bytes: three words and two bytes."""
    numbers = np.arange(PEOPLE)
    digits = [(numbers // 10**power % 10 + 48).astype(np.uint8) for power in range(7, -1, -1)]
    head = np.tile(np.frombuffer(f"{salt}:u".encode(), np.uint8), (PEOPLE, 1))
    keys = np.concatenate([head, np.stack(digits, 1)], 1)
    assert keys.shape == (PEOPLE, 26)
    one, two, three = (np.uint64(prime) for prime in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
    four, five = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)

    def turn(word: NDArray[np.uint64], by: int) -> NDArray[np.uint64]:
        return word << np.uint64(by) | word >> np.uint64(64 - by)

    acc = np.full(PEOPLE, five + np.uint64(26))
    for word in np.ascontiguousarray(keys[:, :24]).view("<u8").T:
        acc = turn(acc ^ turn(word * two, 31) * one, 27) * one + four
    for byte in keys[:, 24:].T.astype(np.uint64):
        acc = turn(acc ^ byte * five, 11) * one
    acc = (acc ^ acc >> np.uint64(33)) * two
    acc = (acc ^ acc >> np.uint64(29)) * three
    places = ((acc ^ acc >> np.uint64(32)) % np.uint64(WHOLE)).astype(np.int64)
    for number in range(0, PEOPLE, 4999):
        assert places[number] == place(f"u{number:08d}", salt)
    return places
