"""How a rollout looks: where a trial stands, who got what share since when, and which arm a subject is dealt.

Pure functions from a policy's status, as the API server serves it, to sentences and renderables. The router deals;
`ratchet_api.assign` computes the same, so that what is said here is what the router does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ratchet_api.assign import WHOLE, canary_split, is_subject, place, salt_of
from ratchet_api.fixed_shares import split_of_test
from ratchet_api.queries import QuerySeen
from ratchet_api.rollout import Rollout, RolloutStatus, ShareRow
from ratchet_cli.screen import age, duration

SHOWN_CONFUSIONS = 5
_OUTCOMES = {"Successful": "good", "Failed": "bad", "Error": "bad", "Inconclusive": "idle"}


def trial_line(rollout: RolloutStatus) -> str:
    """Say who gets what, in one line."""
    if rollout.serving is None:
        return "nobody gets a version yet"
    if (test := rollout.testing) is not None:
        versions = ", ".join(f"version {arm.version} at {arm.percent:g} %" for arm in test.live)
        dealt = "" if test.dealt else ", which nobody gets yet"
        return f"tested against version {rollout.serving}: {versions}{dealt}"
    if rollout.candidate is None:
        return f"everybody gets version {rollout.serving}"
    if rollout.shadowed:
        return f"version {rollout.candidate} is asked beside version {rollout.serving}, and nobody gets its answers"
    share = f"{rollout.percent:g} % get version {rollout.candidate}" if rollout.percent else "nobody gets it yet"
    return f"version {rollout.candidate} is on trial against version {rollout.serving}: {share}"


def rollout_parts(rollout: RolloutStatus, spec: Rollout | None, now: datetime) -> list[RenderableType]:
    """Return the lines of a policy's view that speak of what people get."""
    line = Text(f"  {trial_line(rollout)}")
    if rollout.candidate is not None:
        if spec is not None and rollout.step >= 0:
            line.append(f", step {rollout.step + 1} of {len(spec.canary.steps)}")
        if rollout.step_since is not None:
            line.append(f" for {age(rollout.step_since, now)}")
        elif rollout.shadow_since is not None and rollout.shadowed:
            line.append(f", for {age(rollout.shadow_since, now)}")
        elif rollout.percent:
            line.append(", which not every router has applied yet")
        if rollout.paused:
            line.append("  paused", style="idle")
    parts: list[RenderableType] = [line]
    if rollout.candidate is not None and rollout.unready_since is not None:
        parts.append(Text(f"  it has not answered for {age(rollout.unready_since, now)}", style="bad"))
    parts += shadow_parts(rollout)
    parts += parts_of_test(rollout, now)
    parts += [query_line(row, now) for row in rollout.queries]
    if (said := verdict_text(rollout)) and rollout.testing is None:
        parts.append(said)
    return parts


def shadow_parts(rollout: RolloutStatus) -> list[RenderableType]:
    """Return what the candidate answered beside the champion, or the last one did; nothing if it was not asked so."""
    report = rollout.shadow
    if report is None:
        return []
    parts: list[RenderableType] = [Text(f"  shadow: {report.sentence}")]
    for row in report.confusions[:SHOWN_CONFUSIONS]:
        said, now = row.champion or "abstained", row.candidate or "abstains"
        parts.append(
            Text(f"    {said} → {now}: {row.pairs:,} of {row.of:,} ({row.pairs / max(row.of, 1):.1%})", style="faint")
        )
    return parts


def parts_of_test(rollout: RolloutStatus, now: datetime) -> list[RenderableType]:
    """Return how each version of a test with fixed shares stands, or stood at the end of the last one."""
    test = rollout.ab_test
    if test is None:
        return []
    since = "" if test.exposed is None else f" for {age(test.exposed, now)}"
    parts: list[RenderableType] = [Text(f"  the test runs{since}" if test.running else f"  last test: {test.result}")]
    for arm in test.arms:
        line = Text(f"    version {arm.version}, {arm.percent:g} %: ")
        if arm.out:
            line.append(arm.out, style="bad")
        elif arm.verdict.outcome:
            line.append(arm.verdict.outcome, style=_OUTCOMES.get(arm.verdict.outcome, ""))
            line.append(f" ({arm.verdict.reason}): {arm.verdict.message}")
            line.append(f"  [{arm.verdict.samples:,} subjects]", style="faint")
        else:
            line.append("nothing is known yet", style="faint")
        parts.append(line)
    return parts


def query_line(row: QuerySeen, now: datetime) -> Text:
    """Return what a user's own number was when it was written last."""
    line = Text(f"  {row.name}: ")
    if row.value is None:
        return line.append(f"not known: {row.problem}", style="idle")
    line.append(f"{row.value:g}")
    if row.beyond_since is not None:
        line.append(f", beyond its bound for {age(row.beyond_since, now)}", style="bad")
    return line


def verdict_text(rollout: RolloutStatus) -> Text | None:
    """Return what is thought of the candidate, or was thought of the last one; None = nothing yet."""
    verdict = rollout.verdict
    if not verdict.outcome:
        return None
    text = Text("  " if rollout.candidate is not None else "  last trial: ")
    text.append(verdict.outcome, style=_OUTCOMES.get(verdict.outcome, ""))
    text.append(f" ({verdict.reason}): {verdict.message}")
    if rollout.candidate is not None:
        needed = "" if verdict.needed is None else f", about {verdict.needed:,} more are needed"
        text.append(f"  [{verdict.samples:,} subjects{needed}]", style="faint")
    return text


