"""`ratchet gguf`: a GGUF file as the folder of a base model.

Decides nothing of the conversion, `ratchet_jobs.models.gguf` does, and fetches nothing: the file is on this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ratchet_cli.screen import err, out
from ratchet_cli.trained import explained


def gguf(
    file: Annotated[Path, typer.Argument(help="A GGUF file with weights and tokenizer.", metavar="FILE")],
    target: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.", metavar="DIR")],
) -> None:
    """Make a base model's folder of a GGUF file, in float32, and print the sha256 that spec.baseModel wants."""
    with explained("gguf"):
        from ratchet_jobs.models.gguf import convert_gguf

        digest = convert_gguf(file, target)
    err.print(escape(f"{target}: `ratchet put {target} store://models/NAME` takes it to the store"), soft_wrap=True)
    out.print(digest, style="")
