"""`ratchet export`: any trained version as a folder that other programs load.

Decides on which texts the export is checked and how the result is told. What is written, and whether it computes the
policy, is decided by `ratchet_jobs.export`. Nothing is fetched but the version's own files, from its own store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratchet_api.attempts import Artifact
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.export_kserve import Asked, export_for_kserve
from ratchet_cli.held_out import rows_of
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.screen import say
from ratchet_cli.texts import Source, TextColumn, read_source
from ratchet_cli.trained import unpacked
from ratchet_cli.versions import VERSION_HELP, BaseFolder, Place, Version, find_version

if TYPE_CHECKING:
    from ratchet_jobs.export.record import ExportRecord, Layout

CHECKED_TEXTS = 64
"""Enough to meet long and short ones; the check costs two passes over them."""

LAYOUT_HELP = (
    "merged = sentence-transformers and transformers; lora = PEFT adapter and head; onnx = one graph for ONNX Runtime; "
    "semantic-router = vLLM Semantic Router; kserve = for KServe, with its InferenceService."
)
KSERVE = "kserve"


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
    storage_uri: Annotated[
        str | None,
        typer.Option(
            "--storage-uri",
            help="With --format kserve: where KServe reads the model. If omitted, where the version was committed.",
            metavar="URI",
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            help="With --format kserve, of a classifier: image of its policy server. If omitted, this release's.",
            metavar="IMAGE",
        ),
    ] = None,
    base: BaseFolder = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Write a trained version as a folder for other programs, checked to compute the same."""
    from ratchet_jobs.export.record import LAYOUTS

    _check_options(layout, (*LAYOUTS, KSERVE), data, {"--storage-uri": storage_uri, "--image": image})
    found = find_version(version, Place(namespace, local, context, home))
    if layout == KSERVE:
        export_for_kserve(found, Asked(target, force, storage_uri, image, base), as_json=as_json)
        return
    known = next(each for each in LAYOUTS if each == layout)
    _tell(_checked(found, known, target, force, base, (data, column)), target, as_json=as_json)


def _checked(
    found: Version, layout: Layout, target: Path, force: bool, base: Path | None, source: tuple[Path | None, str]
) -> ExportRecord:
    """Write a classifier's folder, compared with the policy on texts."""
    with unpacked(found, base=base) as folders:
        from ratchet_jobs.data.policy_folder import folder_digest
        from ratchet_jobs.export.exporting import Provenance, export_policy
        from ratchet_jobs.export.writing import check_target

        check_target(target, force=force)
        texts, which = _texts(found, *source)
        digest = found.files.digest if isinstance(found.files, Artifact) else folder_digest(folders.policy)
        return export_policy(
            folders.policy,
            folders.base,
            layout=layout,
            target=target,
            force=force,
            texts=texts,
            which=which,
            provenance=Provenance(found.title, digest, found.snapshot),
        )


def _check_options(layout: str, known: Sequence[str], data: Path | None, only_kserve: Mapping[str, str | None]) -> None:
    if layout not in known:
        raise UsageProblem(f"--format {layout!r} is unknown; use one of {', '.join(known)}")
    if layout == KSERVE and data is not None:
        raise UsageProblem(f"--data {data} is not for --format kserve, which copies what was committed; drop it")
    for name, given in only_kserve.items():
        if layout != KSERVE and given is not None:
            raise UsageProblem(f"{name} is only for --format kserve, not {layout}; drop it")
        if given is not None and not given.strip():
            raise UsageProblem(f"{name} is empty; drop it, or say which")


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
