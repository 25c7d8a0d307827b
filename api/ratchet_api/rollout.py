"""A rollout: what a user may ask of it, and what its status says.

Decides fields and bounds. How it goes on is the operator's to say (`ratchet_operator.plan.rollout`), how a candidate is
judged `ratchet_api.stats`'; `rules_of` gives them what was asked for. Nothing here has a clock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.assign import WHOLE
from ratchet_api.base import ApiModel, StatusModel, Timestamp
from ratchet_api.fixed_shares import MOST_ARMS, AbTest, AbTestStatus
from ratchet_api.generation import ConfigRow
from ratchet_api.queries import MOST_QUERIES, Query, QuerySeen
from ratchet_api.shadow import Shadow, ShadowReport
from ratchet_api.stats.rules import Goal, Mean, Rare, Rules
from ratchet_api.verdicts import VerdictStatus

FEEDBACK, ABSTENTIONS, FEEDBACK_RATE = "feedback", "abstentions", "feedbackRate"
ERRORS, SLOW = "errors", "slow"
"""Names under which the evidence counts what a rollout may be judged by."""

BEYOND_P99 = 0.01
HISTORY_LIMIT = 20
Percent = Annotated[float, Field(ge=0.01, le=50)]
_Number = Annotated[int, Field(ge=1, le=2**31)]


class Canary(ApiModel):
    """How a candidate's share rises. Control gets as much, so that half of the traffic is the most."""

    steps: Annotated[
        tuple[Percent, ...],
        Field(
            default=(1.0, 5.0, 10.0, 25.0, 50.0),
            strict=False,
            min_length=1,
            max_length=20,
            description="steps: percent of the subjects that get the candidate, rising, each 0.01 to 50. After the last one the verdict decides.",
        ),
    ]
    step_seconds: Annotated[
        int,
        Field(
            default=3600,
            ge=1,
            le=31_536_000,
            description="stepSeconds: how long a step lasts at least, from when every router applied it. It lasts longer while nobody got the candidate, or the evidence cannot be trusted.",
        ),
    ]
    ready_seconds: Annotated[
        int,
        Field(
            default=1800,
            ge=10,
            le=604_800,
            description="readySeconds: a candidate that does not answer by then is rolled back before anybody got it.",
        ),
    ]
    unready_seconds: Annotated[
        int,
        Field(
            default=60,
            ge=1,
            le=86_400,
            description="unreadySeconds: a candidate that gets traffic and has not answered for this long is rolled back.",
        ),
    ]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"steps are {list(self.steps)}; each must be above the one before it")
        return self


class Latency(ApiModel):
    """How long answers may take: of a classifier the whole, of a generator its first token, in its server."""

    p99_milliseconds: Annotated[
        float,
        Field(
            ge=0.01,
            le=600_000,
            description="p99Milliseconds: within which 99 of 100 subjects get the slowest of their answers, as it should be. Shown of the candidate, it is fast enough. Counted to 5 %.",
        ),
    ]
    ratio: Annotated[
        float,
        Field(
            default=2.0,
            gt=0,
            le=1000,
            description="ratio: the candidate is rolled back when its share of subjects who waited longer is shown to be more than so many times the champion's, and promoted without 99 of 100 when shown to be less.",
        ),
    ]


