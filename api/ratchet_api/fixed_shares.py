"""A test of several versions with fixed shares: what a user asks for, and where it stands.

Decides fields and bounds. Each version is compared with a control group of its own, as large and drawn at the same
time, so that each pair is counted and judged as a candidate's trial is. How the test goes on is the operator's to say
(`ratchet_operator.plan.rollout.ab`). Used by `rollout`. Pure.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.assign import WHOLE, Pair, Split, experiment_of, fixed_split, salt_of
from ratchet_api.base import ApiModel, StatusModel, Timestamp, digest_of
from ratchet_api.generation import Generation, config_digest
from ratchet_api.verdicts import VerdictStatus

MOST_ARMS = 8
_Number = Annotated[int, Field(ge=1, le=2**31)]
_Percent = Annotated[float, Field(ge=0.01, le=50)]


class ArmShare(ApiModel):
    """A version and its share."""

    version: Annotated[
        _Number,
        Field(description="version: that is tried; the champion only with another generation config than its own."),
    ]
    generation: Annotated[
        Generation | None,
        Field(
            default=None,
            description="generation: what the arm answers otherwise than the version does; fields that are left out are as the version has them. The two together are a version of their own, with a number of its own. If omitted, as the version answers.",
        ),
    ]
    percent: Annotated[
        _Percent,
        Field(description="percent: of the subjects that get it; as many are its control group and get the champion."),
    ]


class AbTest(ApiModel):
    """Versions that are tried beside each other with shares that stay. It is run once for what it asks for."""

    arms: Annotated[
        tuple[ArmShare, ...],
        Field(
            strict=False,
            min_length=1,
            max_length=MOST_ARMS,
            description="arms: the versions besides the champion, each once with the same generation config, and together at most 50 percent. alpha is shared among them.",
        ),
    ]
    seconds: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=31_536_000,
            description="seconds: how long it lasts, from when every router applied the shares. If omitted, until there are subjects enough.",
        ),
    ]
    subjects: Annotated[
        int | None,
        Field(
            default=None,
            ge=2,
            le=100_000_000,
            description="subjects: it ends when the feedback of so many counts in every arm and in every control group. If omitted, after seconds.",
        ),
    ]
    promote_best: Annotated[
        bool,
        Field(
            default=False,
            description="promoteBest: at its end the best of the versions that passed becomes champion. If false, people choose.",
        ),
    ]

    @model_validator(mode="after")
    def _makes_a_test(self) -> Self:
        if self.seconds is None and self.subjects is None:
            raise ValueError("abTest has neither seconds nor subjects, so that it would never end; give one of them")
        whom = [(arm.version, config_digest(arm.generation)) for arm in self.arms]
        if twice := sorted({each for each in whom if whom.count(each) > 1}):
            raise ValueError(
                f"abTest.arms name version {twice[0][0]} more than once with the same generation config; name each once, "
                "or give them different ones"
            )
        if (whole := sum(arm.percent for arm in self.arms)) > 50:
            raise ValueError(f"abTest.arms are {whole:g} percent together; give at most 50, since controls get as much")
        return self

    @property
    def digest(self) -> str:
        """Short digest of what it asks for."""
        return digest_of(self.to_wire())[:32]


class ArmStatus(StatusModel):
    """Where one version of the test stands."""

    version: Annotated[_Number, Field(description="version: that is tried.")]
    digest: Annotated[
        str, Field(max_length=64, description="digest: of its artifact and generation config when the test began.")
    ]
    percent: Annotated[float, Field(ge=0, le=50, description="percent: of the subjects that get it.")]
    out: Annotated[
        str,
        Field(default="", max_length=256, description="out: why it was taken out; its subjects get the champion."),
    ]
    verdict: Annotated[
        VerdictStatus, Field(default_factory=VerdictStatus, description="verdict: on it against its control group.")
    ]
    unready_since: Annotated[
        Timestamp | None, Field(default=None, description="unreadySince: since when it has not answered.")
    ]
    restarts: Annotated[
        int,
        Field(
            default=0,
            ge=0,
            le=2**31,
            description="restarts: of its pods, the most of any, when the test began. More than 3 beyond it take it out.",
        ),
    ]

    @property
    def share(self) -> int:
        """Its share in hundredths of a percent."""
        return round(self.percent * WHOLE / 100)


class AbTestStatus(StatusModel):
    """Where a test stands, or how the last one ended."""

    asked: Annotated[str, Field(max_length=64, description="asked: digest of the rollout.abTest that it is of.")]
    experiment: Annotated[
        str,
        Field(max_length=64, description="experiment: the test's name; each version is counted under one of its own."),
    ]
    running: Annotated[bool, Field(description="running: whether its versions are served.")]
    dealt: Annotated[bool, Field(default=False, description="dealt: whether subjects are dealt its versions.")]
    arms: Annotated[
        tuple[ArmStatus, ...],
        Field(default=(), strict=False, max_length=MOST_ARMS, description="arms: the versions on trial."),
    ]
    began: Annotated[Timestamp, Field(description="began: when its servers were asked for.")]
    exposed: Annotated[
        Timestamp | None, Field(default=None, description="exposed: when every router had applied the shares.")
    ]
    result: Annotated[str, Field(default="", max_length=512, description="result: how it ended; empty = it has not.")]

    @property
    def live(self) -> tuple[ArmStatus, ...]:
        """Arms that were not taken out, while it runs."""
        return tuple(arm for arm in self.arms if not arm.out) if self.running else ()


def arm_experiment(policy_uid: str, experiment: str, version: int) -> str:
    """Return the id under which one version of a test is counted against its control group."""
    return experiment_of(salt_of(policy_uid, f"{experiment}-v{version}"))


def split_of_test(test: AbTestStatus, *, policy_uid: str, champion: int) -> Split | None:
    """Return who gets what in a test; None = it does not run, or nobody is dealt yet.

    Args:
        test: where it stands.
        policy_uid: of which the salt is made.
        champion: version that everybody else gets.
    """
    if not test.running or not test.dealt:
        return None
    pairs = [
        Pair(arm.version, arm.share, arm_experiment(policy_uid, test.experiment, arm.version), bool(arm.out))
        for arm in test.arms
    ]
    return fixed_split(salt_of(policy_uid, test.experiment), champion=champion, pairs=pairs)