def history_table(rows: Sequence[ShareRow], now: datetime) -> Table:
    """Return what served what share, oldest first; a row lasts until the next."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for column in ("SINCE", "FOR", "EVERYBODY", "ON TRIAL", "BY"):
        table.add_column(column, no_wrap=True)
    table.add_column("WHY", overflow="fold")
    ends = [row.since for row in rows[1:]] + [now]
    for row, end in zip(rows, ends, strict=True):
        tried = _arms(row) if row.candidate is None else [(row.candidate, row.percent)]
        named = {version: f"version {version}" for version in row.versions}
        named |= {each.version: f"version {each.version} ({each.config})" for each in row.configs}
        trial = ", ".join(f"{named[version]} at {percent:g} %" for version, percent in tried) or "-"
        lasted = duration(max(0.0, (end - row.since).total_seconds()))
        since = row.since.strftime("%Y-%m-%d %H:%M:%SZ")
        table.add_row(since, lasted, Text(named[row.version], style="name"), trial, row.by, Text(row.why))
    return table


def why_sentence(
    subject: str, *, policy_uid: str, rollout: RolloutStatus, spec: Rollout | None, diced: bool = False
) -> str:
    """Say which version a subject gets, and why.

    Args:
        subject: as the router is told it, by header or cookie.
        policy_uid: uid of the policy, of which the salt is made.
        rollout: where its rollout stands.
        spec: what was asked of it, for what later steps will do; None = nothing goes on trial.
        diced: Gateways deal, each request by itself, and know no subject.
    """
    everybody = rollout.serving
    if everybody is None:
        return f"{subject} gets no version: none serves yet"
    gets = f"{subject} gets version {everybody}"
    if rollout.candidate is None and rollout.testing is None:
        return f"{gets}, as everybody does: no version is on trial"
    if diced:
        return _why_diced(subject, rollout, everybody)
    if not is_subject(subject):
        return f"{gets}, outside the comparison: the router deals subjects of printable ASCII without blank and comma"
    if rollout.candidate is None:
        return _why_tested(subject, policy_uid, rollout, everybody)
    trial = f"version {rollout.candidate} is on trial in experiment {rollout.experiment}"
    salt = salt_of(policy_uid, rollout.experiment)
    at = place(subject, salt)
    if not rollout.share:
        return f"{gets}, as everybody does: {trial}, but nobody gets it yet{_later(at, rollout, spec)}"
    slot = canary_split(salt, champion=everybody, candidate=rollout.candidate, share=rollout.share).slot(subject)
    last = WHOLE - rollout.share
    why = {
        "canary": f"its place {at} of 0 to {WHOLE - 1} is below {rollout.share}, the {rollout.percent:g} % that try it",
        "control": f"its place {at} of 0 to {WHOLE - 1} is not below {last}, the {rollout.percent:g} % that canary is "
        "held against",
        "champion": f"its place {at} of 0 to {WHOLE - 1} is neither below {rollout.share} (canary) nor from {last} on "
        f"(control), so that it is in no comparison{_later(at, rollout, spec)}",
    }[slot.arm]
    unsure = "" if rollout.step_since is not None else "; not every router has applied this share yet"
    return f"{subject} gets version {slot.version}, arm {slot.arm}: {trial}, and {why}{unsure}"


def _why_diced(subject: str, rollout: RolloutStatus, everybody: int) -> str:
    """Say what a Gateway's dice may give a subject."""
    tried = [(rollout.candidate, rollout.percent)] if rollout.candidate is not None else []
    if (test := rollout.testing) is not None and test.dealt:
        tried = [(arm.version, arm.percent) for arm in test.live]
    chances = ", ".join(f"version {version} with {percent:g} %" for version, percent in tried if percent)
    if not chances:
        return f"{subject} gets version {everybody}, as everybody does: nobody gets another one yet"
    return (
        f"nobody can say which version {subject} gets: a Gateway throws dice for each request, {chances}, "
        f"else version {everybody} (HTTPRoute, spec.serving.httpRoute)"
    )


def _why_tested(subject: str, policy_uid: str, rollout: RolloutStatus, everybody: int) -> str:
    """Say which part of a test with fixed shares a subject falls into."""
    name = f"the test {rollout.experiment} runs"
    test = rollout.testing
    split = None if test is None else split_of_test(test, policy_uid=policy_uid, champion=everybody)
    if split is None:
        return f"{subject} gets version {everybody}, as everybody does: {name}, but nobody is dealt yet"
    slot, at = split.slot(subject), place(subject, split.salt)
    held = {"canary": "which is tried", "control": "against which one is held", "champion": "outside the comparison"}
    where = f"by its place {at} of 0 to {WHOLE - 1}, until the test ends"
    return f"{subject} gets version {slot.version}, arm {slot.arm}, {held[slot.arm]}: {name}, and deals it so {where}"


def _arms(row: ShareRow) -> Sequence[tuple[int, float]]:
    return [(arm.version, arm.percent) for arm in row.arms]


def _later(at: int, rollout: RolloutStatus, spec: Rollout | None) -> str:
    """Say at which later step a place is taken into an arm."""
    steps = () if spec is None else spec.canary.steps[rollout.step + 1 :]
    for percent in steps:
        share = round(percent * WHOLE / 100)
        if at < share or at >= WHOLE - share:
            return f"; at {percent:g} % it is taken into {'canary' if at < share else 'control'}"
    return ""
