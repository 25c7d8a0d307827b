"""The processes that do one stage together: what each of them may ask of the others.

Every node of a stage runs the same recipe, and all call the same methods in the same order, as if they were one.
Decides nothing about learning. `gloo` makes a team of several nodes, `Solo` is the team of one; recipes see neither,
only this. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Team(Protocol):
    """The processes that train together; every one calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """This process, 0..size-1. The first, 0, alone writes and speaks for all."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum_(self, tensor: Tensor) -> None:
        """Replace the tensor's content by its sum over the team; everyone gets the same bits.

        Raises:
            PeerLost: somebody is gone.
        """

    def any(self, yes: bool) -> bool:
        """Whether anybody says yes.

        Raises:
            PeerLost: somebody is gone.
        """

    def number(self, of_first: int) -> int:
        """The first one's whole number, whatever the others give.

        Raises:
            PeerLost: somebody is gone.
        """

    def close(self) -> None:
        """Leave the team."""


@dataclass(frozen=True, slots=True)
class Solo:
    """A team of one."""

    rank: int = 0
    size: int = 1

    def sum_(self, tensor: Tensor) -> None:
        """The sum over one process is the tensor itself."""

    def any(self, yes: bool) -> bool:
        """What it says itself."""
        return yes

    def number(self, of_first: int) -> int:
        """Its own."""
        return of_first

    def close(self) -> None:
        """There is nothing to leave."""