class Judged(ApiModel):
    """What a candidate must show, and how sure one must be."""

    goal: Annotated[
        Literal["superior", "nonInferior"],
        Field(
            default="superior",
            description="goal: superior = people's feedback on the candidate is shown to be better than on the champion; nonInferior = shown to be no worse by more than margin.",
        ),
    ]
    margin: Annotated[
        float,
        Field(
            default=0.01,
            ge=0,
            lt=1,
            description="margin: how much lower the mean feedback (0 to 1) may be and still count as no worse. A candidate shown to be worse by more is rolled back.",
        ),
    ]
    abstention_margin: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            lt=1,
            description="abstentionMargin: how much more often the candidate may abstain. If omitted, abstentions are not judged.",
        ),
    ]
    feedback_rate_margin: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            lt=1,
            description="feedbackRateMargin: how much more rarely people may give feedback at all. If omitted, that is not judged.",
        ),
    ]
    error_ratio: Annotated[
        float,
        Field(
            default=2.0,
            gt=0,
            le=1000,
            description="errorRatio: the candidate is rolled back when its share of subjects with a failed answer is shown to be more than so many times the champion's.",
        ),
    ]
    latency: Annotated[
        Latency | None,
        Field(default=None, description="latency: how long answers may take. If omitted, that is not judged."),
    ]
    queries: Annotated[
        tuple[Query, ...],
        Field(
            default=(),
            strict=False,
            max_length=MOST_QUERIES,
            description="queries: own numbers that the operator asks Prometheus for. If omitted, there are none.",
        ),
    ]
    alpha: Annotated[
        float,
        Field(
            default=0.05,
            gt=0,
            le=0.2,
            description="alpha: probability of a wrong promotion, and of a wrong rollback, however often one looks.",
        ),
    ]
    min_subjects: Annotated[
        int,
        Field(default=100, ge=2, le=100_000_000, description="minSubjects: of each arm, before feedback is looked at."),
    ]
    min_age_seconds: Annotated[
        int,
        Field(default=0, ge=0, le=31_536_000, description="minAgeSeconds: of the test, before a promotion."),
    ]
    deadline_seconds: Annotated[
        int | None,
        Field(
            default=None,
            ge=60,
            le=31_536_000,
            description="deadlineSeconds: a trial that is still open or held by then ends, and the champion stays; not with abTest, which has its own end. If omitted, it goes on until it is decided.",
        ),
    ]

    @model_validator(mode="after")
    def _margin_for_no_worse(self) -> Self:
        if self.goal == "nonInferior" and self.margin == 0:
            raise ValueError("margin is 0 with goal nonInferior; give it above 0, or ask for superior")
        return self

    @model_validator(mode="after")
    def _each_query_once(self) -> Self:
        names = [query.name for query in self.queries]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"queries name {', '.join(map(repr, twice))} more than once; rename one of them")
        return self


class Rollout(ApiModel):
    """How a new version reaches people."""

    shadow: Annotated[
        Shadow | None,
        Field(
            default=None,
            description="shadow: before its first step a new version is asked what the champion is asked, and the answers are compared; nobody gets them. Only for classifiers. If omitted, the first step comes at once.",
        ),
    ]
    ab_test: Annotated[
        AbTest | None,
        Field(
            default=None,
            description="abTest: versions that are tried beside each other with shares that stay, instead of the newest one step by step; while it stands here, no other version goes on trial. It is run once; change it to run another. If omitted, there is none.",
        ),
    ]
    canary: Annotated[
        Canary, Field(default_factory=Canary, description="canary: how the share of a new version rises.")
    ]
    judged: Annotated[
        Judged, Field(default_factory=Judged, description="judged: what it must show before it is promoted.")
    ]
    promotion: Annotated[
        Literal["automatic", "manual"],
        Field(
            default="automatic",
            description="promotion: manual = a candidate that passed waits for `ratchet promote`; a bad one is rolled back all the same.",
        ),
    ]

    allow_other_labels: Annotated[
        bool,
        Field(
            default=False,
            description="allowOtherLabels: true lets a version go on trial whose labels are not the champion's. If false, it is refused before anybody got it, and before a shadow is asked. Only for classifiers.",
        ),
    ]

    @model_validator(mode="after")
    def _test_has_shares_that_stay(self) -> Self:
        if self.ab_test is None:
            return self
        if self.shadow is not None:
            raise ValueError("abTest and shadow exclude each other; remove one of them")
        if self.judged.queries:
            raise ValueError("abTest and judged.queries exclude each other, since those are asked of one version")
        if self.judged.deadline_seconds is not None:
            raise ValueError(
                "abTest and judged.deadlineSeconds exclude each other, since a test has an end; remove one"
            )
        if self.ab_test.promote_best and self.promotion == "manual":
            raise ValueError("abTest.promoteBest is true and promotion is manual; remove one of them")
        return self


