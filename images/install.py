"""Fill an image's directories: third-party packages into one, our wheel into another.

Both ways of building an image run this file with the same arguments: the Containerfiles beside it, and the test
lab, which makes the same layers on the host because a registry or a second copy of several GB would cost minutes.
Standard library only, since it runs in the bare base image. It never runs in a finished image.

    install.py deps --extra jobs --to /out --warm torch,transformers
    install.py app --wheels dist --script ratchet-stage --to /out
"""

from __future__ import annotations

import argparse
import compileall
import configparser
import fnmatch
import os
import py_compile
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PREFIX = Path("opt/ratchet")
PYTHON_VERSION = "3.11"  # of both base images; wheels are chosen for it whatever runs this file
_EPOCH = 1_600_000_000  # one time for all of our files, so that equal wheels make equal layers
_SOURCE = Path(__file__).resolve().parent.parent


class InstallError(SystemExit):
    """Ends the program with a message that names the object and the remedy."""


def install_dependencies(extra: str, to: Path, *, warm: list[str], prune: Path | None, uv: Path | None) -> None:
    """Install one extra of pyproject.toml, each package checked against the hashes in constraints.txt."""
    target = to / PREFIX / "deps"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        program = uv or _pinned_uv(Path(scratch))
        command = [str(program), "pip", "install", "--quiet", "--only-binary", ":all:", "--python", sys.executable]
        command += ["--python-version", PYTHON_VERSION, "--target", str(target)]
        command += ["-r", str(_SOURCE / "pyproject.toml"), "--extra", extra, "-c", str(_SOURCE / "constraints.txt")]
        subprocess.run(command, check=True)
    (target / ".lock").unlink(missing_ok=True)
    if prune is not None:
        _prune(target, prune)
    if warm:
        _warm(target, warm)


def _pinned_uv(scratch: Path) -> Path:
    """Install the uv that constraints.txt pins into a throw-away environment."""
    block, taking = [], False
    for line in (_SOURCE / "constraints.txt").read_text().splitlines():
        taking = line.startswith("uv==") or (taking and line.startswith(" "))
        if taking:
            block.append(line)
    if not block:
        raise InstallError("constraints.txt does not pin uv; run `make lock`")
    requirements = scratch / "uv.txt"
    requirements.write_text("\n".join(line for line in block if not line.lstrip().startswith("#")).rstrip("\\ ") + "\n")
    subprocess.run([sys.executable, "-m", "venv", str(scratch / "uv")], check=True)
    python = scratch / "uv/bin/python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", str(requirements)],
        check=True,
    )
    return scratch / "uv/bin/uv"


def _prune(target: Path, listing: Path) -> None:
    """Remove the files that the listing's patterns name (relative paths, `*` also matches `/`, `#` comments).

    A pattern that matches nothing is an error: the listing has fallen behind the packages.
    """
    patterns = [line.split("#")[0].strip() for line in listing.read_text().splitlines()]
    patterns = [pattern for pattern in patterns if pattern]
    unused = set(patterns)
    for directory, _, names in os.walk(target):
        for name in names:
            path = Path(directory) / name
            relative = str(path.relative_to(target))
            hits = {pattern for pattern in patterns if fnmatch.fnmatchcase(relative, pattern)}
            unused -= hits
            if hits:
                path.unlink()
    # An empty directory would still be importable, as a namespace package.
    for directory, _, _ in sorted(os.walk(target), reverse=True):
        if not os.listdir(directory):
            os.rmdir(directory)
    if unused:
        raise InstallError(f"{listing}: no file matches {sorted(unused)}; remove or correct these lines")


def _warm(target: Path, modules: list[str]) -> None:
    """Import the modules once: proves that they load, and leaves compiled files for a read-only image.

    Only what is really imported gets compiled: compiling everything takes minutes and a third more space.
    """
    if sys.version_info[:2] != tuple(int(part) for part in PYTHON_VERSION.split(".")):
        return  # compiled files of another Python would be dead weight
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(
        [sys.executable, "-c", program, *modules], check=True, env={**env, "PYTHONPATH": str(target)}, cwd="/"
    )


def install_app(wheels: Path, to: Path, *, scripts: list[str]) -> None:
    """Unpack our wheel and write the named console scripts."""
    found = sorted(wheels.glob("ratchet-*.whl"))
    if len(found) != 1:
        raise InstallError(f"expected one ratchet wheel in {wheels}, found {[path.name for path in found]}")
    target = to / PREFIX / "app"
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(found[0]) as wheel:
        names = wheel.namelist()
        if any(name.startswith("/") or ".." in Path(name).parts for name in names):
            raise InstallError(f"{found[0].name} holds a path outside its own directory")
        wheel.extractall(target)
        points = configparser.ConfigParser()
        points.optionxform = str  # type: ignore[assignment,method-assign]  # entry point names keep their case
        points.read_string(wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode())
    # Unchecked by time: the files never change, and every build yields the same bytes.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(target, quiet=1, invalidation_mode=mode, stripdir=str(to), prependdir="/"):
        raise InstallError(f"{found[0].name} holds a file that does not compile")
    (target / "bin").mkdir(exist_ok=True)
    for script in scripts:
        module, function = points["console_scripts"][script].split(":")
        launcher = target / "bin" / script
        launcher.write_text(
            f"#!/usr/bin/env python3\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        )
    _settle_files(to)


def _settle_files(to: Path) -> None:
    """Give everything one owner-independent mode and one time."""
    for directory, names, files in os.walk(to):
        for name in [*names, *files]:
            path = Path(directory) / name
            executable = path.is_dir() or path.parent.name == "bin"
            path.chmod(0o755 if executable else 0o644)
            os.utime(path, (_EPOCH, _EPOCH))


def main() -> None:
    """Parse arguments and run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    deps = steps.add_parser("deps", help="third-party packages of one extra")
    deps.add_argument("--extra", required=True)
    deps.add_argument("--warm", default="", help="modules to import once, comma separated")
    deps.add_argument("--prune", default="", help="file with patterns of files to leave out")
    deps.add_argument(
        "--uv", type=Path, default=None, help="uv to use; default: the pinned one, installed for the purpose"
    )
    app = steps.add_parser("app", help="our own wheel and its console scripts")
    app.add_argument("--wheels", type=Path, required=True, help="directory that holds exactly one ratchet wheel")
    app.add_argument(
        "--script", action="append", default=[], help="console script to write; may be given more than once"
    )
    for step in (deps, app):
        step.add_argument("--to", type=Path, required=True, help="directory that becomes / of the image")
    args = parser.parse_args()
    if args.step == "deps":
        warm = [name for name in args.warm.split(",") if name]
        prune = Path(args.prune) if args.prune else None
        install_dependencies(args.extra, args.to, warm=warm, prune=prune, uv=args.uv)
    else:
        install_app(args.wheels, args.to, scripts=args.script)


if __name__ == "__main__":
    main()
