"""How one object looks in full: a run with its stages, gates and numbers; a dataset; a policy.

Pure functions from an object (as the API server serves it) to a rich renderable. Used by status, watch and run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ratchet_api.conditions import Condition, ConditionType, find_condition
from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_api.gates import metric_key
from ratchet_api.policy import PolicyVersion, RLPolicyStatus
from ratchet_api.rollout import Rollout
from ratchet_api.training_run import RLTrainingRunStatus, StageStatus
from ratchet_cli.comparison import comparison_table, is_compared
from ratchet_cli.rollout_views import rollout_parts
from ratchet_cli.screen import age, duration, metric, state_text

BAR_WIDTH = 40
Body = Mapping[str, Any]
Live = Mapping[str, Mapping[str, Any]]
"""Progress documents of the pods that run now, by stage."""


def title(body: Body, state: str, *more: str) -> Text:
    """Return the headline of an object."""
    line = Text.assemble((body["kind"], "faint"), " ", (body["metadata"]["name"], "name"), "  ", state_text(state))
    for each in more:
        line.append(f"  {each}")
    return line


def view(body: Body, live: Live | None = None, *, now: datetime) -> RenderableType:
    """Return the full view of an object of any of our kinds."""
    views: dict[str, Callable[[Body, Live, datetime], RenderableType]] = {
        "RLTrainingRun": run_view,
        "FeedbackDataset": dataset_view,
        "RLPolicy": policy_view,
    }
    return views[body["kind"]](body, live or {}, now)


def run_view(body: Body, live: Live, now: datetime) -> RenderableType:
    """A run: headline, stages with bars, the numbers once there are some, and what is wrong."""
    status = RLTrainingRunStatus.model_validate(body.get("status", {}))
    more = [f"version {status.version}"] if status.version else []
    parts: list[RenderableType] = [title(body, status.state, *more)]
    if status.resolved is not None:
        name, fixed = body["spec"]["datasetRef"]["name"], status.resolved
        fact = f"{name} {fixed.dataset_digest[:12]}…, {fixed.train_rows:,} rows to train on"
        parts.append(Text(f"  dataset {fact}", style="faint"))
        if fixed.log is not None:
            stages = body["spec"]["stages"]
            named = (stages.get(stage) or {} for stage in ("rewardModel", "preference", "rl"))
            name = next(settings["datasetRef"]["name"] for settings in named if "datasetRef" in settings)
            parts.append(Text(f"  log     {name} {fixed.log.digest[:12]}…, {fixed.log.rows:,} answers", style="faint"))
    if status.stages:
        parts.append(Padding(_stages(status, live, now), (0, 0, 0, 2)))
    if status.metrics:
        parts.append(Padding(metrics_table(status), (1, 0, 0, 2)))
    if (compared := comparison_table(status)) is not None:
        parts.append(Padding(compared, (1, 0, 0, 2)))
    parts += problems(status.conditions)
    if status.estimate is not None:
        foreseen = status.estimate
        parts.append(
            Text(
                f"  would run {', '.join(foreseen.stages)}: {foreseen.steps:,} steps "
                f"on {foreseen.train_rows:,} rows, {foreseen.gpus} GPUs"
            )
        )
    return Group(*parts)


def _stages(status: RLTrainingRunStatus, live: Live, now: datetime) -> Table:
    table = bars_table()
    for stage in status.stages:
        table.add_row(*_stage_row(stage, status, live, now))
    return table


def _stage_row(
    stage: StageStatus, status: RLTrainingRunStatus, live: Live, now: datetime
) -> tuple[RenderableType, ...]:
    step, steps, note = 0, 0, ""
    seen = live.get(stage.name)
    if seen is None and status.progress is not None and status.progress.stage == stage.name:
        seen = {
            "step": status.progress.step,
            "steps": status.progress.steps,
            "loss": status.progress.loss,
            "etaSeconds": status.progress.eta_seconds,
        }
    if stage.state == "Running" and seen is not None:
        step, steps = int(seen.get("step") or 0), int(seen.get("steps") or 0)
        note = progress_note(seen)
    elif stage.state in ("Succeeded", "Cached"):
        step = steps = 1
    elapsed = ""
    if stage.attempt is not None and stage.attempt.started is not None and stage.state != "Cached":
        elapsed = age(stage.attempt.started, stage.finished or now)
    if stage.attempt is not None and stage.attempt.number > 1:
        note = f"attempt {stage.attempt.number}  {note}"
    return Text(stage.name), state_text(stage.state), bar(step, steps), Text(elapsed, style="faint"), Text(note)


def bars_table() -> Table:
    """Return a table of name, state, bar, time, note, in which the bar takes the room that the terminal leaves."""
    table = Table(box=None, pad_edge=False, show_header=False, expand=True, padding=(0, 2, 0, 0))
    for _ in ("name", "state"):
        table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=8, max_width=BAR_WIDTH)
    for _ in ("time", "note"):
        table.add_column(no_wrap=True)
    return table


def bar(step: int, steps: int) -> ProgressBar:
    """Return a bar."""
    return ProgressBar(total=max(steps, 1), completed=step)


def progress_note(seen: Mapping[str, Any]) -> str:
    """Word a progress document: percent, step, loss, time left."""
    step, steps = int(seen.get("step") or 0), int(seen.get("steps") or 0)
    parts = [f"{100 * step // steps}%  {step:,}/{steps:,}"] if steps else []
    if seen.get("loss") is not None:
        parts.append(f"loss {float(seen['loss']):.2f}")
    if seen.get("etaSeconds") is not None:
        parts.append(f"{duration(float(seen['etaSeconds']))} left")
    return "  ".join(parts)


def metrics_table(status: RLTrainingRunStatus) -> Table:
    """Numbers on the test split with the gates that judge them."""
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    table.add_column("on the test split")
    table.add_column("", justify="right")
    table.add_column("gate")
    gates = {metric_key(g.metric, label=g.label, task=g.task): g for g in status.gates}
    for name in [*dict.fromkeys([*_ORDER, *sorted(status.metrics)])]:
        if name not in status.metrics or is_compared(name):
            continue
        gate = gates.get(name)
        verdict = (
            Text(f"{gate.bound}  {'passed' if gate.passed else 'failed'}", style="good" if gate.passed else "bad")
            if gate
            else Text("")
        )
        table.add_row(name, Text(metric(name, status.metrics[name]), style="number"), verdict)
    return table


_ORDER = (
    "accuracy",
    "macro_f1",
    "ece",
    "brier",
    "coverage",
    "selective_accuracy",
    "threshold",
    "temperature",
    "loss",
    "ms_per_sample_1",
    "ms_per_sample_32",
    "perplexity",
    "base_perplexity",
    "kl",
    "bleu1",
    "bleu2",
    "distinct1",
    "distinct2",
    "repetition",
    "overlap",
    "item_ratio",
    "empty",
    "ended",
    "mean_tokens",
    "n_test",
)


_QUIET = {
    "Accepted",
    "StageRunning",
    "StageCached",
    "StageSucceeded",
    "WaitingForPod",
    "NoVersion",
    "ChampionSet",
    "DryRun",
}
"""Reasons that say no more than the bars and headlines do."""


def problems(conditions: tuple[Condition, ...]) -> list[RenderableType]:
    """Return the message of what went wrong or is waited for; nothing if all goes well."""
    for kind, style in (
        (ConditionType.FAILED, "bad"),
        (ConditionType.STALLED, "bad"),
        (ConditionType.SUSPENDED, "idle"),
    ):
        found = find_condition(conditions, kind)
        if found is not None and found.status == "True" and found.message:
            return [Text(f"  {found.reason}: {found.message}", style=style)]
    waiting = find_condition(conditions, ConditionType.RECONCILING)
    if waiting is not None and waiting.status == "True":
        return [Text(f"  {waiting.message}", style="idle")] if waiting.reason not in _QUIET and waiting.message else []
    judged = (c for c in conditions if c.status == "False" and c.type in ("GatePassed", "Published", "Ready"))
    failed = next((c for c in judged if c.message and c.reason not in _QUIET), None)
    return [Text(f"  {failed.reason}: {failed.message}", style="idle")] if failed else []


def dataset_view(body: Body, live: Live, now: datetime) -> RenderableType:
    """A dataset: headline, rows per split, what was removed, the smallest classes."""
    status = FeedbackDatasetStatus.model_validate(body.get("status", {}))
    parts: list[RenderableType] = [title(body, status.state)]
    snapshot = status.snapshot
    running = live.get("snapshot")
    if running is not None and status.state != "Ready":
        table = bars_table()
        step, steps = int(running.get("step") or 0), int(running.get("steps") or 0)
        table.add_row("snapshot", state_text("Running"), bar(step, steps), "", progress_note(running))
        parts.append(Padding(table, (0, 0, 0, 2)))
    if snapshot is not None:
        counts = snapshot.counts
        splits = f"train {counts.train:,}, validation {counts.validation:,}, test {counts.test:,}"
        parts.append(Text(f"  {counts.kept:,} of {counts.read:,} rows kept: {splits}", style="faint"))
        classes = f"{snapshot.classes} classes, " if snapshot.classes else ""
        parts.append(Text(f"  {classes}digest {snapshot.digest[:12]}…", style="faint"))
        parts += (
            Text(f"  task {each.task}: {each.classes} classes, {each.train:,} rows to train on", style="faint")
            for each in snapshot.tasks or ()
        )
        parts += (
            Text(
                f"  removed {each.count:,}: {each.rule}" + (f" (first: {each.example})" if each.example else ""),
                style="faint",
            )
            for each in snapshot.removed
        )
    parts += problems(status.conditions)
    return Group(*parts)


_SHOWN_OF = {"classifier": ("accuracy", "macro_f1", "ece"), "generator": ("perplexity", "kl", "bleu1")}
"""Numbers of a policy's versions."""


