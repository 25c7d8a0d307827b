"""What a tracker is to the rest of the runtime: four calls, each of which may fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Tracked:
    """The stage that is tracked.

    Attributes:
        title: namespace/run/stage/attempt, as the tracker shows it.
        labels: the same in parts, to filter by.
        settings: the stage's resolved configuration, flat, dotted names.
        folder: local folder for what the tracker writes; it is copied into the store at the end.
    """

    title: str
    labels: Mapping[str, str]
    settings: Mapping[str, Any]
    folder: Path


class Tracker(Protocol):
    """One tracker; made, called and ended in one background thread."""

    name: str

    def start(self, tracked: Tracked) -> None:
        """Load the tracker's library and open a run."""

    def log(self, step: int, metrics: Mapping[str, float], time_seconds: float) -> None:
        """Write the metrics of one step; time in seconds since 1970."""

    def finish(self, *, succeeded: bool) -> None:
        """Write what is left and close the run."""