class ArmRow(StatusModel):
    """One version of a test, as the history keeps it."""

    version: Annotated[_Number, Field(description="version: that was tried.")]
    percent: Annotated[float, Field(ge=0, le=50, description="percent: of the subjects that got it.")]


class ShareRow(StatusModel):
    """What served what share since when, why, and decided by whom. It ends where the next row begins."""

    number: Annotated[int, Field(ge=1, le=2**53, description="number: of the row; only rises.")]
    version: Annotated[_Number, Field(description="version: that everybody else gets.")]
    candidate: Annotated[_Number | None, Field(default=None, description="candidate: version on trial.")]
    percent: Annotated[float, Field(default=0, ge=0, le=50, description="percent: of the subjects that get it.")]
    arms: Annotated[
        tuple[ArmRow, ...],
        Field(
            default=(), strict=False, max_length=MOST_ARMS, description="arms: versions of a test with fixed shares."
        ),
    ]
    configs: Annotated[
        tuple[ConfigRow, ...],
        Field(
            default=(),
            strict=False,
            max_length=MOST_ARMS + 2,
            description="configs: of those of these versions that have a generation config.",
        ),
    ]
    since: Annotated[Timestamp, Field(description="since: when it was decided, by the operator's clock.")]
    why: Annotated[str, Field(max_length=256, description="why: what led to it.")]
    by: Annotated[Literal["operator", "user"], Field(description="by: who decided it.")]

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that somebody got."""
        tried = () if self.candidate is None else (self.candidate,)
        return (self.version, *tried, *(arm.version for arm in self.arms))


class RolloutStatus(StatusModel):
    """Where a rollout stands; the whole of it, so that another operator goes on from here."""

    serving: Annotated[
        _Number | None, Field(default=None, description="serving: version that everybody outside the test gets.")
    ]
    candidate: Annotated[_Number | None, Field(default=None, description="candidate: version on trial.")]
    candidate_digest: Annotated[
        str,
        Field(
            default="",
            max_length=64,
            description="candidateDigest: of its artifact and generation config when the trial began.",
        ),
    ]
    experiment: Annotated[
        str,
        Field(default="", max_length=64, description="experiment: the trial's name; evidence of another is not used."),
    ]
    experiments: Annotated[
        int, Field(default=0, ge=0, le=2**53, description="experiments: how many trials there were; only rises.")
    ]
    step: Annotated[
        int,
        Field(
            default=-1, ge=-1, le=20, description="step: index of the present step; -1 = nobody gets the candidate yet."
        ),
    ]
    percent: Annotated[
        float, Field(default=0, ge=0, le=50, description="percent: share of the subjects that get the candidate.")
    ]
    began: Annotated[Timestamp | None, Field(default=None, description="began: when the trial was begun.")]
    exposed: Annotated[
        Timestamp | None, Field(default=None, description="exposed: when every router had applied its first share.")
    ]
    step_since: Annotated[
        Timestamp | None, Field(default=None, description="stepSince: when every router had applied the present step.")
    ]
    step_subjects: Annotated[
        int,
        Field(default=0, ge=0, le=2**53, description="stepSubjects: subjects that had got the candidate by then."),
    ]
    shadow: Annotated[
        ShadowReport | None,
        Field(
            default=None,
            description="shadow: what the candidate answered beside the champion, or the last one that was asked so; none = it was not.",
        ),
    ]
    shadow_since: Annotated[
        Timestamp | None,
        Field(default=None, description="shadowSince: when every router had begun to ask the candidate, too."),
    ]
    queries: Annotated[
        tuple[QuerySeen, ...],
        Field(
            default=(),
            strict=False,
            max_length=MOST_QUERIES,
            description="queries: what judged.queries measured of the version on trial.",
        ),
    ]
    ab_test: Annotated[
        AbTestStatus | None,
        Field(default=None, description="abTest: the test with fixed shares, or the last one; none = there was none."),
    ]
    unready_since: Annotated[
        Timestamp | None,
        Field(default=None, description="unreadySince: since when the candidate has not answered."),
    ]
    restarts: Annotated[
        int,
        Field(
            default=0,
            ge=0,
            le=2**31,
            description="restarts: of the candidate's pods, the most of any, when it was first asked. More than 3 beyond it end the trial.",
        ),
    ]
    leaving: Annotated[
        tuple[_Number, ...],
        Field(
            default=(),
            strict=False,
            max_length=20,
            description="leaving: versions whose servers stay until every router has applied the present table.",
        ),
    ]
    paused: Annotated[
        bool, Field(default=False, description="paused: no step and no promotion; a bad candidate is rolled back.")
    ]
    observed_command: Annotated[
        str,
        Field(default="", max_length=64, description="observedCommand: the command that was last acted upon."),
    ]
    answer: Annotated[
        str, Field(default="", max_length=256, description="answer: what became of that command, or why nothing did.")
    ]
    verdict: Annotated[
        VerdictStatus, Field(default_factory=VerdictStatus, description="verdict: on the candidate, or the last one.")
    ]
    refused: Annotated[
        _Number | None,
        Field(default=None, description="refused: version that was refused a trial, since its labels are others."),
    ]
    settled_up_to: Annotated[
        int,
        Field(default=0, ge=0, le=2**31, description="settledUpTo: versions up to this one are not tried any more."),
    ]
    history: Annotated[
        tuple[ShareRow, ...],
        Field(
            default=(),
            strict=False,
            max_length=HISTORY_LIMIT,
            description="history: the newest rows; older ones are in the ConfigMaps that the policy owns.",
        ),
    ]
    rows: Annotated[int, Field(default=0, ge=0, le=2**53, description="rows: how many rows there ever were.")]

    @property
    def shadowed(self) -> bool:
        """Whether the candidate is asked beside the champion, as far as is remembered."""
        return self.candidate is not None and self.step < 0 and self.shadow is not None

    @property
    def testing(self) -> AbTestStatus | None:
        """The test with fixed shares that runs; None = none does."""
        return self.ab_test if self.ab_test is not None and self.ab_test.running else None

    @property
    def share(self) -> int:
        """The candidate's share in hundredths of a percent."""
        return round(self.percent * WHOLE / 100)


