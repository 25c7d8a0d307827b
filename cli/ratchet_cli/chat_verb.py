"""`ratchet chat`: talk to a trained generator, on this machine or by a server's address.

Decides how a conversation looks and when it ends. The answers are those of the merged model that the version's evaluate
stage committed, worded by the template it was trained with; with --url a server gives them (`talking`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.screen import err, say
from ratchet_cli.talking import server_at
from ratchet_cli.trained import explained, policy_folder
from ratchet_cli.versions import VERSION_HELP, Place, Version, find_version

if TYPE_CHECKING:
    from ratchet_jobs.data.turns import Turn
    from ratchet_jobs.generators.serving import Talker

    Answer = Callable[[list[Turn]], Iterator[str]]

Prompt = Annotated[
    str | None, typer.Option("-p", "--prompt", help="Ask this once, print the answer and leave; - = standard input.")
]
System = Annotated[str | None, typer.Option("--system", help="What the policy is told before the conversation.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0,
        max=10,
        help="0 = always the likeliest token; more = more chance. If omitted, 0; of a server, as it has it.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Of the answers, with a temperature.")]
Url = Annotated[str | None, typer.Option("--url", help="Ask the server at this address; no files are read.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        max=8192,
        help="An answer is cut after these. If omitted, 128; of a server, as it has it.",
    ),
]
DEFAULT_TOKENS = 128
"""Of an answer on this machine."""


def chat(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    prompt: Prompt = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = 0,
    url: Url = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Talk to a trained generator; an empty line or Ctrl-D ends the conversation."""
    for name, text in (("--prompt", prompt), ("--system", system)):
        if text is not None and not text.strip():
            raise UsageProblem(f"{name} is empty; give it some words, or leave it out")
    if url is not None:
        with server_at(url, model=version) as server:

            def told(turns: list[Turn]) -> Iterator[str]:
                return server.answer(turns, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)

            _talk(told, prompt, system, title=f"{version} at {url}")
        return
    found = find_version(version, Place(namespace, local, context, home))
    with explained(found.title), tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        talker = _open(found, Path(scratch), seed=seed)

        def answer(turns: list[Turn]) -> Iterator[str]:
            yield talker.answer(turns, max_new_tokens=max_new_tokens or DEFAULT_TOKENS, temperature=temperature or 0.0)

        _talk(answer, prompt, system, title=found.title)


def _talk(answer: Answer, prompt: str | None, system: str | None, *, title: str) -> None:
    """Ask once, or converse."""
    if prompt is None:
        _converse(answer, system, title=title)
        return
    asked = sys.stdin.read() if prompt == "-" else prompt
    if not asked.strip():
        raise UsageProblem("--prompt -: standard input is empty; give it some words")
    _say(answer(_begin(system, asked)))


def _say(pieces: Iterator[str]) -> str:
    """Show an answer as it comes; return it."""
    told = []
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        told.append(piece)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(told)


def _open(version: Version, scratch: Path, *, seed: int) -> Talker:
    from ratchet_jobs.generators.serving import open_talker

    return open_talker(policy_folder(version, scratch), seed=seed)


def _begin(system: str | None, said: str | None) -> list[Turn]:
    from ratchet_jobs.data.turns import Turn

    turns = [Turn("system", system)] if system is not None else []
    return turns if said is None else [*turns, Turn("user", said.strip())]


def _converse(answer: Answer, system: str | None, *, title: str) -> None:
    """Ask and answer until nothing more is said; what does not fit the context ends it with the reason."""
    from ratchet_jobs.data.turns import Turn
    from ratchet_jobs.runtime.errors import StageError

    if err.is_terminal:
        say(f"{title}: an empty line ends the conversation", style="faint")
    turns = _begin(system, None)
    while said := _asked():
        turns.append(Turn("user", said))
        try:
            told = _say(answer(turns))
        except StageError as error:
            raise CliError(f"{title}: {error}") from error
        turns.append(Turn("assistant", told))


def _asked() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
