"""TensorBoard: one event file per pod, through tensorboardX, which needs no TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ratchet_jobs.runtime.tracking.base import Tracked

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class TensorBoardTracker:
    """Scalars by name, the settings as text."""

    name = "tensorboard"
    _writer: SummaryWriter

    def start(self, tracked: Tracked) -> None:
        """Open the event file."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(tracked.folder / self.name))
        lines = json.dumps(dict(tracked.settings), indent=2, sort_keys=True, ensure_ascii=False)
        indented = "".join(f"    {line}\n" for line in lines.splitlines())  # a code block: nothing in it is markup
        self._writer.add_text("settings", indented, 0)

    def log(self, step: int, metrics: Mapping[str, float], time_seconds: float) -> None:
        """Add one scalar per metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step, walltime=time_seconds)

    def finish(self, *, succeeded: bool) -> None:
        """Flush and close."""
        self._writer.close()
