"""`ratchet report`: the page that the evaluate stage wrote about a run or a version.

Decides where the page is put when it does not lie on this machine; its content is the stage's.
"""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ratchet_api.attempts import Artifact
from ratchet_cli.committed import read_committed
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.home import cache_dir
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.results import PAGE_FILE, local_path
from ratchet_cli.screen import err
from ratchet_cli.versions import VERSION_HELP, Place, Version, find_version

Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Copy it to this file, which must end in .html.", metavar="FILE")
]


def report(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    output: Output = None,
    show: Open = False,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Find the report of a run or version: learning curves, calibration, confusion, gates, comparison."""
    if output is not None and (output.suffix.lower() != ".html" or output.is_dir()):
        raise UsageProblem(f"--output {output}: name a file that ends in .html")
    found = find_version(version, Place(namespace, local, context, home))
    page = page_of(found)
    if output is not None:
        page = _copied(page, output)
    sys.stdout.write(f"{page}\n")
    if show and not webbrowser.open(page.absolute().as_uri()):
        err.print(escape(f"no browser could be started; open {page} yourself"), style="idle", soft_wrap=True)


def local_report(version: Version) -> Path | None:
    """Return the page of a version whose files lie on this machine, if there is one."""
    files = version.files
    folder = local_path(files.uri) if isinstance(files, Artifact) else files
    return folder / PAGE_FILE if folder is not None and (folder / PAGE_FILE).is_file() else None


def page_of(version: Version) -> Path:
    """Return the version's page; one from a store elsewhere is fetched into the cache.

    Raises:
        NotFound: it has none.
        CliError: the store fails, or has another page than was committed.
    """
    data = read_committed(version, PAGE_FILE)
    if (page := local_report(version)) is not None:
        return page
    assert isinstance(version.files, Artifact)
    kept = cache_dir() / "reports" / f"{version.files.digest}.html"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    return kept


def _copied(page: Path, target: Path) -> Path:
    try:
        target.write_bytes(page.read_bytes())
    except OSError as error:
        raise CliError(f"--output {target}: {error.strerror or error}; name another file") from error
    return target
