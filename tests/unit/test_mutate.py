"""The runner behind `make mutate`: it tells a noticed break from an unnoticed one and from a row that tests nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools.files import ROOT

SCRIPT = ROOT / "scripts" / "mutate.py"

ROWS = """
[[mutant]]
name = "the sign"
file = "src/sums.py"
old = "return a + b"
new = "return a - b"
tests = ["tests/test_sums.py"]
"""
SURVIVOR = """
[[mutant]]
name = "nobody looks"
file = "src/sums.py"
old = "UNUSED = 1"
new = "UNUSED = 2"
tests = ["tests/test_sums.py"]
"""
NONSENSE = """
[[mutant]]
name = "does not even import"
file = "src/sums.py"
old = "UNUSED = 1"
new = "UNUSED = = 1"
tests = ["tests/test_sums.py"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "sums.py").write_text("UNUSED = 1\n\n\ndef add(a, b):\n    return a + b\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_sums.py").write_text(
        "import sums\n\n\ndef test_add():\n    assert sums.add(1, 2) == 3\n"
    )
    return tmp_path


@pytest.fixture(scope="module")
def mutate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(project: Path, rows: str) -> subprocess.CompletedProcess[str]:
    (project / "rows.toml").write_text(rows)
    # without torch: this project needs none, and importing it is most of the time
    command = [sys.executable, SCRIPT, "--root", project, "--preload", "pytest", project / "rows.toml"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow  # pytest starts once per mutant
def test_only_a_failing_test_kills_a_mutant(project: Path) -> None:
    before = (project / "src" / "sums.py").read_text()
    done = run(project, ROWS + SURVIVOR + NONSENSE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SURVIVED  nobody looks: src/sums.py: 'UNUSED = 1' -> 'UNUSED = 2'" in done.stdout
    assert "NO TEST RAN (exit 2)  does not even import" in done.stdout
    assert "killed: the sign" in done.stdout
    assert "3 mutants, 1 killed (0 by hanging), 2 not" in done.stdout
    assert (project / "src" / "sums.py").read_text() == before, "the work tree is never touched"


@pytest.mark.slow  # pytest starts once per mutant
def test_all_killed_is_success(project: Path) -> None:
    done = run(project, ROWS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["1/1 killed: the sign", "1 mutants, 1 killed (0 by hanging), 0 not"]


@pytest.mark.slow  # pytest starts once per mutant
def test_tests_that_fail_without_a_mutant_prove_nothing(project: Path) -> None:
    (project / "src" / "sums.py").write_text("UNUSED = 1\n\n\ndef add(a, b):\n    return a + b + 1 if a else a + b\n")
    done = run(project, ROWS.replace("return a + b", "a + b + 1").replace("return a - b", "a + b + 2"))
    assert done.returncode == 2
    assert "mutate: the tests end with 1 on the unbroken code of src/; mend them first" in done.stdout


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        pytest.param(ROWS.replace("a + b", "a * b"), "its text occurs 0 times in src/sums.py", id="the code moved on"),
        pytest.param(ROWS.replace('"return a + b"', '"a"'), "its text occurs", id="the text is not unique"),
        pytest.param(ROWS.replace("a - b", "a + b"), "old and new are equal", id="nothing changes"),
        pytest.param(ROWS + ROWS, "two rows have this name", id="a name used twice"),
        pytest.param(ROWS.replace("test_sums", "test_gone"), "tests/test_gone.py does not exist", id="no such test"),
    ],
)
def test_a_stale_row_is_refused(project: Path, mutate: ModuleType, rows: str, want: str) -> None:
    (project / "rows.toml").write_text(rows)
    with pytest.raises(mutate.StaleError, match=want):
        mutate.read([project / "rows.toml"], project)


def test_the_committed_rows_fit_the_code(mutate: ModuleType) -> None:
    """Cheap enough for every run; whether each is killed is `make mutate`'s question."""
    files = sorted((ROOT / "tests" / "mutants").glob("*.toml"))
    rows = mutate.read(files, ROOT)
    assert len(files) >= 3
    assert len(rows) >= 100
