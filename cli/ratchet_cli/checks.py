"""Verbs that need neither cluster nor state: `lint`, `explain`, `digest`."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ratchet_api.conditions import REASONS, Reason
from ratchet_api.stage import ExitCode, Retry, exit_rule
from ratchet_cli.errors import CliError, NotFound
from ratchet_cli.manifests import BadManifests, load
from ratchet_cli.options import Files
from ratchet_cli.screen import complain, out, say


def lint(files: Files) -> None:
    """Check manifests offline: every finding with file, object, field, value and remedy. Exit 1 if there is one."""
    try:
        good = load(files)
    except BadManifests as error:
        for finding in error.findings:
            complain(str(finding))
        count = len(error.findings)
        raise CliError(f"{count} finding{'s' if count != 1 else ''}; nothing was submitted") from None
    kinds = Counter(each.kind.kind for each in good)
    say("ok: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()), style="good")


def explain(
    reason: Annotated[str | None, typer.Argument(help="A reason, as in a condition or event, or an exit code.")] = None,
) -> None:
    """Say what a reason or an exit code means and what to do next; without one, list them all."""
    if reason is None:
        for each, info in REASONS.items():
            out.print(f"[name]{each.value:26}[/] {escape(info.meaning)}")
        return
    if reason.isdecimal():
        _explain_code(int(reason))
        return
    known = {each.value.lower(): each for each in Reason}
    found = known.get(reason.lower())
    if found is None:
        near = difflib.get_close_matches(reason.lower(), known, 3, 0.5)
        hint = (
            f"did you mean {', '.join(known[n].value for n in near)}?" if near else "`ratchet explain` lists them all"
        )
        raise NotFound(f"reason {reason!r} is none of Ratchet's; {hint}")
    _print_reason(found)


def _print_reason(reason: Reason) -> None:
    info = REASONS[reason]
    out.print(f"[name]{reason.value}[/]")
    out.print(f"  means  {escape(info.meaning)}", soft_wrap=True)
    out.print(f"  next   {escape(info.remedy)}", soft_wrap=True)
    codes = [code for code in ExitCode if code and exit_rule(code).reason == reason]
    if codes:
        out.print(f"  exits  {', '.join(str(int(code)) for code in codes)}, {_RETRIES[exit_rule(codes[0]).retry]}")


def _explain_code(code: int) -> None:
    if not 0 <= code <= 255:
        raise NotFound(f"exit code {code} cannot be; codes are 0 to 255")
    if code == 0:
        out.print("[name]0[/]\n  means  The stage is committed, or an earlier commit of it was found.")
        return
    _print_reason(exit_rule(code).reason)


_RETRIES = {
    Retry.NEVER: "never tried again",
    Retry.COUNTED: "tried again, counted against backoffLimit",
    Retry.OTHER_NODE: "tried again on another node, counted against backoffLimit",
    Retry.UNCOUNTED: "tried again, not counted",
    Retry.ONCE: "tried once more",
    Retry.LIMITED: "tried again at most twice",
}


def digest(
    folder: Annotated[Path, typer.Argument(help="Folder with config.json, tokenizer.json and *.safetensors.")],
) -> None:
    """Print the sha256 that spec.baseModel wants for a model folder."""
    from ratchet_cli.storage import folder_digest

    out.print(folder_digest(folder), style="")
