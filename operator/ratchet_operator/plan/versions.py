"""The rows of a policy's versions: which must stay, how one more finds its place, and how one becomes champion. Pure.

Called by `plan.policies`, which gives numbers to runs, and by `plan.variants`, which gives them to generation configs.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime

from ratchet_api.policy import LedgerRow, PolicyVersion, RLPolicyStatus
from ratchet_operator.plan.rollout.table import wanted_servers

VERSIONS_LIMIT = 20
LEDGER_LIMIT = 20


def served(status: RLPolicyStatus) -> set[int]:
    """Return the versions that somebody gets or may get; their rows must stay."""
    if status.rollout is None:
        return set() if status.champion is None else {status.champion}
    return set(wanted_servers(status.rollout, status.champion))


def make_room(versions: Sequence[PolicyVersion], *, needed: Set[int], taken: Set[str]) -> list[PolicyVersion] | None:
    """Return the versions with place for one more; None if every row must stay.

    Args:
        versions: oldest first.
        needed: numbers of rows that must stay.
        taken: uids of runs that have not yet read their number.
    """
    kept = list(versions)
    while len(kept) >= VERSIONS_LIMIT:
        idle = next((v for v in kept if v.version not in needed and v.run_uid not in taken), None)
        if idle is None:
            return None
        kept.remove(idle)
    return kept


def with_champion(status: RLPolicyStatus, version: int | None, now: datetime, why: str) -> RLPolicyStatus:
    """Return the status with this champion and a row of the ledger; the same if it is champion already."""
    row = next((row for row in status.versions if row.version == version), None)
    if row is None or version == status.champion:
        return status
    entry = LedgerRow(version=row.version, since=now, why=why[:256], generation=row.generation)
    ledger = (*status.ledger, entry)[-LEDGER_LIMIT:]
    return status.model_copy(update={"champion": row.version, "champion_digest": row.digest, "ledger": ledger})
