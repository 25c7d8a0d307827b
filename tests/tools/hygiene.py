"""What may never be in this repository, as small pure checks over its files.

Each check takes the files and returns findings, each naming the file, what was seen and the remedy; an empty
list means clean. `tests/unit/test_repository.py` runs all of them on the work tree and shows each one failing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from tests.tools.files import SOURCE_ROOTS, RepoFile

Check = Callable[[Sequence[RepoFile]], list[str]]

MAX_BYTES = 1_000_000
MAX_PYTHON_LINES = 600

# Character classes keep these patterns from matching their own source.
_PATTERNS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "package index": (
        re.compile(
            r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs|proxy[.]golang[.]org|sum[.]golang[.]org"
            r"|deb[.]debian[.]org|(?<![\w-])--(?:extra-)?index-url[ =]\S|(?<![\w-])--find-link[s][ =]\S"
        ),
        "the machine's own client settings say where packages come from",
    ),
    "machine path": (
        re.compile(r"(?<![\w.$}~-])/(?:work|root|opt/wheels)/[\w.]"),
        "use a path relative to the repository, or an environment variable",
    ),
    "credential": (
        re.compile(r"-----BEGI[N] [A-Z ]*PRIVATE KEY-----|AKI[A][0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}"),
        "generate it where it is needed",
    ),
    "unfinished work": (
        re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X])\b"),
        "finish it, or describe the limit in docs/critiques.md",
    ),
}


def forbidden_text(files: Iterable[RepoFile]) -> list[str]:
    """Find index addresses, machine paths, credentials and marks of unfinished work."""
    findings = []
    for file in files:
        for number, line in enumerate(file.text.splitlines(), 1):
            for what, (pattern, remedy) in _PATTERNS.items():
                if match := pattern.search(line):
                    findings.append(f"{file.path}:{number}: {what} {match.group(0)!r}; {remedy}")
    return findings


def too_large(files: Iterable[RepoFile]) -> list[str]:
    """Find files above 1 MB: data and weights are downloaded and generated output is generated."""
    return [
        f"{file.path}: {len(file.data):,} bytes, at most {MAX_BYTES:,} may be committed; download or generate it"
        for file in files
        if len(file.data) > MAX_BYTES
    ]


def too_long(files: Iterable[RepoFile]) -> list[str]:
    """Find Python files that should have been split."""
    return [
        f"{file.path}: {lines} lines, at most {MAX_PYTHON_LINES}; split it by what it decides"
        for file in files
        if file.path.endswith(".py") and (lines := file.text.count("\n")) > MAX_PYTHON_LINES
    ]


def shadowed_stdlib(files: Iterable[RepoFile]) -> list[str]:
    """Find an __init__.py that turns a source root into a package; operator/ would shadow the standard library."""
    return [
        f"{file.path}: makes the source root a package"
        + (" that shadows a standard module" if file.path.split("/")[0] in sys.stdlib_module_names else "")
        + "; delete it"
        for file in files
        if file.path.count("/") == 1 and file.path.endswith("/__init__.py") and file.path.split("/")[0] in SOURCE_ROOTS
    ]


def stray_tests(files: Iterable[RepoFile], tiers: Sequence[str]) -> list[str]:
    """Find test files outside the tiers that `make test` runs: they would never run."""
    return [
        f"{file.path}: no tier runs it; move it into one of tests/{{{','.join(tiers)}}}"
        for file in files
        if re.search(r"(^|/)(test_[^/]*|[^/]*_test)\.py$", file.path)
        and not any(file.path.startswith(f"tests/{tier}/") for tier in tiers)
    ]


def unpinned(files: Iterable[RepoFile]) -> list[str]:
    """Find pins without a hash and direct URLs in the lock."""
    lock = next((file.text for file in files if file.path == "constraints.txt"), None)
    if lock is None:
        return ["constraints.txt: missing; run 'make lock'"]
    findings = []
    for block in re.split(r"\n(?=[a-z0-9])", lock.strip()):
        name = block.split("\n", 1)[0].rstrip(" \\")
        if not re.match(r"[a-z0-9][a-z0-9._-]*==\S+", name):
            findings.append(f"constraints.txt: {name!r} is not an exact version; run 'make lock'")
        if "--hash=sha256:" not in block:
            findings.append(f"constraints.txt: {name!r} has no hash; run 'make lock'")
    return findings
