"""`ratchet predict`: what any trained version answers to texts.

Decides how answers look. The label, its calibrated confidence and whether the policy abstains follow from its own
policy.json, by the formulas of the evaluate stage.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from ratchet_cli.errors import UsageProblem
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.screen import out, print_whole
from ratchet_cli.texts import Data, Form, Rows, Source, TextColumn, given_texts, read_source
from ratchet_cli.trained import logits_of, opened
from ratchet_cli.versions import VERSION_HELP, BaseFolder, Place, find_version

if TYPE_CHECKING:
    from ratchet_jobs.models.classifier import LoadedPolicy

FORMS = ("table", "json", "jsonl")
_SHOWN_CHARACTERS = 80


class Answer(NamedTuple):
    """What the policy says about one text in one task."""

    text: str
    task: str
    """Empty if the policy has one task without a name."""
    label: str
    confidence: float
    abstained: bool


def predict(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; - or none = lines of standard input.", metavar="[TEXT]...")
    ] = None,
    data: Data = None,
    column: TextColumn = "text",
    form: Form = None,
    output: Annotated[str, typer.Option("-o", "--output", help="table, json or jsonl.")] = "table",
    base: BaseFolder = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Ask a trained version: label, calibrated confidence, and whether it would rather abstain, task by task."""
    if output not in FORMS:
        raise UsageProblem(f"--output {output!r} is unknown; use one of {', '.join(FORMS)}")
    if data is not None and texts:
        raise UsageProblem("--data and TEXT… both give texts; choose one")
    found = find_version(version, Place(namespace, local, context, home))
    rows = read_source(Source(data, form, column)) if data is not None else given_texts(texts or [])
    with opened(found, base=base) as policy:
        answers = _ask(policy, rows, batch_size=found.batch_size, title=found.title)
    if output == "table":
        _print_table(answers)
        return
    documents = _documents(answers, len(rows.texts))
    if output == "json":
        sys.stdout.write(json.dumps(documents, ensure_ascii=False, indent=2) + "\n")
        return
    sys.stdout.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in documents)


def _ask(policy: LoadedPolicy, rows: Rows, *, batch_size: int, title: str) -> list[Answer]:
    from ratchet_jobs.metrics import classification as formulas

    card = policy.card
    logits = logits_of(policy, rows.texts, batch_size=batch_size, title=title)
    answers: list[Answer] = []
    for task, fit in card.heads:
        said = formulas.predict(logits[:, task.start : task.stop], temperature=fit.temperature)
        labels, threshold = task.plain_labels, fit.threshold or 0.0
        answers += (
            Answer(text, task.name, labels[place], float(confidence), bool(confidence < threshold))
            for text, place, confidence in zip(rows.texts, said.classes, said.confidence, strict=True)
        )
    return answers


def _documents(answers: list[Answer], texts: int) -> list[dict[str, Any]]:
    """One object per text: its label, confidence and whether the policy abstains; of several tasks by task."""
    said = [{name: value for name, value in each._asdict().items() if name not in ("text", "task")} for each in answers]
    if not answers[0].task:
        return [{"text": each.text, **rest} for each, rest in zip(answers, said, strict=True)]
    # answers stand task after task, each with every text
    return [
        {
            "text": answers[n].text,
            "tasks": {answers[k].task: said[k] for k in range(n, len(answers), texts)},
        }
        for n in range(texts)
    ]


def _print_table(answers: list[Answer]) -> None:
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    with_tasks = bool(answers[0].task)
    if with_tasks:
        table.add_column("task", no_wrap=True)
    table.add_column("label", no_wrap=True)
    table.add_column("confidence", justify="right")
    table.add_column("")
    table.add_column("text", no_wrap=True)
    for each in answers:
        mark = Text("abstains", style="idle") if each.abstained else Text("")
        label = Text(each.label, style="faint" if each.abstained else "name")
        cut = each.text if len(each.text) <= _SHOWN_CHARACTERS else each.text[: _SHOWN_CHARACTERS - 1] + "…"
        task = (Text(each.task),) if with_tasks else ()
        table.add_row(*task, label, Text(f"{each.confidence:.4f}", style="number"), mark, Text(cut))
    print_whole(table) if not out.is_terminal else out.print(table)
