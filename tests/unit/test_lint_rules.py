"""The linters are configured to catch what CONTRIBUTING.md forbids; each rule is seen to bite where it must."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.files import ROOT, SOURCE_ROOTS

BIN = Path(sys.executable).parent
DOC = '"""What it decides."""\n\n'


def ruff(path: str, code: str) -> str:
    """Lint code as if it stood at `path`; return the findings."""
    command = [BIN / "ruff", "check", "--output-format=concise", "--stdin-filename", ROOT / path, "-"]
    return subprocess.run(command, input=code, cwd=ROOT, capture_output=True, text=True, check=False).stdout


PLAN = "operator/ratchet_operator/plan/runs/a.py"
BITES = [
    ("a clock in plan", PLAN, DOC + "from datetime import datetime\n\nx = datetime.now()\n", "TID251"),
    ("a clock in desired", "operator/ratchet_operator/desired/a.py", DOC + "import time\n\nx = time.time()\n", "TID251"),
    ("randomness in plan", PLAN, DOC + "import random\n\nx = random.random()\n", "TID251"),
    ("a clock in the maths of learning", "jobs/ratchet_jobs/rl/a.py", DOC + "import time\n\nx = time.monotonic()\n", "TID251"),
    ("global randomness in a reward", "jobs/ratchet_jobs/rewards/a.py", DOC + "import random\n\nx = random.random()\n", "TID251"),
    ("a clock in the statistics", "api/ratchet_api/stats/a.py", DOC + "import time\n\nx = time.time()\n", "TID251"),
    ("print in the operator", "operator/ratchet_operator/a.py", DOC + "print(1)\n", "T201"),
    ("print in a recipe", "jobs/ratchet_jobs/recipes/a.py", DOC + "print(1)\n", "T201"),
    ("a module without docstring", "api/ratchet_api/a.py", "x = 1\n", "D100"),
    ("a public function without docstring", "cli/ratchet_cli/a.py", DOC + "\ndef f() -> None:\n    return\n", "D103"),
    ("too many branches", PLAN, DOC + "\ndef _f(x: int) -> int:\n" + "".join(f"    if x == {i}:\n        return {i}\n" for i in range(11)) + "    return x\n", "C901"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "code", "want"), [pytest.param(*case[1:], id=case[0]) for case in BITES])
def test_ruff_refuses(path: str, code: str, want: str) -> None:
    assert f" {want} " in ruff(path, code)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param(
            "operator/ratchet_operator/a.py", DOC + "import time\n\nx = time.time()\n", id="a clock in the shell"
        ),
        pytest.param(
            "tests/unit/a.py", "def test_a() -> None:\n    assert 1 + 1 == 2\n", id="a test without docstring"
        ),
        pytest.param("bench/a.py", "print(1)\n", id="print in a bench"),
    ],
)
def test_ruff_allows(path: str, code: str) -> None:
    assert ruff(path, code).strip() == "All checks passed!"


CROSSINGS = [
    ("the vocabulary importing the operator", "api/ratchet_api/base.py", "import ratchet_operator", "vocabulary"),
    ("plan importing kopf", "operator/ratchet_operator/plan/world.py", "import kopf", "pure-core"),
    ("plan importing observe", "operator/ratchet_operator/plan/world.py", "import ratchet_operator.observe", "operator-layers"),
    ("the operator importing S3", "operator/ratchet_operator/settings.py", "import boto3", "operator-is-light"),
    ("a reward reading the store", "jobs/ratchet_jobs/rewards/f1.py", "import ratchet_jobs.runtime.store", "pure-maths"),
    ("the maths of learning importing S3", "jobs/ratchet_jobs/rl/losses.py", "import boto3", "pure-maths"),
    ("the gateway importing the training stack", "gateway/ratchet_gateway/app.py", "import ratchet_jobs.models.lora", "gateway"),
    ("the policy server importing the gateway", "serving/ratchet_serving/app.py", "import ratchet_gateway.app", "serving"),
    ("what servers share importing one of them", "web/ratchet_web/errors.py", "import ratchet_gateway.errors", "web"),
    ("the log importing the web framework", "jobs/ratchet_jobs/feedback_log/reader.py", "import fastapi", "log"),
    ("a stage importing the operator", "jobs/ratchet_jobs/__init__.py", "import ratchet_operator.settings", "jobs"),
]  # fmt: skip


@pytest.fixture(scope="module")
def copied_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sources")
    for name in SOURCE_ROOTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", target)
    return target


def lint_imports(sources: Path, contract: str) -> subprocess.CompletedProcess[str]:
    # the console script, so that the copy and not the editable install comes first on the path
    path = ":".join(str(sources / name) for name in SOURCE_ROOTS)
    command = [BIN / "lint-imports", "--no-logo", "--no-cache", "--contract", contract]
    return subprocess.run(command, cwd=sources, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("path", "line", "contract"), [pytest.param(*case[1:], id=case[0]) for case in CROSSINGS])
def test_a_crossed_layer_breaks_its_contract(copied_sources: Path, path: str, line: str, contract: str) -> None:
    module = copied_sources / path
    original = module.read_text()
    assert lint_imports(copied_sources, contract).returncode == 0
    module.write_text(f"{original}\n{line}\n")
    try:
        broken = lint_imports(copied_sources, contract)
    finally:
        module.write_text(original)
    assert broken.returncode == 1
    assert "BROKEN" in broken.stdout
