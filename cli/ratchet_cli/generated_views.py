"""What evaluate and compare tell of generators, as documents and as tables.

Decides the verdict between two of them, by the interval of the difference of what their answers are worth, and which
numbers of both stand beside each other with how much they changed. Measures nothing. Used by evaluate and compare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ratchet_api.comparison import Comparison as Rules
from ratchet_cli.errors import CliError
from ratchet_cli.generated import Said, Shown
from ratchet_cli.screen import metric, out, say
from ratchet_cli.versions import Version

if TYPE_CHECKING:
    from ratchet_jobs.metrics.comparison import Difference

Verdict = Literal["better", "not worse", "worse", "undecided", "not judged"]
SEED = 0
"""Of the resamples: the same versions and rows give the same interval."""
SAMPLES = 5
"""Answers that are shown; the document has all of them."""
CHARACTERS = 60
"""Of a text in a table."""
EMPTY = "(empty)"
_STYLES = {"better": "good", "not worse": "good", "worse": "bad", "undecided": "idle", "not judged": "idle"}


def evaluated(version: Version, rows: Shown, said: Said, *, rewards_of: str | None) -> dict[str, Any]:
    """Return everything that was measured of one version."""
    answers: list[dict[str, Any]] = [
        {"prompt": row.prompt, "reference": row.response, "answer": text}
        for row, text in zip(said.asked, said.texts, strict=True)
    ]
    for entry, base in zip(answers, said.of_base, strict=False):
        entry["base"] = base
    for entry, worth in zip(answers, said.worth if said.worth is not None else (), strict=False):
        entry["reward"] = float(worth)
    judged = {} if rewards_of is None else {"rewardsOf": rewards_of}
    return {"version": version.title, "rows": rows.what} | judged | {"metrics": said.metrics, "answers": answers}


def print_evaluated(document: Mapping[str, Any]) -> None:
    """Show numbers and some answers."""
    from ratchet_jobs.report.generated import MEANINGS

    metrics = document["metrics"]
    say(f"{document['version']} on {document['rows']}")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    for name in (each for each in MEANINGS if each in metrics):
        meaning = f"by the rewards of {document['rewardsOf']}" if name == "reward" else MEANINGS[name]
        table.add_row(name, Text(metric(name, metrics[name]), style="number"), Text(meaning, style="faint"))
    out.print(Padding(table, (1, 0, 0, 2)))
    rewarded = "rewardsOf" in document
    columns = ("prompt", "answer", *(("reward",) if rewarded else ()), "reference", "base model")
    table = _table(*columns)
    for row in document["answers"][:SAMPLES]:
        reward = (f"{row['reward']:.3f}",) if rewarded else ()
        table.add_row(_cut(row["prompt"]), _cut(row["answer"]), *reward, _cut(row["reference"]), _cut(row["base"]))
    out.print(Padding(table, (1, 0, 0, 2)))


def compared(
    versions: tuple[Version, Version], rows: Shown, said: tuple[Said, Said], rules: Rules, *, rewards_of: str | None
) -> dict[str, Any]:
    """Return everything that two versions' answers to the same prompts say about each other.

    Raises:
        CliError: they did not answer the same prompts, or only one.
    """
    one, other = said
    if one.asked != other.asked:
        raise CliError(
            f"{versions[0].title} and {versions[1].title} answered other prompts: one of them leaves out prompts that "
            "fill its maxTokens; give rows with shorter prompts by --data FILE"
        )
    if len(one.asked) < 2:
        raise CliError(f"{rows.what}: one prompt was answered, and a comparison needs two; give more rows")
    numbers = _numbers(one, other, confidence=rules.confidence)
    document: dict[str, Any] = {
        "a": versions[0].title,
        "b": versions[1].title,
        "rows": rows.what,
        "n": len(one.asked),
        "rules": {"margin": rules.margin, "confidence": rules.confidence, "resamples": rules.resamples, "seed": SEED},
        "numbers": numbers,
    }
    row = None
    if one.worth is not None and other.worth is not None:
        from ratchet_jobs.metrics.choosing_answers import paired, win_rate

        row = paired(other.worth, one.worth, confidence=rules.confidence, resamples=rules.resamples, seed=SEED)
        document |= {"rewardsOf": rewards_of, "reward": row._asdict(), "winRate": win_rate(other.worth, one.worth)}
    document["verdict"] = judge(row, margin=rules.margin)
    document["sentence"] = _sentence(document, row)
    document["answers"] = [
        {"prompt": shown.prompt, "reference": shown.response, "a": a, "b": b}
        for shown, a, b in zip(one.asked, one.texts, other.texts, strict=True)
    ]
    if one.worth is not None and other.worth is not None:
        for entry, gain in zip(document["answers"], other.worth - one.worth, strict=True):
            entry["gained"] = float(gain)
    return document


def judge(reward: Difference | None, *, margin: float) -> Verdict:
    """Return whether B is better than A, not worse, worse, or whether these answers cannot tell."""
    if reward is None:
        return "not judged"
    if reward.not_worse(margin):
        return "better" if reward.low > 0 else "not worse"
    return "worse" if reward.high < 0 else "undecided"


def _numbers(one: Said, other: Said, *, confidence: float) -> dict[str, dict[str, Any]]:
    """Both versions' numbers and by how much they changed; an interval where a number is of single answers."""
    from ratchet_jobs.metrics.changes import Held, change_of, held_bleu, held_distinct, held_mean
    from ratchet_jobs.metrics.generation import repetition, taken_up
    from ratchet_jobs.report.generated import MEANINGS

    def held(said: Said) -> dict[str, Held]:
        right = [row.response for row in said.asked]
        found = {f"bleu{order}": held_bleu(said.texts, right, order=order) for order in (1, 2)}
        found |= {f"distinct{order}": held_distinct(said.texts, order=order) for order in (1, 2)}
        found["repetition"] = held_mean([repetition([text]) for text in said.texts])
        pairs = zip(said.texts, said.asked, strict=True)
        found["overlap"] = held_mean([taken_up(text, row.turns[-1].content) for text, row in pairs])
        found["mean_tokens"] = held_mean(said.lengths)
        if said.worth is not None:
            found["reward"] = held_mean(said.worth.tolist())
        return found

    a, b = held(one), held(other)
    numbers: dict[str, dict[str, Any]] = {}
    for name in MEANINGS:
        if name not in one.metrics or name not in other.metrics or name.startswith("n_"):
            continue
        left, right = one.metrics[name], other.metrics[name]
        numbers[name] = {"a": left, "b": right}
        found = change_of(a[name], b[name], confidence=confidence) if name in a else None
        if found is not None:
            numbers[name] |= found._asdict()
        elif left:
            numbers[name]["change"] = right / left - 1
    return numbers


