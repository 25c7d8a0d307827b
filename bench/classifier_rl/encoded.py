"""What one frozen encoder makes of each text, kept, so that runs which share the encoder share its pass.

The rl stage passes every query through the encoder once; ten runs from one supervised policy would do it ten times, to
the same numbers. Changes when features are computed and never which: they differ by the rounding of another padding.
Used by this bench alone, and only where adapters do not learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratchet_jobs.models.classifier import Classifier


class Encoded:
    """Pooled features by token row, of one encoder that no longer learns."""

    def __init__(self) -> None:
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self._known)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, `Classifier.pool` computes a row it has not seen and remembers it; only without gradient."""
        own = Classifier.pool

        def pool(classifier: Classifier, input_ids: Tensor, token_mask: Tensor) -> Tensor:
            if torch.is_grad_enabled() or classifier.training:
                raise RuntimeError("encoded: the encoder learns, so its features cannot be shared")
            ids, lengths = input_ids.cpu().numpy(), token_mask.sum(1).tolist()
            keys = [row[:length].tobytes() for row, length in zip(ids, lengths, strict=True)]
            new = [place for place, key in enumerate(keys) if key not in self._known]
            if new:
                made = own(classifier, input_ids[new], token_mask[new]).cpu().numpy()
                self._known.update({keys[place]: row.copy() for place, row in zip(new, made, strict=True)})
            return torch.from_numpy(np.stack([self._known[key] for key in keys])).to(input_ids.device)

        with mock.patch.object(Classifier, "pool", pool):
            yield
