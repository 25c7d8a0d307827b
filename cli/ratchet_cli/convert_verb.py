"""`ratchet convert`: a router's config.yaml as manifests that `ratchet lint` accepts.

Decides how files are read and written and how the result is told; what becomes what is decided by `conversion`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from ruamel.yaml import YAML

from ratchet_cli.conversion import BLOCK, Conversion, Wanted, convert
from ratchet_cli.conversion_settings import Note
from ratchet_cli.errors import CliError, NotFound, UsageProblem
from ratchet_cli.kubeyaml import ManifestSyntaxError, load_documents
from ratchet_cli.manifests import check
from ratchet_cli.screen import err, say

FILES = {"FeedbackDataset": "dataset.yaml", "RLTrainingRun": "run.yaml"}


def convert_config(
    config: Annotated[Path, typer.Argument(help="The router's config.yaml.", metavar="FILE")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for dataset.yaml and run.yaml. If omitted, they are printed."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace these files.")] = False,
    name: Annotated[str, typer.Option("--name", help="Of the objects that are made.")] = "router-classifier",
    base_model: Annotated[str | None, typer.Option("--base-model", help="URI of the base model's folder.")] = None,
    base_sha256: Annotated[
        str | None, typer.Option("--base-sha256", help="What `ratchet digest FOLDER` prints for it.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="URI of the rows, as in store://PATH.")] = None,
    text: Annotated[str, typer.Option("--text-column", help="Column of the text.")] = "text",
    label: Annotated[str, typer.Option("--label-column", help="Column of the label.")] = "label",
) -> None:
    """Turn a classifier.rl_training block into manifests, and name every setting that has no place in them."""
    result = _read(config, Wanted(name, base_model, base_sha256, data, text, label))
    for note in result.unmapped:
        _remark("not mapped", note)
    if not result.manifests:
        raise CliError(f"{config}: no {BLOCK} block; nothing to convert" + _count(result))
    for body in result.manifests:
        check("ratchet convert", body)
    if output is None:
        sys.stdout.write("---\n".join(to_yaml(body) for body in result.manifests))
    else:
        _write(result, output, force=force)
    for note in result.to_set:
        _remark("to set", note)


def _read(config: Path, wanted: Wanted) -> Conversion:
    try:
        documents = load_documents(config.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{config} does not exist; give the router's config.yaml") from error
    except (OSError, UnicodeDecodeError, ManifestSyntaxError) as error:
        raise CliError(f"{config}: cannot be read: {error}") from error
    if len(documents) != 1:
        raise CliError(f"{config}: holds {len(documents)} documents; give a file with one")
    try:
        return convert(documents[0], wanted)
    except ValueError as error:
        raise CliError(f"{config}: {error}") from error


def _remark(kind: str, note: Note) -> None:
    err.print(f"[idle]{kind}:[/] {escape(str(note))}", soft_wrap=True)


def _count(result: Conversion) -> str:
    if not result.unmapped:
        return ""
    one = len(result.unmapped) == 1
    return f", and {'1 setting has' if one else f'{len(result.unmapped)} settings have'} no place in any manifest"


def to_yaml(body: dict[str, Any]) -> str:
    """Return a manifest as people write one."""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(body, text)
    return text.getvalue()


def _write(result: Conversion, output: Path, *, force: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UsageProblem(f"--output {output} is no folder; name one")
    paths = [output / FILES[body["kind"]] for body in result.manifests]
    there = [path.name for path in paths if path.exists()]
    if there and not force:
        raise CliError(f"--output {output}: {', '.join(there)} exists; name another folder, or replace with --force")
    output.mkdir(parents=True, exist_ok=True)
    for path, body in zip(paths, result.manifests, strict=True):
        path.write_text(to_yaml(body), encoding="utf-8")
        say(f"{path}", style="good")