def _sentence(document: Mapping[str, Any], row: Difference | None) -> str:
    a, b, rules = document["a"], document["b"], document["rules"]
    if row is None:
        return f"not judged: no rewards say which answers are better; name a run whose rewards do by --rewards-of ({b})"
    words = {
        "better": f"{b} is better than {a}",
        "not worse": f"{b} is not worse than {a}",
        "worse": f"{b} is worse than {a}",
        "undecided": f"undecided: these answers cannot tell {b} from {a}",
    }[document["verdict"]]
    tolerated = f", a loss of {rules['margin']:g} being tolerated" if rules["margin"] else ""
    return (
        f"{words}{tolerated}: reward {row.candidate:.4f} against {row.baseline:.4f}, difference {row.difference:+.4f} "
        f"({row.low:+.4f} to {row.high:+.4f}); {document['winRate']:.0%} of the answers better"
    )


def print_compared(document: Mapping[str, Any]) -> None:
    """Show both versions' numbers, some answers and the verdict."""
    judged = f", rewards of {document['rewardsOf']}" if "rewardsOf" in document else ""
    say(f"{document['n']:,} prompts: {document['rows']}{judged}")
    table = _table("", document["a"], document["b"], "change", f"{document['rules']['confidence']:.1%} interval")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in document["numbers"].items():
        numbers = (Text(metric(name, row[side]), style="number") for side in ("a", "b"))
        change = f"{row['change']:+.1%}" if "change" in row else ""
        interval = f"{row['low']:+.1%} to {row['high']:+.1%}" if "low" in row else ""
        table.add_row(name, *numbers, change, interval)
    out.print(Padding(table, (1, 0, 0, 2)))
    gained = "rewardsOf" in document
    table = _table("prompt", document["a"], document["b"], *(("reward gained",) if gained else ()), "reference")
    for row in document["answers"][:SAMPLES]:
        gain = (f"{row['gained']:+.3f}",) if gained else ()
        table.add_row(_cut(row["prompt"]), _cut(row["a"]), _cut(row["b"]), *gain, _cut(row["reference"]))
    out.print(Padding(table, (1, 0, 0, 2)))
    out.print()
    say(document["sentence"], style=_STYLES[document["verdict"]])


def write_json(document: Mapping[str, Any]) -> None:
    """Write a document to standard output."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    for column in (title, *columns):
        table.add_column(Text(column))
    return table


def _cut(text: str) -> Text:
    one_line = " ".join(text.split()) or EMPTY
    return Text(one_line if len(one_line) <= CHARACTERS else f"{one_line[: CHARACTERS - 1]}…")
