"""One check that every formula makes first: equal shapes, so that nothing broadcasts by accident.

A value of shape (B, 1) minus a return of shape (B,) is a (B, B) table whose mean looks plausible; refused here.
"""

from __future__ import annotations

from torch import Tensor


def require_same_shape(formula: str, **tensors: Tensor) -> None:
    """Refuse tensors whose shapes differ.

    Args:
        formula: name of the caller, for the message.
        tensors: by argument name.

    Raises:
        ValueError: naming every argument with its shape.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        seen = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{formula}: {seen}; give tensors of one shape")