def policy_view(body: Body, live: Live, now: datetime) -> RenderableType:
    """A policy: headline, its versions with their numbers, who is champion and since when."""
    status = RLPolicyStatus.model_validate(body.get("status", {}))
    champion = f"champion {status.champion}" if status.champion else "no champion yet"
    parts: list[RenderableType] = [title(body, status.state, champion)]
    if status.versions:
        table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
        shown = _SHOWN_OF.get(body.get("spec", {}).get("type", ""), _SHOWN_OF["classifier"])
        for column in ("version", "run", *shown, "digest", "age", ""):
            table.add_column(column)
        for each in status.versions:
            numbers = (metric(name, each.metrics[name]) if name in each.metrics else "-" for name in shown)
            mark = Text("champion", style="good") if each.version == status.champion else Text("")
            table.add_row(str(each.version), each.run, *numbers, each.digest[:12], age(each.published, now), mark)
        parts.append(Padding(table, (0, 0, 0, 2)))
        named = _named(status)
        parts += (Text(f"  {_lineage(each)}", style="faint") for each in status.versions if each.version in named)
    if status.ledger:
        last = status.ledger[-1]
        parts.append(
            Text(f"  version {last.version} is champion since {age(last.since, now)}: {last.why}", style="faint")
        )
    if status.rollout is not None:
        asked = body["spec"].get("rollout")
        spec = None if asked is None else Rollout.model_validate(asked)
        parts += rollout_parts(status.rollout, spec, now)
    parts += problems(status.conditions)
    return Group(*parts)


def _named(status: RLPolicyStatus) -> set[int | None]:
    """Versions of which is told what they came from: who serves, and who is tried."""
    rollout = status.rollout
    test = None if rollout is None else rollout.testing
    tested = () if test is None else (arm.version for arm in test.arms)
    return {status.champion, None if rollout is None else rollout.candidate, *tested}


def _lineage(version: PolicyVersion) -> str:
    """What a version came from, as far as its row says."""
    if version.variant_of is not None:
        return f"version {version.version}: {version.sentence}"
    base, code = version.base_model, version.code_version
    of = "" if base is None else f"of {base.uri} ({base.sha256[:12]}), "
    config = "" if version.generation is None else f", answers with {version.generation.sentence}"
    made = f"{of}snapshot {version.dataset_digest[:12]}" + (f", code {code}" if code else "")
    return f"version {version.version}: {made}{config}"
