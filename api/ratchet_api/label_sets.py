"""Which classes a classifier tells, kept small enough for a status and a termination message, and compared.

Decides what is kept of them. A digest says whether two policies tell the same ones, in whatever order; names say what
the difference is, as far as they are kept. The evaluate stage makes them, the operator compares. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from ratchet_api.base import LabelName, StatusModel, digest_of

NAMES_BYTES = 600
"""Of all names that are kept: they travel in a termination message of 4 KiB, and 20 versions stand in one status."""
_MOST_NAMES = 64
_SHOWN = 3


class LabelSet(StatusModel):
    """The classes of one classifier."""

    count: Annotated[int, Field(ge=1, le=2**31, description="count: how many there are.")]
    digest: Annotated[
        str,
        Field(min_length=64, max_length=64, description="digest: SHA-256 of the sorted names; alike = the same set."),
    ]
    names: Annotated[
        tuple[LabelName, ...],
        Field(
            default=(),
            strict=False,
            max_length=_MOST_NAMES,
            description="names: the first of them in sorted order, as many as 600 bytes hold.",
        ),
    ]

    @classmethod
    def of(cls, labels: Collection[str]) -> LabelSet:
        """Return what is kept of these classes; with tasks each is called TASK/LABEL."""
        names, kept, used = sorted(set(labels)), 0, 0
        for name in names[:_MOST_NAMES]:
            used += len(name.encode())
            if used > NAMES_BYTES:
                break
            kept += 1
        return cls(count=len(names), digest=digest_of(names), names=tuple(names[:kept]))

    def without_names(self) -> LabelSet:
        """Return what suffices to tell whether two sets are the same."""
        return self.model_copy(update={"names": ()})


def difference(before: LabelSet, after: LabelSet) -> str:
    """Say in which classes two sets differ; empty = they are the same.

    Where names were left out, only those are compared that both sets would show.
    """
    if before.digest == after.digest:
        return ""
    ends = [each.names[-1] if each.names else "" for each in (before, after) if len(each.names) < each.count]
    last = min(ends, default=None)  # beyond it a missing name may only be one that was not kept
    old, new = ({name for name in each.names if last is None or name <= last} for each in (before, after))
    told = [_listed("added", new - old), _listed("removed", old - new)]
    counts = f"{before.count} labels before, {after.count} now"
    found = [each for each in told if each]
    return (
        f"{', '.join(found)} ({counts})" if found else f"they differ in labels that the status does not list ({counts})"
    )


def _listed(what: str, names: set[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:_SHOWN]))
    return f"{what} {shown}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}" if names else ""
