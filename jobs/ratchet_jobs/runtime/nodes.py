"""A stage's nodes, as the entry of a stage sees them: joined before the recipe, parted after the commit.

Decides that node 0 alone commits and that nobody leaves before it has: a Job replaces no pod that ended well, so a node
that left earlier could not be had again if node 0 had to start over. Called by `main`.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from ratchet_api.stage import StageInput, nodes_of
from ratchet_jobs.runtime.commit import find_commit
from ratchet_jobs.runtime.context import Settings
from ratchet_jobs.runtime.errors import BadConfigError, PeerLost
from ratchet_jobs.runtime.store import Store
from ratchet_jobs.runtime.team import Solo, Team


def find_team(store: Store, job: StageInput, settings: Settings, stop: threading.Event) -> Team | None:
    """Wait until all nodes of the stage are there.

    Returns:
        The team, of one for a stage of one node; None = the stage was committed meanwhile.

    Raises:
        BadConfigError: the pod's environment does not fit the stage's number of nodes.
        Preempted: the pod must leave, or a node was lost at once.
    """
    size = nodes_of(job.config)
    if size == 1:
        return Solo()
    if not 0 <= settings.rank < size:
        raise BadConfigError(
            f"JOB_COMPLETION_INDEX is {settings.rank}, but stages.{job.config.stage}.nodes is {size}: start the stage "
            "through the operator or `ratchet run`, which count nodes from 0"
        )
    if not settings.address:
        raise BadConfigError(
            f"RATCHET_POD_IP is not set, but stages.{job.config.stage}.nodes is {size}: start the stage through the "
            "operator or `ratchet run`"
        )
    from ratchet_jobs.runtime.gloo import Node, join, team_key  # only here: a stage of one node needs no torch for it

    return join(
        store,
        team_key(job.prefix, job.attempt),
        Node(settings.rank, size, settings.pod_uid, settings.address),
        seconds=settings.silence_seconds,
        stop=stop,
        committed=lambda: _is_committed(store, job),
    )


def part(team: Team) -> None:
    """Wait until every node is here: node 0 comes with its commit, the others with nothing.

    Who is lost at this point takes nothing with it that is not in the store.
    """
    with suppress(PeerLost):
        team.any(False)


def _is_committed(store: Store, job: StageInput) -> bool:
    found = find_commit(store, prefix=job.prefix, namespace=job.owner.namespace, input_digest=job.input_digest)
    return found is not None
