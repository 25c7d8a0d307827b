"""`ratchet` (also `kubectl-ratchet`): the verbs in one list, and what happens when one fails.

Decides exit codes and that users never meet a traceback, unless RATCHET_LOG_LEVEL=debug asks for it.

Exit codes: 0 done; 1 refused or failed; 2 wrong command line; 4 not found; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ratchet_api import __version__
from ratchet_cli import (
    chat_verb,
    checks,
    compare_verb,
    convert_verb,
    erase_verb,
    evaluate_verb,
    export_verb,
    feedback_verbs,
    gguf_verb,
    objects,
    predict_verb,
    report_verb,
    rollout_verbs,
    samples_verb,
    serve_verb,
)
from ratchet_cli.errors import CliError, Interrupted
from ratchet_cli.screen import complain, err, say

commands = typer.Typer(
    name="ratchet",
    help="Turn human feedback into better policies: on this machine, or on Kubernetes.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"ratchet {__version__}")
        raise typer.Exit


@commands.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Turn human feedback into better policies: on this machine, or on Kubernetes."""


def _lazy_run() -> dict[str, Callable[..., Any]]:
    from ratchet_cli import demo_verb, run_verb, storage, up_verb

    return {"run": run_verb.run, "up": up_verb.up, "demo": demo_verb.demo, "put": storage.put}


_PANELS: dict[str, dict[str, Callable[..., Any]]] = {
    "On this machine": _lazy_run(),
    "Objects, here (--local) or in a cluster": {
        "submit": objects.submit,
        "get": objects.get,
        "status": objects.status,
        "watch": objects.watch,
        "logs": objects.logs,
        "suspend": objects.suspend,
        "resume": rollout_verbs.resume,
        "delete": objects.delete,
    },
    "What people get": {
        "promote": rollout_verbs.promote,
        "pause": rollout_verbs.pause,
        "abort": rollout_verbs.abort,
        "undo": rollout_verbs.undo,
        "why": rollout_verbs.why,
        "history": rollout_verbs.history,
    },
    "Trained versions": {
        "predict": predict_verb.predict,
        "chat": chat_verb.chat,
        "evaluate": evaluate_verb.evaluate,
        "compare": compare_verb.compare,
        "report": report_verb.report,
        "serve": serve_verb.serve,
        "export": export_verb.export,
    },
    "Without either": {
        "lint": checks.lint,
        "convert": convert_verb.convert_config,
        "explain": checks.explain,
        "digest": checks.digest,
        "gguf": gguf_verb.gguf,
    },
}

for _panel, _verbs in _PANELS.items():
    for _name, _function in _verbs.items():
        commands.command(_name, rich_help_panel=_panel)(_function)
feedback_verbs.verbs.command("samples")(samples_verb.samples)
feedback_verbs.verbs.command("erase")(erase_verb.erase)
commands.add_typer(feedback_verbs.verbs, name="feedback", rich_help_panel="Through a gateway")


def app() -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; return its exit code. Every failure is one readable message on standard error."""
    try:
        code = commands(args=arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0  # what a verb's typer.Exit says is returned, not raised
    except typer.TyperException as error:
        if message := error.format_message():  # empty when no verb was given: help is on the screen already
            complain(f"{message.rstrip('.')}; see `ratchet --help`")
        return error.exit_code
    except Interrupted as error:
        say(str(error), style="idle")
        return error.exit_code
    except CliError as error:
        complain(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the outermost loop: a defect of ours, said in one line unless asked for more
        if os.environ.get("RATCHET_LOG_LEVEL", "").lower() == "debug":
            err.print_exception()
        complain(f"{type(error).__name__}: {error} (a defect of ratchet; RATCHET_LOG_LEVEL=debug shows where)")
        return 1
