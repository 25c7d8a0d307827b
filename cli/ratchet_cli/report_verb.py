"""`ratchet report`: the page that the evaluate stage wrote about a run or a version.

Decides where the page is put when it does not lie on this machine; its content is the stage's. What comes out of a
store is compared with the digest that the stage committed before a browser gets to see it.
"""

from __future__ import annotations

import hashlib
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ratchet_api.attempts import Artifact
from ratchet_cli.errors import CliError, NotFound, UsageProblem
from ratchet_cli.home import cache_dir
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.results import PAGE_FILE, local_path
from ratchet_cli.screen import err
from ratchet_cli.versions import VERSION_HELP, Place, Version, find_version
from ratchet_jobs.runtime.commit import COMMIT_FILE, erased_files, find_commit
from ratchet_jobs.runtime.errors import StageError, StoreNotFound
from ratchet_jobs.runtime.store import open_store

PATIENCE_SECONDS = 20.0
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
    if isinstance(version.files, Path):
        if (page := local_report(version)) is None:
            raise NotFound(_missing(version, str(version.files)))
        return page
    artifact = version.files
    try:
        data = _fetched(version, artifact)
    except ImportError as error:
        raise CliError(f"an S3 store needs the package {error.name}; install ratchet[jobs]") from error
    except StageError as error:
        raise CliError(f"{version.title}: {error}") from error
    if (page := local_report(version)) is not None:
        return page
    kept = cache_dir() / "reports" / f"{artifact.digest}.html"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    return kept


def _fetched(version: Version, artifact: Artifact) -> bytes:
    """Read the page out of the store, checked against the commit and that against the digest that the object names."""
    store = open_store(version.store, patience_seconds=PATIENCE_SECONDS)
    directory = artifact.uri.removeprefix(f"{store.uri}/")
    prefix = directory.rpartition("/")[0]
    commit = find_commit(store, prefix=prefix, namespace=version.namespace, input_digest=None)
    if commit is None or commit.digest != artifact.digest:
        raise CliError(
            f"{version.title}: {store.uri}/{prefix}/{COMMIT_FILE} is not the one of digest {artifact.digest[:12]}…; "
            "restore the store, or make a new run"
        )
    wanted = next((file.sha256 for file in commit.files if file.path == PAGE_FILE), None)
    if wanted is None:
        raise NotFound(_missing(version, artifact.uri))
    try:
        data = store.read(f"{directory}/{PAGE_FILE}")
    except StoreNotFound as error:
        raise NotFound(_missing(version, artifact.uri)) from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != wanted and seen != erased_files(store, directory).now.get(PAGE_FILE):
        raise CliError(f"{version.title}: {artifact.uri}/{PAGE_FILE} was changed after it was committed; restore it")
    return data


def _missing(version: Version, where: str) -> str:
    return f"{version.title}: no {PAGE_FILE} in {where}; evaluate it again by a new run"


def _copied(page: Path, target: Path) -> Path:
    try:
        target.write_bytes(page.read_bytes())
    except OSError as error:
        raise CliError(f"--output {target}: {error.strerror or error}; name another file") from error
    return target
