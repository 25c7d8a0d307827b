"""One request for all passes that want the same object at the same time.

A burst of runs on one dataset reads that dataset and the namespace's store settings once per run, although the
answers are the same. A pass must not take an answer that began before it asked, or it could miss the very change that
woke it; but the next request that begins may answer everyone who waits by then. Decides nothing about what is read.
Used by `Observer`; an object that is only its own pass's business is read directly.
"""

from __future__ import annotations

import asyncio

from ratchet_operator.cluster.protocol import Cluster, KubeObject, Resource

_Name = tuple[Resource, str, str]
_Answer = asyncio.Future[KubeObject | None]


class SharedReads:
    """Reads single objects; every answer comes from a request that began after it was asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._next: dict[_Name, _Answer | None] = {}  # names in flight -> the answer of the request after it
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references

    async def get(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """Return the object, or None if it does not exist; nobody may change what is returned.

        Raises:
            ClusterError: as `Cluster.get` raises it, to everyone who waits for the same request.
        """
        key: _Name = (resource, namespace, name)
        if key not in self._next:
            self._next[key] = None
            return await asyncio.shield(self._begin(key, asyncio.get_running_loop().create_future()))
        waiting = self._next[key]
        if waiting is None:
            waiting = self._next[key] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(waiting)  # one pass that is cut must not cut the others' answer

    def _begin(self, key: _Name, answer: _Answer) -> _Answer:
        task = asyncio.create_task(self._answer(key, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _answer(self, key: _Name, answer: _Answer) -> None:
        try:
            found = await self._cluster.get(*key)
        except BaseException as error:  # whoever waits must hear of every end, that of the loop included
            answer.set_exception(error)
            answer.exception()  # read: if every pass that waited was cut, nobody is left to do it
        else:
            answer.set_result(found)
        following = self._next[key]
        if following is None:
            del self._next[key]
        else:
            self._next[key] = None
            self._begin(key, following)
