"""Weights of linear layers stored column by column, for a CPU that multiplies few rows at a time.

A language model that draws tokens multiplies a handful of rows with every matrix. With weights that lie by rows such a
product costs almost as much for each row more; with weights by columns, eight rows cost little more than one, and many
rows cost no more than before. Weights in bfloat16 gain nothing: oneDNN lays them out anew for each product. Shapes and
numbers stay, and no second copy of the weights is kept.

Called by what draws: `rlhf/trunk.py`, and policy servers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def turn_weights(model: nn.Module) -> int:
    """Store each linear layer's float32 weight on a CPU by columns; others stay as they are.

    Embeddings that share their weight with a linear layer share it afterwards, too.

    Args:
        model: whose weights are turned in place, trained ones with them.

    Returns:
        How many layers were turned.
    """
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and _gains(module.weight):
            given = module.weight.data
            columns = given.t().contiguous()
            # where the rows lay, so that no hole is left in the heap for each of them
            module.weight.data = given.view(columns.shape).copy_(columns).t() if given.is_contiguous() else columns.t()
            count += 1
    return count


def _gains(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
