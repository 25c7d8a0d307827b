"""Which version a subject gets: the split of the traffic, and the router's own hash restated.

Decides the order in which the arms lie on the scale 0..9999 and where on it a subject falls. Never routes anything:
Envoy does, by the same numbers, and `ratchet why` says what it will do. Used by the operator (tables), the analyst
(intended shares) and the CLI. Pure.

Canary and control lie at the two ends of the scale and the rest between them, so that both grow nested while the
share rises: whoever was in an arm stays in it, and control is drawn at the same time and in the same number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ratchet_api.base import digest_of

WHOLE = 10_000
"""The scale: a share of 1 means a hundredth of a percent."""
SUBJECT_PATTERN = r"[!-+\--~]+"
"""What names a subject: printable ASCII without blank and comma. Other bytes would leave the router's expression
unmatched and the hash without salt; with a comma, one header could not be told from two. Its length is the server's
to bound: a repetition with bounds is more than Envoy takes of an expression."""
Arm = Literal["champion", "canary", "control"]
"""Of the answer: champion = in no comparison; the version tells the arms of one test with several versions apart."""

_SUBJECT = re.compile(SUBJECT_PATTERN)
_SALT = re.compile(r"[a-f0-9]{8,64}")


class BadSplit(ValueError):
    """Shares or a salt that make no split; the text names the value and the remedy."""


class Slot(NamedTuple):
    """One arm's part of the scale."""

    arm: Arm
    version: int
    share: int
    """In hundredths of a percent."""
    experiment: str = ""
    """Id under which it is counted, where that is not the split's: of one version of a test and its control group."""

    @property
    def propensity(self) -> float:
        """Probability that a subject falls here, 0..1."""
        return self.share / WHOLE


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets what, from 0 to 9999 in this order.

    Attributes:
        salt: of the experiment, hexadecimal; another salt deals everybody anew.
        slots: parts with a share above 0; they fill the scale.
    """

    salt: str
    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        """Refuse what the router would read otherwise than meant.

        Raises:
            BadSplit: naming the value.
        """
        if not _SALT.fullmatch(self.salt):
            raise BadSplit(f"split.salt is {self.salt!r}; give 8 to 64 of 0-9 and a-f, as salt_of does")
        if any(slot.share <= 0 for slot in self.slots) or sum(slot.share for slot in self.slots) != WHOLE:
            shares = [slot.share for slot in self.slots]
            raise BadSplit(f"split.slots have the shares {shares}; give positive ones that sum to {WHOLE}")

    @property
    def experiment(self) -> str:
        """Id of the experiment, as servers sign it and the log has it."""
        return experiment_of(self.salt)

    def slot(self, subject: str) -> Slot:
        """Return the slot of a subject.

        Raises:
            BadSplit: no such subject can be split; the router gives it the champion (see `is_subject`).
        """
        if not is_subject(subject):
            raise BadSplit(f"subject {subject[:64]!r} cannot be dealt with; give ASCII without blank or comma")
        at = place(subject, self.salt)
        for slot in self.slots:
            if at < slot.share:
                return slot
            at -= slot.share
        raise AssertionError("slots fill the scale")


def canary_split(salt: str, *, champion: int, candidate: int, share: int) -> Split:
    """Return [canary share | champion | control share].

    Args:
        salt: of the experiment.
        champion: version that everybody else gets, and control with them.
        candidate: version on trial.
        share: of the candidate in hundredths of a percent, 0 to 5000; control gets as much.

    Raises:
        BadSplit: the share leaves no room for a control of the same size.
    """
    if not 0 <= share <= WHOLE // 2:
        raise BadSplit(
            f"candidate's share is {share / 100:g} %; give 0 to 50, since control gets as much: 100 is a promotion"
        )
    if candidate == champion:
        raise BadSplit(f"candidate and champion are both version {champion}; a version is not compared with itself")
    slots = (
        Slot("canary", candidate, share),
        Slot("champion", champion, WHOLE - 2 * share),
        Slot("control", champion, share),
    )
    return Split(salt, tuple(slot for slot in slots if slot.share))


class Pair(NamedTuple):
    """One version of a test with fixed shares."""

    version: int
    share: int
    """In hundredths of a percent; its control group gets as much."""
    experiment: str
    """Id under which the two are counted."""
    out: bool = False
    """It was taken out: the champion answers in its place, and nobody else changes sides."""


def fixed_split(salt: str, *, champion: int, pairs: Sequence[Pair]) -> Split:
    """Return [version | its control | version | its control | … | champion] of a test with fixed shares.

    Args:
        salt: of the test, which is another one for other shares.
        champion: version that all control groups get, and the rest.
        pairs: the versions besides.

    Raises:
        BadSplit: no version, one twice, or the champion among them.
    """
    versions = [pair.version for pair in pairs]
    if not versions or len(set(versions)) < len(versions) or champion in versions:
        raise BadSplit(
            f"the test has the versions {versions} and the champion is {champion}; "
            "give at least one, each once, and not the champion, against whom they are held"
        )
    slots: list[Slot] = []
    for version, share, experiment, out in pairs:
        if out:
            slots.append(Slot("champion", champion, 2 * share))
        else:
            slots += [Slot("canary", version, share, experiment), Slot("control", champion, share, experiment)]
    rest = WHOLE - sum(slot.share for slot in slots)
    return Split(salt, (*slots, *((Slot("champion", champion, rest),) if rest else ())))


def salt_of(policy_uid: str, experiment: str) -> str:
    """Return the salt of an experiment: two policies, or two experiments of one, deal independently."""
    return digest_of({"policy": policy_uid, "experiment": experiment})[:16]


def experiment_of(salt: str) -> str:
    """Return the id under which an experiment is known to people, who must not learn its salt from it."""
    return digest_of({"experiment": salt})[:16]


def is_subject(subject: str | None) -> bool:
    """Whether the router deals this subject an arm; everybody else gets the champion outside the comparison."""
    return subject is not None and _SUBJECT.fullmatch(subject) is not None


def place(subject: str, salt: str) -> int:
    """Return where on the scale 0..9999 a subject falls: XXH64 of `SALT:SUBJECT` modulo 10000, as Envoy has it."""
    return xxh64(f"{salt}:{subject}".encode()) % WHOLE


_MASK = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: bytes) -> int:
    """Return the 64-bit xxHash with seed 0 (xxHash specification 0.2.0, XXH64)."""
    end, at = len(data), 0
    if end >= 32:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        for at in range(0, end - 31, 32):
            for lane in range(4):
                word = int.from_bytes(data[at + 8 * lane : at + 8 * lane + 8], "little")
                lanes[lane] = _round(lanes[lane], word)
        at += 32
        acc = sum(_turn(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            acc = ((acc ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        acc = _P5
    acc = (acc + end) & _MASK
    while at + 8 <= end:
        acc = (_turn(acc ^ _round(0, int.from_bytes(data[at : at + 8], "little")), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= end:
        acc = (_turn(acc ^ (int.from_bytes(data[at : at + 4], "little") * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        acc = _turn(acc ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    acc = (acc ^ acc >> 33) * _P2 & _MASK
    acc = (acc ^ acc >> 29) * _P3 & _MASK
    return acc ^ acc >> 32


def _round(acc: int, word: int) -> int:
    return _turn((acc + word * _P2) & _MASK, 31) * _P1 & _MASK


def _turn(word: int, by: int) -> int:
    return ((word << by) | (word >> (64 - by))) & _MASK
