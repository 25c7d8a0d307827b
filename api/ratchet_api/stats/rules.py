"""What a rollout is judged by: its metrics, their margins, and how the error probability is shared among them.

Decides how alpha is spent. A rollback is wrong when any metric alone raises a false alarm, so they share the alpha of
rollbacks; a promotion is wrong only when every metric errs the same way, so each may use the whole alpha of
promotions (an intersection-union test). Pure data; `verdict` reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from ratchet_api.stats.errors import BadEvidence, require_between


class Goal(StrEnum):
    """What the primary metric must show before a candidate is promoted."""

    SUPERIOR = "superior"
    NON_INFERIOR = "nonInferior"


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric with one value from 0 to 1 per subject, compared by its mean.

    Attributes:
        name: of the metric, and of its slice where it is about one.
        higher_is_better: False for abstentions, complaints and the like.
        margin: how much worse, in the metric's own points, still counts as no worse, 0..1.
        required: False = judged only where both arms have enough subjects, as a slice is; it never holds a promotion
            up for want of subjects.
    """

    name: str
    higher_is_better: bool = True
    margin: float = 0.0
    required: bool = True

    def __post_init__(self) -> None:
        """Refuse a margin that is none.

        Raises:
            BadEvidence: naming it.
        """
        if not 0 <= self.margin < 1:
            raise BadEvidence(f"metric {self.name!r}: margin is {self.margin:g}; give a number from 0 to below 1")


@dataclass(frozen=True, slots=True)
class Rare:
    """A guardrail on something that hardly ever happens, such as a failed answer.

    Attributes:
        name: of the guardrail.
        ratio: rolled back when the candidate's rate is shown to be more than so many times the champion's.
        ceiling: safe when the candidate's rate is shown to be below this, or below the ratio; in (0, 1).
    """

    name: str
    ratio: float = 1.0
    ceiling: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a ratio or a ceiling that is none.

        Raises:
            BadEvidence: naming it.
        """
        require_between(f"guardrail {self.name!r}: ratio", self.ratio, 0, math.inf)
        require_between(f"guardrail {self.name!r}: ceiling", self.ceiling, 0, 1)


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that is fixed before the first look.

    Attributes:
        primary: the metric that the candidate is sent out for; rolled back, too, when it is shown to be worse by more
            than its margin.
        guardrails: metrics that must not get worse.
        goal: of the primary metric.
        alpha: probability of a wrong promotion, and of a wrong rollback, over all time; in (0, 1/2).
        sample_ratio_alpha: of a false alarm about the router's split.
        tuned_to: subjects of both arms at which the sequences are narrowest.
        min_subjects: of each arm, before any mean is looked at.
        min_events: of the rarer outcome in both arms together, before any mean is looked at.
        min_age_seconds: before a promotion; a rollback waits for nothing.
        deadline_seconds: after which an open question is Inconclusive for good; None = never.
        stale_seconds: older evidence decides nothing.
    """

    primary: Mean
    guardrails: tuple[Mean | Rare, ...] = ()
    goal: Goal = Goal.SUPERIOR
    alpha: float = 0.05
    sample_ratio_alpha: float = 0.001
    tuned_to: float = 5000
    min_subjects: int = 100
    min_events: int = 10
    min_age_seconds: float = 0.0
    deadline_seconds: float | None = None
    stale_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Refuse rules that contradict themselves.

        Raises:
            BadEvidence: naming the field.
        """
        require_between("rules.alpha", self.alpha, 0, 0.5)
        require_between("rules.sample_ratio_alpha", self.sample_ratio_alpha, 0, 1)
        require_between("rules.tuned_to", self.tuned_to, 0, math.inf)
        if self.min_subjects < 2:
            raise BadEvidence(f"rules.min_subjects is {self.min_subjects}; a variance needs at least 2 in each arm")
        if self.min_events < 1:
            raise BadEvidence(f"rules.min_events is {self.min_events}; at least 1 must be seen before a mean says much")
        names = [metric.name for metric in self.metrics]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise BadEvidence(f"rules name {', '.join(doubled)} more than once; each metric is judged once")
        if self.goal is Goal.NON_INFERIOR and self.primary.margin == 0:
            raise BadEvidence(
                f"metric {self.primary.name!r}: goal nonInferior needs a margin above 0, else it is superiority"
            )

    @property
    def metrics(self) -> tuple[Mean | Rare, ...]:
        """The primary and the guardrails."""
        return (self.primary, *self.guardrails)

    @property
    def rollback_alpha(self) -> float:
        """What each metric may spend on a false rollback."""
        return self.alpha / len(self.metrics)

    @property
    def promotion_alpha(self) -> float:
        """What each metric may spend on a false promotion: all of it, since every one of them must err."""
        return self.alpha
