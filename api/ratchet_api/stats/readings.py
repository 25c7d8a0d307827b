"""One metric read: is the candidate shown to be worse, shown to be no worse, shown to be better, or none of it yet.

Decides these three questions from one metric's counts alone. What follows from all metrics together is `verdict`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ratchet_api.stats.planning import subjects_to_show
from ratchet_api.stats.rare import RareCounts, e_rate_below, e_ratio_above, e_ratio_below
from ratchet_api.stats.relative import relative_change
from ratchet_api.stats.rules import Mean, Rare, Rules
from ratchet_api.stats.samples import Arms
from ratchet_api.stats.sequences import Difference, Interval, difference, one_sided


@dataclass(frozen=True, slots=True)
class Reading:
    """What one metric says now.

    Attributes:
        name: of the metric.
        enough: there are subjects and events enough to look at it.
        harm: shown to be worse by more than the margin.
        safe: shown not to be.
        better: shown to be better.
        sentence: the numbers, for people.
        improvement: candidate's mean minus champion's, positive = better; None where there is none to show.
        band: lower bound at the alpha of promotions and upper bound at that of rollbacks, of the improvement.
        more: subjects of both arms after which the metric lets a promotion pass, if all goes on as it went; None =
            cannot be said, or never.
    """

    name: str
    enough: bool
    harm: bool
    safe: bool
    better: bool
    sentence: str
    improvement: float | None = None
    band: Interval | None = None
    more: int | None = None


def read_mean(metric: Mean, arms: Arms, rules: Rules, *, superior: bool) -> Reading:
    """Compare two means.

    Args:
        metric: name, direction, margin.
        arms: its counts.
        rules: alpha, tuning, how much is enough.
        superior: whether a promotion needs it to be better; else no worse will do.
    """
    smaller = min(arms.candidate.subjects, arms.champion.subjects)
    both = arms.candidate + arms.champion
    if smaller < rules.min_subjects or both.events < rules.min_events:
        return _too_little(metric, arms, rules)
    seen = _improvement(metric, arms)
    low = one_sided(seen, alpha=rules.promotion_alpha, tuned_to=rules.tuned_to).low
    high = one_sided(seen, alpha=rules.rollback_alpha, tuned_to=rules.tuned_to).high
    change = relative_change(arms, alpha=rules.alpha, tuned_to=rules.tuned_to)
    relative = f"; {change}" if math.isfinite(change.estimate) else ""
    wanted = 0.0 if superior else -metric.margin
    return Reading(
        name=metric.name,
        enough=True,
        harm=high < -metric.margin,
        safe=low > -metric.margin,
        better=low > 0,
        sentence=(
            f"{metric.name}: {arms.candidate.mean:.4g} against {arms.champion.mean:.4g}, "
            f"{'better' if seen.estimate >= 0 else 'worse'} by {abs(seen.estimate):.4g} "
            f"(between {low:+.4g} and {high:+.4g}{relative}; {arms.subjects} subjects)"
        ),
        improvement=seen.estimate,
        band=Interval(low, high),
        more=subjects_to_show(seen, wanted, alpha=rules.promotion_alpha, tuned_to=rules.tuned_to),
    )


def read_rare(guardrail: Rare, seen: RareCounts, rules: Rules) -> Reading:
    """Compare two rates of rare events; exact, so that no number of subjects is too small to look.

    Raises:
        BadEvidence: the counts cannot be.
    """
    seen.check(f"guardrail {guardrail.name!r}")
    harm = e_ratio_above(seen, guardrail.ratio) >= 1 / rules.rollback_alpha
    # two ways to be safe share the alpha of one metric
    enough = 2 / rules.promotion_alpha
    below_ceiling = e_rate_below(seen.candidate_events, seen.candidate_subjects, guardrail.ceiling) >= enough
    below_ratio = e_ratio_below(seen, guardrail.ratio) >= enough
    return Reading(
        name=guardrail.name,
        enough=True,
        harm=harm,
        safe=not harm and (below_ceiling or below_ratio),
        better=False,
        sentence=(
            f"{guardrail.name}: {seen.candidate_events} of {seen.candidate_subjects} subjects against "
            f"{seen.champion_events} of {seen.champion_subjects} (ratio {guardrail.ratio:g}, ceiling "
            f"{guardrail.ceiling:g})"
        ),
    )


def _too_little(metric: Mean, arms: Arms, rules: Rules) -> Reading:
    candidate, champion = arms.candidate.subjects, arms.champion.subjects
    return Reading(
        name=metric.name,
        enough=False,
        harm=False,
        safe=False,
        better=False,
        sentence=(
            f"{metric.name}: {candidate} and {champion} subjects, {(arms.candidate + arms.champion).events:g} of the "
            f"rarer outcome; {rules.min_subjects} in each arm and {rules.min_events} are needed to look"
        ),
        more=max(0, rules.min_subjects - candidate) + max(0, rules.min_subjects - champion) or None,
    )


def _improvement(metric: Mean, arms: Arms) -> Difference:
    seen = difference(arms)
    return seen if metric.higher_is_better else seen._replace(estimate=-seen.estimate)
