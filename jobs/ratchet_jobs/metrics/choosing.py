"""Which of two policies is committed: the one that RL trained, unless it may be worse than the one it started from.

Decides by the whole interval of each difference (non-inferiority) and by the gates, as `ratchet_api.gates` judges them
for the operator. Pure; called by the evaluate recipe. The formulas are in `comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ratchet_api.comparison import CHOICE_LIMIT, Choice, Comparison
from ratchet_api.gates import judge_gate, told
from ratchet_api.tasks import Task
from ratchet_api.training_run import Evaluation
from ratchet_jobs.metrics.classification import Ints
from ratchet_jobs.metrics.comparison import Comparison as Compared
from ratchet_jobs.metrics.comparison import Difference, compare
from ratchet_jobs.metrics.measuring import Measured

DECIMALS = 6
"""Of the numbers in status; comparison.json has them whole."""


NOT_FINITE = "its logits are not all finite; lower stages.rl.learningRate"


class Judged(NamedTuple):
    """The choice, the numbers for status, and comparison.json."""

    choice: Choice
    metrics: dict[str, float]
    report: dict[str, Any]


def choose(
    candidate: Measured | None,
    baseline: Measured,
    champion: Measured | None,
    *,
    role: str,
    truth: Ints,
    wanted: Evaluation,
    labels: Sequence[str],
    tasks: Sequence[Task] | None = None,
    seed: int,
) -> Judged:
    """Hold the policy that RL trained against the one it started from; the live champion is shown beside them.

    Args:
        candidate: what RL made; None = its logits are not all finite.
        baseline: what it started from.
        champion: the live version, if it could be measured; it decides nothing.
        role: of the baseline: supervised or start.
        truth: (N,) labels of the test rows; with several tasks (N, T).
        wanted: gates and comparison.
        labels: C class names.
        tasks: how they part into tasks; None = one task.
        seed: of the run.
    """
    if candidate is None:
        choice = Choice(candidate="rl", baseline=role, chosen=role, why=NOT_FINITE)
        return Judged(choice, {}, {"choice": choice.to_wire()})
    rules = wanted.comparison or Comparison()
    names = tuple(each.label for each in rules.slices)

    def against(one: Measured, other: Measured) -> Compared:
        return compare(
            truth,
            other.classes,
            one.classes,
            classes=len(labels),
            tasks=tasks,
            slices=tuple(labels.index(name) for name in names),
            confidence=rules.confidence,
            resamples=rules.resamples,
            seed=seed,
        )

    compared = against(candidate, baseline)
    judged = [("accuracy", compared.accuracy, rules.margin), ("macro_f1", compared.macro_f1, rules.margin)]
    judged += [(f"accuracy on {s.label!r}", compared.slices[labels.index(s.label)], s.margin) for s in rules.slices]
    reasons = [_worse(name, row, margin) for name, row, margin in judged if not row.not_worse(margin)]
    gates = (judge_gate(gate, candidate.judged(wanted, labels)) for gate in wanted.gates)
    reasons += [told(result) for result in gates if not result.passed]
    chosen = role if reasons else "rl"
    why = "; ".join(reasons) or "; ".join(_kept(name, row) for name, row, _ in judged[:2])
    choice = Choice(candidate="rl", baseline=role, chosen=chosen, why=_cut(why))
    live = None if champion is None else against(candidate if chosen == "rl" else baseline, champion)
    report = {
        "choice": choice.to_wire(),
        "rules": rules.to_wire(),
        "seed": seed,
        "rl_against_baseline": _table(compared, names, labels),
        "chosen_against_champion": None if live is None else _table(live, names, labels),
    }
    return Judged(choice, _numbers(candidate, baseline, compared, live), report)


def _numbers(candidate: Measured, baseline: Measured, compared: Compared, live: Compared | None) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, row in (("accuracy", compared.accuracy), ("macro_f1", compared.macro_f1)):
        numbers |= {f"baseline/{name}": row.baseline, f"rl/{name}": row.candidate, f"diff/{name}": row.difference}
        numbers |= {f"diff/{name}_low": row.low, f"diff/{name}_high": row.high}
    numbers |= {"baseline/ece": baseline.metrics["ece"], "rl/ece": candidate.metrics["ece"]}
    numbers["mcnemar_p"] = compared.mcnemar.p_mid
    if live is not None:
        row = live.accuracy
        numbers |= {"champion/accuracy": row.baseline, "champion/diff": row.difference}
        numbers |= {"champion/diff_low": row.low, "champion/diff_high": row.high}
    return {name: round(value, DECIMALS) for name, value in numbers.items()}


def _table(compared: Compared, names: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    rows = {"accuracy": compared.accuracy, "macro_f1": compared.macro_f1}
    rows |= {f"accuracy on {name}": compared.slices[labels.index(name)] for name in names}
    # JSON has no NaN: what was not measured is null
    tables = {name: {k: v if v == v else None for k, v in row._asdict().items()} for name, row in rows.items()}
    return tables | {"mcnemar": compared.mcnemar._asdict()}


def _worse(name: str, row: Difference, margin: float) -> str:
    if row.low != row.low:
        return f"{name} was not measured: the test split has no such row"
    text = f"{name} {row.candidate:.4f} against {row.baseline:.4f}: the difference may be {row.low:+.4f}"
    return f"{text}, must be >= {0.0 - margin:g}"


def _kept(name: str, row: Difference) -> str:
    text = f"{name} {row.candidate:.4f} against {row.baseline:.4f}"
    return f"{text}, difference {row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})"


def _cut(text: str) -> str:
    return text if len(text) <= CHOICE_LIMIT else text[: CHOICE_LIMIT - 1] + "…"
