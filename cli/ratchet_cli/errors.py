"""What a verb raises when it cannot do what was asked; `main` prints it without a traceback and sets the exit code.

CliError
├── UsageProblem   2: the command line itself is wrong
├── NotFound       4: the object, version or file that was named does not exist
└── Interrupted  130: stopped by Ctrl-C after everything was saved
"""

from __future__ import annotations


class CliError(Exception):
    """A problem that the user can mend; the text names object, field, value and remedy."""

    exit_code = 1


class UsageProblem(CliError):
    """The command line is wrong."""

    exit_code = 2


class NotFound(CliError):
    """What was named does not exist."""

    exit_code = 4


class Interrupted(CliError):
    """Stopped by the user; the text says how to go on."""

    exit_code = 130
