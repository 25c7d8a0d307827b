"""How far a log was read: exactly which segments, in a form that stays short.

Decides how a position is written (per writer, the ranges of its sequence numbers) and what it selects of a listing.
Late segments of a slow writer are why a time or a highest number would not do: a rebuild must read the same segments.
Pure. Called by the snapshot stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from ratchet_api.base import StatusModel, digest_of
from ratchet_jobs.feedback_log.segment import Segment


class LogPosition(StatusModel):
    """Segments of a log.

    Compacting a segment keeps its writer and number, so a position outlives it.
    """

    segments: int
    """How many."""
    epochs: dict[str, str]
    """Per writer the numbers of its segments, such as `1-40,42`."""

    @property
    def digest(self) -> str:
        """64 hex digits that differ for any other set of segments."""
        return digest_of(self.epochs)

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> LogPosition:
        """Return the position that stands for these segments."""
        named = sorted({(segment.epoch, segment.seq) for segment in segments})
        epochs = {
            epoch: _ranges([seq for _, seq in members]) for epoch, members in groupby(named, key=lambda each: each[0])
        }
        return cls(segments=len(named), epochs=epochs)

    def select(self, segments: Iterable[Segment]) -> tuple[list[Segment], int]:
        """Return those of a listing that the position stands for, and how many of them are missing in it."""
        wanted = {(epoch, seq) for epoch, text in self.epochs.items() for seq in _numbers(text)}
        found = [segment for segment in segments if (segment.epoch, segment.seq) in wanted]
        return found, len(wanted - {(segment.epoch, segment.seq) for segment in found})


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as ranges."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] + 1 == number:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in parts)


def _numbers(text: str) -> Iterable[int]:
    for part in text.split(","):
        low, _, high = part.partition("-")
        yield from range(int(low), int(high or low) + 1)
