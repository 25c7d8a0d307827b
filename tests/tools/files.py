"""The files that belong to the repository: tracked ones and new ones that git does not ignore.

Decides what the hygiene checks look at. Never reads ignored files, so a virtual environment or a training
run beside the sources is invisible. Called by `hygiene.py` and its tests.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("api", "operator", "jobs", "web", "gateway", "serving", "cli")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file: path relative to the repository root, and its bytes."""

    path: str
    data: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """Content as text; binary files give an empty string, since the text checks do not concern them."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return ""

    @property
    def is_product(self) -> bool:
        """True for code that users run, as opposed to tests, benches and scripts."""
        return self.path.endswith(".py") and self.path.split("/", 1)[0] in SOURCE_ROOTS


def repository_files(root: Path = ROOT) -> list[RepoFile]:
    """List tracked and untracked, not ignored files that exist, sorted by path.

    Raises:
        RuntimeError: `root` is not a git work tree, so what belongs to it cannot be told.
    """
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        raise RuntimeError(f"{root} is not a git work tree ({listing.stderr.decode().strip()}); clone the repository")
    names = sorted({name for name in listing.stdout.decode().split("\0") if name})
    paths = [root / name for name in names]
    return [
        RepoFile(name, path.read_bytes())
        for name, path in zip(names, paths, strict=True)
        if path.is_file() and not path.is_symlink()
    ]
