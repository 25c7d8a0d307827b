"""How a run with RL shows what it compared: what RL made, what it started from, and the live champion.

A pure function from a run's status to a table. Used by every view of a run.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from ratchet_api.comparison import Choice
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_cli.screen import metric

SHOWN = ("accuracy", "macro_f1", "ece", "reward", "agreement", "mean_tokens", "kl", "perplexity")
"""Numbers of both policies, where they were measured."""
PREFIXES = ("baseline/", "rl/", "diff/", "champion/")
COMPARED = (*PREFIXES, "mcnemar_p")
"""How the names of a comparison's numbers begin; they stand in its table and not among the metrics."""


def is_compared(name: str) -> bool:
    """Tell whether a metric belongs to the comparison's table."""
    return name.startswith(COMPARED)


def choice_of(status: RLTrainingRunStatus) -> Choice | None:
    """Return what the evaluation chose, if it had a choice."""
    return next((stage.choice for stage in status.stages if stage.choice is not None), None)


def comparison_table(status: RLTrainingRunStatus) -> Table | None:
    """One line per number: both policies, their difference with its interval, and who was committed."""
    choice, numbers = choice_of(status), status.metrics
    if choice is None or not {"diff/accuracy", "diff/reward", "diff/agreement"} & set(numbers):
        return None
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    table.add_column("on the same rows")
    for title in (choice.baseline, "rl", "difference"):
        table.add_column(title, justify="right")
    table.add_column("")
    for name in SHOWN:
        if f"rl/{name}" in numbers:
            pair = (Text(metric(name, numbers[f"{side}/{name}"]), style="number") for side in ("baseline", "rl"))
            table.add_row(name, *pair, *_difference(numbers, f"diff/{name}"))
    if "champion/accuracy" in numbers:
        seen, live = Text(metric("accuracy", numbers["champion/accuracy"]), style="number"), status.resolved
        number = live.champion.version if live is not None and live.champion is not None else None
        name = f"champion {number}" if number is not None else "champion"
        table.add_row(f"accuracy of {name}", seen, Text(""), *_difference(numbers, "champion/diff"))
    if "rl/win_rate" in numbers:
        table.add_row("better answers", Text(""), Text(f"{numbers['rl/win_rate']:.0%}", style="number"))
    kept = choice.chosen == choice.candidate
    table.add_row("committed", Text(choice.chosen, style="good" if kept else "idle"))
    return table


def _difference(numbers: Mapping[str, float], name: str) -> tuple[Text, Text]:
    if name not in numbers:
        return Text(""), Text("")
    interval = f"{numbers[f'{name}_low']:+.4f} to {numbers[f'{name}_high']:+.4f}" if f"{name}_low" in numbers else ""
    return Text(f"{numbers[name]:+.4f}", style="number"), Text(interval, style="faint")
