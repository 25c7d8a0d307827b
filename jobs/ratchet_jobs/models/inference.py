"""Logits of many texts with a classifier that no longer learns.

Decides the order of the work (longest first, restored at the end). Called by the evaluate recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from ratchet_jobs.models.batching import pad, sorted_batches
from ratchet_jobs.models.classifier import Classifier
from ratchet_jobs.models.tokenizing import TokenRows


def predict_logits(
    classifier: Classifier, tokens: TokenRows, *, batch_size: int, after_batch: Callable[[int], None]
) -> NDArray[np.float64]:
    """Compute logits, in the order of the rows.

    Args:
        classifier: on the device to use.
        tokens: N rows.
        batch_size: rows per forward pass.
        after_batch: called with the number of rows in each batch that is done; may raise to stop.

    Returns:
        (N, C) float64.
    """
    device = classifier.head.weight.device
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    classifier.eval()
    logits = np.zeros((len(tokens.rows), classifier.head.out_features))
    with torch.inference_mode(), autocast:
        for batch in sorted_batches(tokens.lengths, batch_size):
            input_ids, token_mask = pad([tokens.rows[i] for i in batch], pad_id=classifier.pad_id)
            logits[batch] = classifier(input_ids.to(device), token_mask.to(device)).double().cpu().numpy()
            after_batch(len(batch))
    return logits
