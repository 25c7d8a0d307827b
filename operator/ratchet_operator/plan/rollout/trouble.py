"""What keeps a version's servers from answering, as the statuses of its pods tell. Pure.

A server that cannot begin writes why into its container's termination message; the kubelet tells everything else.
Called by `observe_serving`; the rules say it to people and end trials by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ratchet_operator.cluster.protocol import KubeObject
from ratchet_operator.plan.rollout.world import Trouble
from ratchet_operator.plan.sights import condition_of, rows_of, table_of, text_of

_BEGINNING = frozenset({"ContainerCreating", "PodInitializing"})
_LONGEST = 700
_MOST_COUNTED = 1_000_000


def trouble_of(pods: Sequence[KubeObject]) -> Trouble:
    """Return what the pods of a version say; of several ends the last one is told."""
    told = [_told(pod) for pod in pods]
    restarts = max((each.restarts for _, each in told), default=0)
    _, worst = max(told, key=lambda each: each[0], default=(_Rank(), Trouble()))
    return worst._replace(restarts=restarts)


class _Rank(NamedTuple):
    """How much a pod has to tell."""

    kind: int = 0
    finished: str = ""
    name: str = ""


def _told(pod: KubeObject) -> tuple[_Rank, Trouble]:
    """What one pod says: how it ended, else what it waits for, else that no node takes it."""
    name, status = text_of(table_of(pod.get("metadata")).get("name")), table_of(pod.get("status"))
    containers = [*rows_of(status.get("initContainerStatuses")), *rows_of(status.get("containerStatuses"))]
    restarts = max((_count(each.get("restartCount")) for each in containers), default=0)
    ends = [end for each in containers if (end := _end(each))]
    if ends:
        end = max(ends, key=lambda each: text_of(each.get("finishedAt")))
        code = end["exitCode"]
        why = text_of(end.get("reason"))
        text = f"pod {name!r} ended with exit code {code}{f' ({why})' if why else ''}{_said(end)}"
        return _Rank(3, text_of(end.get("finishedAt")), name), Trouble(text, code, restarts)
    for each in containers:
        waiting = table_of(table_of(each.get("state")).get("waiting"))
        if (reason := text_of(waiting.get("reason"))) and reason not in _BEGINNING:
            return _Rank(2, "", name), Trouble(f"pod {name!r} waits: {reason}{_said(waiting)}", None, restarts)
    scheduled = next((row for row in rows_of(status.get("conditions")) if row.get("type") == "PodScheduled"), {})
    if scheduled.get("status") == "False":
        return _Rank(1, "", name), Trouble(f"pod {name!r} has no node{_said(scheduled)}", None, restarts)
    if not condition_of(status.get("conditions"), "Ready"):
        return _Rank(0, "", name), Trouble(f"pod {name!r} is not ready", None, restarts)
    return _Rank(), Trouble(restarts=restarts)


def _end(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How the container ended last, if it was by a failure."""
    for part in ("state", "lastState"):
        ended = table_of(table_of(container.get(part)).get("terminated"))
        if isinstance(code := ended.get("exitCode"), int) and code != 0:
            return ended
    return None


def _said(table: Mapping[str, Any]) -> str:
    """Return its message in one line, after a colon; nothing if there is none."""
    text = " ".join(text_of(table.get("message")).split())[:_LONGEST].rstrip(".")
    return f": {text}" if text else ""


def _count(value: Any) -> int:
    return min(max(0, value), _MOST_COUNTED) if isinstance(value, int) else 0
