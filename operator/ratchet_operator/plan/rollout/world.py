"""What a rollout's decision sees and what it decides: plain frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from ratchet_api.generation import KeptGeneration
from ratchet_api.label_sets import LabelSet
from ratchet_api.rollout import FEEDBACK, Rollout, RolloutStatus, ShareRow
from ratchet_api.shadow import ShadowReport
from ratchet_api.stage import ExitCode
from ratchet_api.stats.verdict import Evidence

MOST_RESTARTS = 3
"""Of one pod since its version was first asked; one more, and the trial is over."""
PATIENT_RESTARTS = 2
"""After so many a version that cannot be loaded is taken for broken, and not for a hiccup of the store."""
_UNLOADABLE = frozenset({ExitCode.BAD_MODEL, ExitCode.STORE_NOT_FOUND, ExitCode.STORE_CORRUPT})


class Replica(NamedTuple):
    """One router, as it answers itself."""

    table: str
    """Version of the table that it applied; empty = it did not answer."""
    reaches: frozenset[int] = frozenset()
    """Versions whose servers it reaches."""


class Trouble(NamedTuple):
    """What the pods of one version say."""

    text: str = ""
    """Names the pod and what it ended with or waits for; empty = nothing is wrong with them."""
    code: int | None = None
    """With which the container ended that the text tells of; None = it tells of no end."""
    restarts: int = 0
    """The most of any of its pods; one node that starts anew restarts each of them once."""

    @property
    def unloadable(self) -> bool:
        """Whether what was published cannot be loaded: files are missing, or others than were committed."""
        return self.code in _UNLOADABLE and self.restarts >= PATIENT_RESTARTS


class Counted(NamedTuple):
    """What the analyst counted."""

    experiment: str
    evidence: Evidence
    """Without age and readiness, which the operator knows. The counts of its split begin with the candidate's."""
    shadow: ShadowReport = ShadowReport()
    """What both answered to the same texts."""

    @property
    def feedback(self) -> int:
        """Subjects whose feedback counts, in the smaller of the two arms."""
        arms = self.evidence.means.get(FEEDBACK)
        return 0 if arms is None else min(arms.candidate.subjects, arms.champion.subjects)


class Measured(NamedTuple):
    """What Prometheus said of one of the user's own numbers."""

    value: float | None = None
    """Finite; None = not known."""
    alive: float | None = None
    """Of what must move, where it was asked for."""
    problem: str = ""
    """Why the value is not known."""


@dataclass(frozen=True, slots=True)
class RolloutWorld:
    """One reading of everything a rollout's decision needs.

    Attributes:
        now: the only clock.
        namespace: of the policy.
        policy: its name.
        uid: of it.
        spec: what was asked for.
        status: where the rollout stands.
        champion: version that shall serve; None = nobody chose one yet.
        versions: digest of every version that there is: of its artifact and its generation config.
        configs: generation configs of the versions that have one.
        renewed: versions that are another one's files with the config that is asked for now, and which one's.
        unasked: versions that are another one's files with a config that only a test asks for, or nobody any more.
        configured: version of each arm of the test that has a config of its own, by the arm's place.
        labels: classes of the versions of which they are known.
        troubles: what the pods of a version's servers say.
        ready: versions whose servers answer.
        replicas: routers that take traffic.
        counted: None = the analyst does not answer.
        arms: what was counted of each version of a test with fixed shares.
        command: value of the annotation; a new value is obeyed once.
        asked_by: who gave the command, as they say; empty = nobody said so.
        trials: whether new versions go on trial at all.
        problem: why nothing is counted, if the analyst said so.
        measured: own numbers, by the query's name and the version.
        explore: share of the answers that are drawn, in hundredths of a percent.
        tester_header: in which a tester names a version; None = nobody can.
        gateways: what Gateways lack to have taken the table; None = routers deal.
    """

    now: datetime
    namespace: str
    policy: str
    uid: str
    spec: Rollout
    status: RolloutStatus
    champion: int | None
    versions: Mapping[int, str]
    configs: Mapping[int, KeptGeneration] = field(default_factory=dict)
    renewed: Mapping[int, int] = field(default_factory=dict)
    unasked: frozenset[int] = frozenset()
    configured: Mapping[int, int] = field(default_factory=dict)
    labels: Mapping[int, LabelSet] = field(default_factory=dict)
    troubles: Mapping[int, Trouble] = field(default_factory=dict)
    ready: frozenset[int] = frozenset()
    replicas: tuple[Replica, ...] = ()
    counted: Counted | None = None
    arms: Mapping[int, Counted] = field(default_factory=dict)
    command: str = ""
    asked_by: str = ""
    trials: bool = True
    problem: str = ""
    measured: Mapping[tuple[str, int], Measured] = field(default_factory=dict)
    tester_header: str | None = None
    explore: int = 0
    gateways: str | None = None

    def answers(self, version: int) -> bool:
        """Whether the version's servers are ready and every router reaches them."""
        reached = bool(self.replicas) and all(version in replica.reaches for replica in self.replicas)
        return version in self.ready and reached

    def because(self, version: int) -> str:
        """Return why the version's servers are not ready, after a colon; empty = they are, or nobody knows."""
        text = "" if version in self.ready else self.troubles.get(version, Trouble()).text
        return f": {text}" if text else ""

    def restarts(self, version: int) -> int:
        """The most restarts of any pod of the version."""
        return self.troubles.get(version, Trouble()).restarts

    def age(self, since: datetime | None) -> float:
        """Seconds since then, never negative; 0 = not begun."""
        return 0.0 if since is None else max(0.0, (self.now - since).total_seconds())


class Turn(StrEnum):
    """What happened, one word for an event: a `Reason` of the same value."""

    CANDIDATE = "CandidateChosen"
    REFUSED = "OtherLabels"
    SHADOWED = "CandidateShadowed"
    EXPOSED = "CandidateExposed"
    STEPPED = "ShareRaised"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    ENDED = "TestEnded"
    UNDONE = "Undone"
    PAUSED = "RolloutPaused"
    RESUMED = "RolloutResumed"
    SERVING = "ServingChanged"
    APPLIED = "TableApplied"
    NOT_OBEYED = "CommandNotObeyed"


class Said(NamedTuple):
    """A turn and its sentence."""

    turn: Turn
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a pass decides.

    Attributes:
        status: the whole next status.
        champion: of the policy from now on.
        state: one word for people; empty = as before.
        message: why nothing more happens now.
        said: for events, sent after the status is stored.
        archived: the oldest rows, which leave the status; to be stored before it.
        again_seconds: look again after so long; 0 = at once; None = only when something changes.
    """

    status: RolloutStatus
    champion: int | None
    state: str
    message: str
    said: tuple[Said, ...] = ()
    archived: tuple[ShareRow, ...] = ()
    again_seconds: float | None = None
