"""Which servers a rollout wants and what the routers are told: functions of its status alone. Pure."""

from __future__ import annotations

from ratchet_api.assign import WHOLE, canary_split, experiment_of, salt_of
from ratchet_api.fixed_shares import split_of_test
from ratchet_api.names import SERVER_PORT, server_name
from ratchet_api.rollout import RolloutStatus
from ratchet_operator.desired.router_table import Backend, RouterTable, Shadow, table_version
from ratchet_operator.plan.rollout.world import RolloutWorld


def wanted_servers(status: RolloutStatus, champion: int | None) -> tuple[int, ...]:
    """Return the versions whose servers must run: who serves, shall serve, is on trial, or may still be asked."""
    tested = () if status.testing is None else tuple(arm.version for arm in status.testing.live)
    some = (champion, status.serving, status.candidate, *tested, *status.leaving)
    return tuple(sorted({version for version in some if version is not None}))


def wanted_table(world: RolloutWorld) -> RouterTable | None:
    """Return the table; None before there is a champion. A candidate without a share is in it and gets nobody."""
    status = world.status
    everybody = world.champion if status.serving is None else status.serving
    if everybody is None:
        return None
    backends = tuple(_backend(world, version) for version in wanted_servers(status, world.champion))
    split = None
    if status.candidate is not None and status.share:
        salt = salt_of(world.uid, status.experiment)
        split = canary_split(salt, champion=everybody, candidate=status.candidate, share=status.share)
    elif status.testing is not None:
        split = split_of_test(status.testing, policy_uid=world.uid, champion=everybody)
    return RouterTable(
        world.policy,
        everybody,
        backends,
        split=split,
        shadow=_shadow(world),
        override_header=world.tester_header,
        explore=world.explore,
    )


def _shadow(world: RolloutWorld) -> Shadow | None:
    status, asked = world.status, world.spec.shadow
    if asked is None or status.candidate is None or not status.shadowed:
        return None
    experiment = experiment_of(salt_of(world.uid, status.experiment))
    return Shadow(status.candidate, round(asked.percent * WHOLE / 100), experiment)


def applied(world: RolloutWorld) -> bool:
    """Whether every router applied the wanted table."""
    table = wanted_table(world)
    if table is None or not world.replicas:
        return False
    version = table_version(table)
    return all(replica.table == version for replica in world.replicas)


def _backend(world: RolloutWorld, version: int) -> Backend:
    return Backend(version, f"{server_name(world.policy, version)}.{world.namespace}.svc", SERVER_PORT)
