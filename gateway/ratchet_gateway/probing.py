"""What the store promises, found out in the background while the gateway serves: /readyz and the log say the result.

Decides two questions: does a conditional PUT let one writer win, and do the gateway's own credentials let it delete
from the log or overwrite in it, which a bucket policy should deny. Never stops the gateway: its log needs neither.
Started by `app`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from starlette.datastructures import State

from ratchet_jobs.feedback_log.segment import log_prefix
from ratchet_jobs.runtime.errors import BadConfigError, StoreAccessDenied, StoreError
from ratchet_jobs.runtime.probe import ensure_probed
from ratchet_jobs.runtime.store import Store

log = logging.getLogger(__name__)

_PENDING = "conditional PUT is being probed"
_ATOMIC = "conditional PUT is atomic"
_NOT_ATOMIC = "conditional PUT is NOT atomic: the log does not need it, training runs do"
_UNKNOWN = "conditional PUT was not probed, the credentials may not delete"
_ADD_ONLY = "log: add only, the store denies deleting from it and overwriting in it"
_NO_DELETING = "log: no deleting, but the store lets these credentials overwrite in it"
_PREFIX_ONLY = "log: prefix only, the store lets these credentials delete from it"


async def probe(state: State, store: Store, namespace: str) -> None:
    """Reach the store, then ask both questions until each has an answer.

    Args:
        state: `store_note` and `log_note` get the answers, `store_error` what the store said last.
        store: the log's.
        namespace: whose log.
    """
    pause = 0.5
    while state.store_note in ("", _PENDING) or not state.log_note:
        try:
            await asyncio.to_thread(store.exists, f"{namespace}/probe/passed")
            state.store_note = state.store_note or _PENDING
            state.log_note = state.log_note or await asyncio.to_thread(log_protection, store, namespace)
            if state.store_note == _PENDING:
                await asyncio.to_thread(ensure_probed, store, namespace=namespace, again=True)
                state.store_note = _ATOMIC
        except BadConfigError as error:
            log.error("store", extra={"error": str(error)})
            state.store_note = _NOT_ATOMIC
        except StoreAccessDenied as error:
            state.store_error = str(error)
            if state.store_note == _PENDING and state.log_note:  # it may read, and not delete what the probe wrote
                state.store_note = _UNKNOWN
        except StoreError as error:
            state.store_error = str(error)
        if state.store_note in ("", _PENDING):
            log.warning("store is not probed yet", extra={"error": state.store_error})
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10)
    log.info("store", extra={"uri": store.uri, "probe": state.store_note, "log": state.log_note})


def log_protection(store: Store, namespace: str) -> str:
    """Return whether segments are safe from the gateway's own credentials.

    Asks to delete an object that was never there: a store that would have done it answers with success. Where that is
    denied, asks to write one without the condition that every segment is written with; a store that lets it be keeps
    an empty object `overwrite-probe`, which no reader takes for a segment.
    """
    if store.uri.startswith("file:"):
        return "log: a directory, protected by its owner alone"
    folder = log_prefix(namespace)
    if not _denied(store.delete, [f"{folder}/probe-{secrets.token_hex(8)}"]):
        return _PREFIX_ONLY
    return _ADD_ONLY if _denied(store.write, f"{folder}/overwrite-probe", b"") else _NO_DELETING


def _denied(call: Callable[..., None], *arguments: object) -> bool:
    try:
        call(*arguments)
    except StoreAccessDenied:
        return True
    return False
