"""Weights of linear layers stored column by column, for a CPU that multiplies few rows at a time.

A language model that draws tokens multiplies a handful of rows with every matrix. With weights that lie by rows such a
product costs almost as much for each row more; with weights by columns, eight rows cost little more than one, and many
rows cost no more than before. Shapes and numbers stay, and no second copy of the weights is kept.

Called by what draws: `rlhf/trunk.py`, and policy servers.
"""

from __future__ import annotations

from torch import nn


def turn_weights(model: nn.Module) -> int:
    """Store each linear layer's weight on a CPU by columns; elsewhere they stay as they are.

    Embeddings that share their weight with a linear layer share it afterwards, too.

    Args:
        model: whose weights are turned in place, trained ones with them.

    Returns:
        How many layers were turned.
    """
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            given = module.weight.data
            columns = given.t().contiguous()
            # where the rows lay, so that no hole is left in the heap for each of them
            module.weight.data = given.view(columns.shape).copy_(columns).t() if given.is_contiguous() else columns.t()
            count += 1
    return count
