"""Which policies a run with RL needs that exist before it: the one it starts from, and the champion beside it. Pure.

Asked once, when the run's inputs are fixed; later promotions and versions do not reach a started run.
"""

from __future__ import annotations

from ratchet_api.policy_types import GENERATOR
from ratchet_api.resolved import ResolvedPolicy
from ratchet_api.rl import PolicyVersionRef
from ratchet_operator.plan.runs.state import spec_of
from ratchet_operator.plan.world import PolicySight, RunWorld


def find_start(world: RunWorld) -> ResolvedPolicy | None:
    """Return the policy that spec.startFrom names; None if it names none, or one that is missing."""
    wanted = spec_of(world).start_from
    if wanted is None:
        return None
    if wanted.artifact is not None:
        return ResolvedPolicy(uri=wanted.artifact.uri, digest=wanted.artifact.sha256)
    if wanted.policy is None or world.start is None:
        return None
    return _version_of(world.start, wanted.policy.version)


def start_missing(world: RunWorld) -> str:
    """Say what of spec.startFrom does not exist; empty = nothing is missing."""
    wanted = spec_of(world).start_from
    if wanted is None or wanted.policy is None or find_start(world) is not None:
        return ""
    return _missing(wanted.policy, world.start, world.meta.namespace)


def find_champion(world: RunWorld) -> ResolvedPolicy | None:
    """Return the champion of the policy that a run with RL publishes to; None if there is none.

    Of a generator only where a judge is named: without one nothing compares the answers of the two.
    """
    spec, policy = spec_of(world), world.policy
    if not spec.with_rl or policy is None or policy.champion is None:
        return None
    if spec.policy_type == GENERATOR and spec.stages.evaluate.judge is None:
        return None
    return _version_of(policy, policy.champion)


def _version_of(policy: PolicySight, number: int) -> ResolvedPolicy | None:
    artifact = policy.artifacts.get(number)
    if artifact is None:
        return None
    return ResolvedPolicy(policy=policy.name, version=number, uri=artifact.uri, digest=artifact.digest)


def _missing(wanted: PolicyVersionRef, policy: PolicySight | None, namespace: str) -> str:
    if policy is None:
        return f"spec.startFrom.policy.name {wanted.name!r}: no such RLPolicy in namespace {namespace!r}"
    there = ", ".join(str(number) for number in sorted(policy.artifacts)) or "none yet"
    return f"spec.startFrom.policy.version {wanted.version}: RLPolicy {wanted.name!r} has {there}"
