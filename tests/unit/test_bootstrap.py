"""scripts/bootstrap.sh says what is wrong before it changes anything, and does nothing when nothing changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.files import ROOT

PYPROJECT = (
    '[project.optional-dependencies]\njobs = [\n  "a", # x\n]\ncli = [\n  "b",\n]\n\n[project.scripts]\nx = ["y"]\n'
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A scratch project with the real script and two extras."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "bootstrap.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text("uv==0.0.1 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via x\na==1\n")
    (tmp_path / "bin").mkdir()
    return tmp_path


def command(project: Path, name: str, script: str) -> Path:
    """Put a fake command first on the script's PATH."""
    path = project / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def bootstrap(project: Path, *extras: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [project / "scripts" / "bootstrap.sh", *extras],
        env={"PATH": path, "HOME": str(project), "PYTHON": sys.executable} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_unknown_extra_is_refused_with_the_list(project: Path) -> None:
    done = bootstrap(project, "jobs,gpu")
    assert done.returncode == 1
    assert "unknown extra in 'jobs,gpu'; pyproject.toml declares: jobs,cli" in done.stderr


def test_an_old_python_is_refused_by_version(project: Path) -> None:
    old = command(project, "old-python", '[ "$1" = -V ] && echo Python 3.9.2 && exit 0; exit 1')
    done = bootstrap(project, "cli", PYTHON=str(old))
    assert done.returncode == 1
    assert "Python 3.9.2 is too old: ratchet needs Python 3.11 or newer" in done.stderr


def test_a_missing_python_is_named(project: Path) -> None:
    done = bootstrap(project, "cli", PYTHON="python9")
    assert done.returncode == 1
    assert "no python9 found" in done.stderr


def test_a_full_disk_is_told_before_anything_is_written(project: Path) -> None:
    command(project, "df", "echo head; echo x x x 8000 x x")
    done = bootstrap(project, "jobs,cli")
    assert done.returncode == 1
    assert "8000 MiB free" in done.stderr
    assert "extras 'cli,jobs' need 9000 MiB" in done.stderr
    assert not (project / ".venv").exists()


def stamp(project: Path, extras: str) -> None:
    """Pretend that an environment with these extras is up to date."""
    venv = project / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    content = (project / "pyproject.toml").read_bytes() + (project / "constraints.txt").read_bytes()
    (venv / ".ratchet-stamp").write_text(f"{hashlib.sha256(content).hexdigest()} {extras}\n")


@pytest.mark.parametrize("wanted", ["jobs,cli", "all", "cli"])
def test_an_environment_that_is_up_to_date_is_left_alone(project: Path, wanted: str) -> None:
    stamp(project, "cli,jobs")
    done = bootstrap(project, wanted, PYTHON="python9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_changed_lock_or_a_missing_extra_is_installed(project: Path) -> None:
    stamp(project, "cli")
    assert "no python9 found" in bootstrap(project, "all", PYTHON="python9").stderr
    assert bootstrap(project, "cli", PYTHON="python9").returncode == 0
    with (project / "constraints.txt").open("a") as lock:
        lock.write("b==2\n")
    assert "no python9 found" in bootstrap(project, "cli", PYTHON="python9").stderr


@pytest.mark.slow
def test_without_a_package_index_the_message_says_so(project: Path) -> None:
    nowhere = "http" + "://127.0.0.1:9/simple"
    done = bootstrap(project, "cli", PIP_INDEX_URL=nowhere, PIP_RETRIES="0", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 1
    assert "the package index cannot be reached; this step needs network access once" in done.stderr
    assert not (project / ".venv" / ".ratchet-stamp").exists()
