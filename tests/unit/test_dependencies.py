"""Each package imports what its own extra declares and nothing else, so that every image can be installed small."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.tools.files import ROOT, SOURCE_ROOTS, repository_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {f"ratchet_{root}" for root in SOURCE_ROOTS}
# Which extras a package may count on. The CLI runs stages and the reconciler on a laptop, where `jobs` is present, and
# the gateway in `ratchet up`, which says so where `gateway` is not.
EXTRAS = {
    "api": ("client",),
    "operator": ("operator",),
    "jobs": ("jobs", "export", "gguf", "tracking"),
    "gateway": ("gateway",),
    "serving": ("serving",),
    "cli": ("cli", "jobs", "gateway", "serving"),
}
# Installed with each of these extras, so that either must bring what it imports.
SHARED = {"web": ("gateway", "serving")}
# What a library brings along and hands out (its errors, its base types): the carrier decides its version.
COMES_WITH = {
    "botocore": "boto3",
    "huggingface-hub": "transformers",
    "markupsafe": "jinja2",
    "pydantic-core": "pydantic",
    "starlette": "fastapi",
    "urllib3": "kubernetes",
}
# What an extra needs and its package does not import itself: the server's loop and parser, named to uvicorn; the store
# and the segments of the log that the gateway shares with the stages; Parquet and redaction of the eraser, which runs
# in its image; what the stages' own code loads a policy with; the transport of ratchet_api.client; what the operator's
# rules need where `ratchet run` hosts them.
INDIRECT = {
    "gateway": {"uvloop", "httptools", "boto3", "zstandard", "pyarrow", "phonenumbers", "python-stdnum"},
    "serving": {"uvloop", "httptools", "boto3", "peft", "safetensors", "jinja2"},
    "cli": {"cronsim"},
}
# The generator of `make generate` is run by developers only, with the extra `dev`.
DEVELOPER_FILES = ("api/ratchet_api/crdgen", "api/ratchet_api/apidocs")


def distribution(requirement: str) -> str:
    """Canonical name of a requirement's distribution."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match.group(0)).lower()


def declared(*extras: str) -> set[str]:
    requirements = [*PROJECT["dependencies"], *(r for extra in extras for r in PROJECT["optional-dependencies"][extra])]
    named = {distribution(requirement) for requirement in requirements}
    return named | {brought for brought, carrier in COMES_WITH.items() if carrier in named}


installed_modules = functools.cache(importlib.metadata.packages_distributions)  # reads every installed package


def distributions_of(module: str) -> set[str]:
    return {distribution(name) for name in installed_modules().get(module, ())}


def imported_modules(data: bytes) -> Iterable[str]:
    """Dotted names of everything imported anywhere in a file, lazily or not."""
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def third_party(root: str) -> dict[str, set[str]]:
    """Map each third-party top-level module that a source root imports to the files that do."""
    found: dict[str, set[str]] = {}
    for file in repository_files():
        if not file.is_product or not file.path.startswith(f"{root}/") or file.path.startswith(DEVELOPER_FILES):
            continue
        for module in imported_modules(file.data):
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in OURS:
                found.setdefault(top, set()).add(file.path)
    return found


@pytest.mark.parametrize("root", EXTRAS)
def test_a_package_imports_only_what_its_extra_declares(root: str) -> None:
    allowed = declared(*EXTRAS[root])
    undeclared = {m: files for m, files in third_party(root).items() if not distributions_of(m) & allowed}
    assert undeclared == {}, f"declare these in an extra of {EXTRAS[root]}, or do not import them"


@pytest.mark.parametrize(("root", "extra"), [(root, extra) for root, extras in SHARED.items() for extra in extras])
def test_what_several_packages_share_imports_only_what_each_of_their_extras_declares(root: str, extra: str) -> None:
    used = third_party(root)
    assert used
    undeclared = {module: files for module, files in used.items() if not distributions_of(module) & declared(extra)}
    assert undeclared == {}, f"declare these in the extra {extra}, too"


@pytest.mark.parametrize("extra", ["operator", "jobs", "gateway", "serving", "cli"])
def test_an_extra_declares_only_what_its_package_imports(extra: str) -> None:
    roots = (extra, *(root for root, extras in SHARED.items() if extra in extras))
    used = {name for root in roots for module in third_party(root) for name in distributions_of(module)}
    own = {distribution(requirement) for requirement in PROJECT["optional-dependencies"][extra]}
    assert own - used == INDIRECT.get(extra, set()), f"nothing in {extra}/ imports these: drop them from the extra"


@pytest.mark.parametrize(("brought", "carrier"), COMES_WITH.items())
def test_what_is_said_to_come_with_a_library_does(brought: str, carrier: str) -> None:
    assert brought in {distribution(name) for name in importlib.metadata.requires(carrier) or ()}


def blocked_import(modules: Iterable[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter where these modules cannot be imported."""
    program = f"import sys\nsys.modules.update(dict.fromkeys({sorted(modules)!r}))\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_vocabulary_loads_with_pydantic_alone() -> None:
    names = sorted(path.stem for path in Path(ROOT / "api/ratchet_api").glob("*.py"))
    models = [
        name for name in names if not f"api/ratchet_api/{name}".startswith(DEVELOPER_FILES) and name != "__init__"
    ]
    assert "training_run" in models
    heavy = ["kopf", "aiohttp", "torch", "numpy", "yaml", "ruamel", "kubernetes", "boto3", "rich", "typer"]
    done = blocked_import(heavy, "".join(f"import ratchet_api.{name}\n" for name in models))
    assert done.returncode == 0, done.stderr


def test_a_laptop_run_needs_neither_kopf_nor_aiohttp() -> None:
    """`make demo` installs the extras jobs and cli; the reconciler it hosts must load without the operator's."""
    done = blocked_import(
        ["kopf", "aiohttp"],
        "import ratchet_cli.main\nimport ratchet_operator.reconcile\nimport ratchet_operator.cluster.local\n",
    )
    assert done.returncode == 0, done.stderr


def test_the_eraser_loads_with_what_the_gateways_image_has() -> None:
    """`ratchet-erase` is a program of the CLI's package, and runs where the extra `gateway` alone is installed."""
    missing = [
        "typer",
        "rich",
        "httpx2",
        "ruamel",
        "sklearn",
        "torch",
        "transformers",
        "duckdb",
        "numpy",
    ]
    done = blocked_import(missing, "import ratchet_cli.eraser\n")
    assert done.returncode == 0, done.stderr
