"""`ratchet export`: any trained version as a folder that other programs load.

Decides on which texts the export is checked and how the result is told. What is written, and whether it computes the
policy, is decided by `ratchet_jobs.export`. Nothing is fetched but the version's own files, from its own store.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratchet_api.attempts import Artifact
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.held_out import rows_of
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.screen import say
from ratchet_cli.texts import Source, TextColumn, read_source
from ratchet_cli.trained import unpacked
from ratchet_cli.versions import VERSION_HELP, BaseFolder, Place, Version, find_version

if TYPE_CHECKING:
    from ratchet_jobs.export.record import ExportRecord

CHECKED_TEXTS = 64
"""Enough to meet long and short ones; the check costs two passes over them."""

LAYOUT_HELP = (
    "merged = sentence-transformers and transformers; lora = PEFT adapter and head; onnx = one graph for ONNX Runtime; "
    "semantic-router = vLLM Semantic Router."
)


def export(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    layout: Annotated[str, typer.Option("--format", help=LAYOUT_HELP)],
    target: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.", metavar="DIR")],
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in that folder.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="File with texts to check the export on. If omitted, the test split of its snapshot.",
            metavar="FILE",
        ),
    ] = None,
    column: TextColumn = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print the record that the folder holds.")] = False,
    base: BaseFolder = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Write a trained version as a folder for other programs, checked to compute the same."""
    from ratchet_jobs.export.record import LAYOUTS

    if layout not in LAYOUTS:
        raise UsageProblem(f"--format {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    found = find_version(version, Place(namespace, local, context, home))
    with unpacked(found, base=base) as folders:
        from ratchet_jobs.export.exporting import Provenance, export_policy, folder_digest
        from ratchet_jobs.export.writing import check_target

        check_target(target, force=force)
        texts, which = _texts(found, data, column)
        digest = found.files.digest if isinstance(found.files, Artifact) else folder_digest(folders.policy)
        record = export_policy(
            folders.policy,
            folders.base,
            layout=next(each for each in LAYOUTS if each == layout),
            target=target,
            force=force,
            texts=texts,
            which=which,
            provenance=Provenance(found.title, digest, found.snapshot),
        )
    _tell(record, target, as_json=as_json)


def _texts(version: Version, data: Path | None, column: str) -> tuple[list[str], str]:
    """Return the texts that the export is checked on, and what they are."""
    if data is not None:
        return read_source(Source(data, None, column)).texts[:CHECKED_TEXTS], data.name
    from ratchet_jobs.export.parity import PROBES

    if version.snapshot is not None:
        try:
            rows = rows_of(version, None, "test")
            return rows.texts[rows.first :][:CHECKED_TEXTS], "the test split of its snapshot"
        except CliError:  # the snapshot is gone, or has no such rows; what the policy computes can still be compared
            pass
    return list(PROBES), "built-in probes"


def _tell(record: ExportRecord, target: Path, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(record.to_wire(), ensure_ascii=False, indent=2) + "\n")
        return
    parity = record.parity
    say(f"{record.version} -> {target} ({record.layout}, for {record.loader})", style="good")
    say(
        f"  logits equal to {parity.largest_difference:.1e} (allowed {parity.tolerance:.1e}) on {parity.texts} texts: "
        f"{parity.which}; computed by {parity.computed_by}"
    )
    say(f"  sha256 {record.digest}")
    say(f"  {target / 'README.md'} says how to load it")
