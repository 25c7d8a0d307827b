"""Does this store keep its word? A race of writers on one key, of which exactly one may be told that it won.

The commit protocol rests on "create if absent". A server that ignores `If-None-Match: *`, or checks it and writes in
two steps, answers every writer with success; two pods would then both believe that their result counts. Called by
`resolve`, the first pod of a run, until the store has passed once for the namespace, and by each gateway at its start.
"""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from ratchet_jobs.runtime.errors import BadConfigError
from ratchet_jobs.runtime.store import Store

WRITERS = 32
ROUNDS = 3


def probe_conditional_put(store: Store, *, prefix: str, writers: int = WRITERS, rounds: int = ROUNDS) -> None:
    """Let writers race for a key, several times.

    Args:
        store: what is probed; used by all writers at once.
        prefix: folder for the keys, which are deleted afterwards.
        writers: how many race, released by one barrier.
        rounds: how many races; a server that checks and writes in two steps may get through one by luck.

    Raises:
        BadConfigError: not exactly one writer won, or the winner's bytes are not what is stored.
    """
    for _ in range(rounds):
        key = f"{prefix}/{secrets.token_hex(8)}"
        try:
            _race(store, key, writers)
        finally:
            store.delete([key])


def ensure_probed(store: Store, *, namespace: str, again: bool = False) -> None:
    """Probe the store once per namespace; a marker in the store remembers that it passed.

    Args:
        store: what is probed.
        namespace: who asks.
        again: probe it whatever the marker says, since the server behind an address may have become another one.

    Raises:
        BadConfigError: as `probe_conditional_put`.
    """
    passed = f"{namespace}/probe/passed"
    if again or not store.exists(passed):
        probe_conditional_put(store, prefix=f"{namespace}/probe")
        store.write(passed, b"one writer of each race won\n")


def _race(store: Store, key: str, writers: int) -> None:
    barrier = threading.Barrier(writers)

    def write(number: int) -> bytes | None:
        mine = f"{number} {secrets.token_hex(16)}".encode()
        barrier.wait()
        return mine if store.create(key, mine) else None

    with ThreadPoolExecutor(writers) as pool:
        winners = [mine for mine in pool.map(write, range(writers)) if mine is not None]
    if len(winners) != 1 or store.read(key) != winners[0]:
        raise BadConfigError(
            f"store.uri {store.uri}: {len(winners)} of {writers} writers of one new object were told that they created "
            "it, exactly one may be; the server does not keep conditional PUTs (If-None-Match: *): "
            "upgrade it or take another store"
        )
