"""A rollout in virtual time: routers that lag, servers that fail, people who are dealt by the real hash and judge.

`Simulation.run` passes `plan_rollout` its world every ten seconds and checks after each pass what must always hold:
equal worlds are decided equally, nobody changes arm within a trial, no row of the history is lost, and a pass that
wants to be repeated at once is so a few times only.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ratchet_api.assign import Split, experiment_of, salt_of
from ratchet_api.fixed_shares import ArmStatus, arm_experiment
from ratchet_api.label_sets import LabelSet
from ratchet_api.rollout import ERRORS, FEEDBACK, HISTORY_LIMIT, Rollout, RolloutStatus, ShareRow
from ratchet_api.shadow import ShadowReport
from ratchet_api.stats.rare import RareCounts
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.verdict import Evidence
from ratchet_operator.desired.router_table import RouterTable, table_version
from ratchet_operator.plan.rollout import plan_rollout
from ratchet_operator.plan.rollout.table import wanted_servers, wanted_table
from ratchet_operator.plan.rollout.world import Counted, Decision, Measured, Replica, RolloutWorld, Trouble, Turn

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(seconds=10)
WATCHED = [f"watched-{number}" for number in range(60)]
SPEC: dict[str, Any] = {
    "canary": {"steps": [5, 25, 50], "stepSeconds": 60, "readySeconds": 300, "unreadySeconds": 30},
    "judged": {"minSubjects": 50, "margin": 0.02},
}


@dataclass
class Router:
    """One replica: applies what it is told a tick later, unless it hangs."""

    table: RouterTable | None = None
    told: RouterTable | None = None
    hangs: bool = False
    version: str = ""
    checked: Split | None = None

    def tick(self) -> None:
        if not self.hangs and self.table != self.told:
            self.table = self.told
            self.version = "" if self.told is None else table_version(self.told)

    def says(self, ready: frozenset[int]) -> Replica:
        if self.hangs or self.table is None:
            return Replica("")
        reaches = ready & {backend.version for backend in self.table.backends}
        return Replica(self.version, frozenset(reaches))


@dataclass
class Simulation:
    """The world of one test.

    `likes` is each version's probability that a subject gives good feedback; a version without one is no version.
    Servers of `broken` versions are not ready; those of `fails` are, and answer with errors. `flips` is the share of
    texts that a version answers otherwise than the champion. `gauges` is what Prometheus says at a time, by the query's
    name.
    """

    likes: dict[int, float]
    champion: int | None = 1
    spec: dict[str, Any] = field(default_factory=lambda: SPEC)
    people: int = 120
    seed: int = 1
    broken: set[int] = field(default_factory=set)
    fails: set[int] = field(default_factory=set)
    flips: dict[int, float] = field(default_factory=dict)
    labels: dict[int, LabelSet] = field(default_factory=dict)
    troubles: dict[int, Trouble] = field(default_factory=dict)
    analyst: bool = True
    gauges: dict[str, Callable[[datetime], Measured]] = field(default_factory=dict)
    loses_decisions: float = 0.0
    spoil: Callable[[Evidence], Evidence] = lambda evidence: evidence
    command: str = ""
    clock_error: timedelta = timedelta(0)
    now: datetime = START
    status: RolloutStatus = field(default_factory=RolloutStatus)
    routers: list[Router] = field(default_factory=lambda: [Router(), Router()])
    said: list[tuple[Turn, str]] = field(default_factory=list)
    archive: dict[int, ShareRow] = field(default_factory=dict)
    served: Counter[int] = field(default_factory=Counter)
    last: Decision | None = None

    def __post_init__(self) -> None:
        self.likes = dict(self.likes)
        self._rng = random.Random(self.seed)
        self._started: dict[int, datetime] = {}
        self._counts: dict[str, dict[str, list[int]]] = {}
        self._ratios: dict[str, SampleRatio] = {}
        self._sides: dict[tuple[str, str], tuple[str, int, str]] = {}
        self._subjects = 0
        self._pairs: dict[str, list[int]] = {}

    @property
    def turns(self) -> list[Turn]:
        return [turn for turn, _ in self.said]

    @property
    def history(self) -> list[ShareRow]:
        """Every row that there ever was, archived ones first."""
        rows = self.archive | {row.number: row for row in self.status.history}
        return [rows[number] for number in sorted(rows)]

    def run(self, minutes: float, *, until: Callable[[], bool] = lambda: False) -> Simulation:
        for _ in range(int(minutes * 60 / TICK.total_seconds())):
            self._passes()
            for router in self.routers:
                router.tick()
            self._people_come()
            self._nobody_changed_arm()
            self.now += TICK
            if until():
                break
        return self

    def world(self) -> RolloutWorld:
        ready = frozenset(
            version
            for version, since in self._started.items()
            if version not in self.broken and self.now - since >= 2 * TICK and version in self.likes
        )
        return RolloutWorld(
            now=self.now + self.clock_error,
            namespace="team",
            policy="support",
            uid="uid-1",
            spec=Rollout.model_validate(self.spec),
            status=self.status,
            champion=self.champion,
            versions={version: f"{version:064d}" for version in self.likes},
            labels=self.labels,
            troubles=self.troubles,
            ready=ready,
            replicas=tuple(router.says(ready) for router in self.routers),
            counted=self._counted() if self.analyst else None,
            arms={arm.version: self._counted_of(name) for arm, name in self._tested()} if self.analyst else {},
            command=self.command,
            measured={(name, self.status.candidate or 0): says(self.now) for name, says in self.gauges.items()},
        )

    def _passes(self) -> None:
        for _ in range(12):
            world = self.world()
            decision = plan_rollout(world)
            assert decision == plan_rollout(world)
            self.archive |= {row.number: row for row in decision.archived}
            if self._rng.random() < self.loses_decisions:
                return  # the operator died before its status was stored
            self._store(decision)
            if decision.again_seconds != 0:
                return
        raise AssertionError(f"hot loop: {self.last}")

    def _store(self, decision: Decision) -> None:
        # as the API server does: only what can be written and read again is kept
        self.status = RolloutStatus.model_validate(decision.status.to_wire())
        self.champion, self.last = decision.champion, decision
        self.said += decision.said
        assert len(self.status.history) <= HISTORY_LIMIT
        assert [row.number for row in self.history] == list(range(1, self.status.rows + 1))
        wanted = wanted_servers(self.status, self.champion)
        self._started = {version: self._started.get(version, self.now) for version in wanted}
        for router in self.routers:
            router.told = wanted_table(self.world())

    def _people_come(self) -> None:
        for number in range(self.people):
            self._subjects += 1
            table = self.routers[number % len(self.routers)].table
            if table is None:
                continue
            subject, version, arm = f"user-{self._subjects}", table.champion, "champion"
            if table.split is not None:
                slot = table.split.slot(subject)
                version, arm = slot.version, slot.arm
            self.served[version] += 1
            if table.shadow is not None and self._rng.random() < table.shadow.share / 10_000:
                seen = self._pairs.setdefault(table.shadow.experiment, [0, 0])
                seen[0] += 1
                seen[1] += self._rng.random() < self.flips.get(table.shadow.version, 0.1)
            if arm != "champion" and table.split is not None:
                self._count(slot.experiment or table.split.salt, arm, version)

    def _count(self, experiment: str, arm: str, version: int) -> None:
        counts = self._counts.setdefault(experiment, {"canary": [0, 0, 0], "control": [0, 0, 0]})[arm]
        counts[0] += 1
        counts[1] += self._rng.random() < self.likes.get(version, 0.0)
        counts[2] += version in self.fails

    def _counted(self) -> Counted | None:
        table = wanted_table_of(self.status, self.routers)
        if table is None or table.split is None:
            experiment = experiment_of(salt_of("uid-1", self.status.experiment))
            pairs, flips = self._pairs.get(experiment, [0, 0])
            nobody = Evidence(SampleRatio((0.5, 0.5)), data_age_seconds=0.0)
            return Counted(self.status.experiment, nobody, ShadowReport(pairs=pairs, flips=flips))
        return self._counted_of(table.split.salt)

    def _counted_of(self, salt: str) -> Counted:
        canary, control = (self._counts.get(salt, {}).get(arm, [0, 0, 0]) for arm in ("canary", "control"))
        self._ratios[salt] = self._ratios.get(salt, SampleRatio((0.5, 0.5))).seen((canary[0], control[0]))
        arms = Arms(Sample.of_counts(canary[1], canary[0]), Sample.of_counts(control[1], control[0]))
        evidence = Evidence(
            self._ratios[salt],
            means={FEEDBACK: arms},
            rare={ERRORS: RareCounts(canary[2], canary[0], control[2], control[0])},
            data_age_seconds=5.0,
        )
        return Counted(self.status.experiment, self.spoil(evidence))

    def _tested(self) -> list[tuple[ArmStatus, str]]:
        """Versions of the test that runs, and under which name each is counted."""
        test = self.status.testing
        arms = () if test is None or not test.dealt else test.live
        return [(arm, arm_experiment("uid-1", self.status.experiment, arm.version)) for arm in arms]

    def _nobody_changed_arm(self) -> None:
        """P31, on what the routers really do: out of the rest into an arm at most, on every replica alike."""
        for router in self.routers:
            split = None if router.table is None else router.table.split
            if split == router.checked:
                continue
            router.checked = split
            for subject in WATCHED if split is not None else ():
                assert split is not None
                slot, key = split.slot(subject), (split.salt, subject)
                side = (slot.arm, slot.version, slot.experiment)
                before = self._sides.get(key, side if slot.experiment else ("champion", 0, ""))
                grown = before[0] == "champion" and not slot.experiment  # shares of a test do not grow
                gone = slot.arm == "champion" and before[2] != "" and before[2] in self._taken_out()
                assert before == side or grown or gone or router.hangs or self._lags(), (subject, before, side)
                self._sides[key] = side if before[0] == "champion" else before

    def _taken_out(self) -> set[str]:
        """Names of the versions of a test that were taken out."""
        test = self.status.ab_test
        arms = () if test is None else test.arms
        return {arm_experiment("uid-1", self.status.experiment, arm.version) for arm in arms if arm.out}

    def _lags(self) -> bool:
        return len({router.version for router in self.routers}) > 1


def wanted_table_of(status: RolloutStatus, routers: list[Router]) -> RouterTable | None:
    """A table with a split that some router applied, while a candidate has a share."""
    if status.candidate is None or not status.percent:
        return None
    return next((router.table for router in routers if router.table is not None and router.table.split), None)
