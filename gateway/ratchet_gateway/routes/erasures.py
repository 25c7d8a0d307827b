"""Erasing a person over HTTP: the request is recorded here, and the eraser beside the gateways carries it out.

Decides that from the recording on nothing of the person is read, by any reader of the log. Never rewrites anything:
the gateway's credentials may only add to the log, and shall not be able to take from it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path

from ratchet_api.erasure import ERASURE_ID, ErasureAnswer, ErasureReport, ErasureRequest
from ratchet_api.signing import pseudonym
from ratchet_gateway.auth import Role
from ratchet_gateway.errors import UnknownErasure
from ratchet_gateway.routes.problems import BODY, KNOWN_CALLER, UNKNOWN
from ratchet_gateway.services import Calling
from ratchet_jobs.feedback_log.erasures import find_record, read_report, request_erasure

router = APIRouter(prefix="/v1/erasures", tags=["erasures"])

ErasureName = Annotated[str, Path(pattern=ERASURE_ID, description="erasure: id, as the request answered it.")]


@router.post("", status_code=202, responses={**KNOWN_CALLER, **BODY}, summary="Ask that a person be erased")
async def request(body: ErasureRequest, call: Calling) -> ErasureAnswer:
    """Record that a person is to be erased. At once, nothing more of them is read: no statistic, no new data set.

    The person is found under every signing key that is still kept. What is stored already is removed within minutes
    by a program of its own (`ratchet-erase`; `ratchet up` does it itself). Asking again is the same erasure.
    """
    services, caller = call
    caller.need(Role.ERASE)
    ring = services.recorder.ring
    subjects = [pseudonym(body.subject, ring, key=key) for key in ring.keys]
    record = await asyncio.to_thread(
        request_erasure, services.store_of_log, services.namespace, subjects, now=services.now()
    )
    return await _answer(call, record.id)


@router.get("/{erasure}", responses={**KNOWN_CALLER, **UNKNOWN}, summary="How far an erasure is")
async def look(erasure: ErasureName, call: Calling) -> ErasureAnswer:
    """Answer whether the erasure is done, and with which proof."""
    call.caller.need(Role.ERASE)
    found = await asyncio.to_thread(find_record, call.services.store_of_log, call.services.namespace, erasure)
    if found is None:
        raise UnknownErasure(f"erasure {erasure}: was never asked for here; correct the id")
    return await _answer(call, erasure)


async def _answer(call: Calling, erasure: str) -> ErasureAnswer:
    report: ErasureReport | None = await asyncio.to_thread(
        read_report, call.services.store_of_log, call.services.namespace, erasure
    )
    return ErasureAnswer(id=erasure, status="recorded" if report is None else "done", report=report)
