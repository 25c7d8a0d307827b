"""The part of a generator's report about several agents: what each one's own reward did, held out and while it learned.

Decides content and order; drawing and markup are not its business. Called by `generated`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ratchet_jobs.report.blocks import Block, Cell, Plots, Table, Text, change, number, row
from ratchet_jobs.report.charts import Column, learning_curves
from ratchet_jobs.report.evidence import Evidence, StageRecord

CURVES = ("avg_return", "reward", "kl", "mean_tokens")
"""Families of an agent's numbers that are drawn; rl-history.parquet has the others."""


def agents(given: Evidence) -> Iterator[Block]:
    """One table and one row of plots for each agent, in their order."""
    for record in given.stages:
        if record.stage == "rl" and record.of == "rl":
            yield from _of_run(given, record)


def _of_run(given: Evidence, record: StageRecord) -> Iterator[Block]:
    listed = record.settings.get("rlhf", {}).get("agents", [])
    measured = _measured(given, listed)
    for place, agent in enumerate(listed):
        name, title = agent["name"], f"Agent {agent['name']}"
        what = "the run's policy" if place == 0 else f"in the folder agents/{agent['name']}"
        if agent.get("frozen"):
            yield Text(f"{title} ({what}) was frozen: it is the policy that the run started from.", tone="faint")
            continue
        if found := measured.get(name):
            yield _table(f"{title}, {what}", found)
        charts = learning_curves(_own(record.history, name), unit="rollout")
        yield Plots(f"{title} while it learned", charts)


def _measured(given: Evidence, listed: list[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows of each agent's table; the first is the one that was compared."""
    compared = given.comparison
    if compared is None or not listed:
        return {}
    first = {"reward": compared["rl_against_baseline"]["reward"], "components": compared.get("components", {})}
    return {listed[0]["name"]: first, **compared.get("agents", {})}


def _table(title: str, found: Mapping[str, Any]) -> Table:
    rows = [_row("reward", found["reward"]), *(_row(name, each) for name, each in found["components"].items())]
    columns = ("on held-out prompts", "start", "agent", "difference", "low", "high", "change")
    return Table(title, columns, rows, note="The reward is the agent's own; components are means before weights.")


def _row(name: str, each: Mapping[str, float | None]) -> list[Cell]:
    told = (number(each[key]) for key in ("baseline", "candidate", "difference", "low", "high"))
    return row(name, *told, change(each["candidate"] or 0.0, each["baseline"] or 0.0))


def _own(history: Mapping[str, Column], agent: str) -> dict[str, Column]:
    """The agent's numbers as those of a run with one agent are called."""
    start = f"agent/{agent}/"
    named = {name.removeprefix(start): values for name, values in history.items() if name.startswith(start)}
    kept = {name: values for name, values in named.items() if name.partition("/")[0] in CURVES}
    return {"step": history["step"], **kept}