def rules_of(judged: Judged) -> Rules:
    """Return the statistics' rules for what a user asked for."""
    guardrails: list[Mean | Rare] = [Rare(ERRORS, ratio=judged.error_ratio)]
    if judged.abstention_margin is not None:
        guardrails.append(Mean(ABSTENTIONS, higher_is_better=False, margin=judged.abstention_margin))
    if judged.feedback_rate_margin is not None:
        guardrails.append(Mean(FEEDBACK_RATE, margin=judged.feedback_rate_margin))
    if judged.latency is not None:
        guardrails.append(Rare(SLOW, ratio=judged.latency.ratio, ceiling=BEYOND_P99))
    return Rules(
        primary=Mean(FEEDBACK, margin=judged.margin),
        guardrails=tuple(guardrails),
        goal=Goal(judged.goal),
        alpha=judged.alpha,
        min_subjects=judged.min_subjects,
        min_age_seconds=judged.min_age_seconds,
        deadline_seconds=judged.deadline_seconds,
    )


def rules_of_arm(rollout: Rollout) -> Rules:
    """Return the rules for one version of a test: alpha is shared among all that began, however many are left."""
    rules = rules_of(rollout.judged)
    arms = 1 if rollout.ab_test is None else len(rollout.ab_test.arms)
    return replace(rules, alpha=rules.alpha / arms)
