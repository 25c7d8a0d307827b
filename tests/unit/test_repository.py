"""The repository keeps its own rules, and each rule is seen to catch what it is about."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.tools import hygiene, structure, syntax, unsafe
from tests.tools.files import ROOT, RepoFile, repository_files
from tests.tools.suite import TIERS


def file(path: str, text: str = "") -> RepoFile:
    return RepoFile(path, text.encode())


CHECKS: dict[str, hygiene.Check] = {
    "no index address, machine path, credential or unfinished work": hygiene.forbidden_text,
    "no file above 1 MB": hygiene.too_large,
    "no Python file above 600 lines": hygiene.too_long,
    "no source root is a package": hygiene.shadowed_stdlib,
    "every test file is in a tier that runs": lambda files: hygiene.stray_tests(files, TIERS),
    "every pin has a hash": hygiene.unpinned,
    "P22: nothing unpickles, runs remote code or unpacks archives": unsafe.unsafe_loading,
    "no product function above 50 lines": structure.long_functions,
    "YAML, JSON and TOML files parse": syntax.unparsable,
    "the vocabulary depends on pydantic only": structure.heavy_vocabulary,
}


@pytest.fixture(scope="module")
def work_tree() -> list[RepoFile]:
    return repository_files()


@pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in CHECKS.items()])
def test_the_work_tree_is_clean(check: hygiene.Check, work_tree: list[RepoFile]) -> None:
    """P22 (static half), and the rules of CONTRIBUTING.md."""
    assert len(work_tree) > 40, "the listing of the repository lost files"
    assert check(work_tree) == []


def lines(count: int, body: str = "x = 1") -> str:
    return f"{body}\n" * count


FAULTS = [
    # the strings are split so that this file is clean itself
    ("an index host in a script", hygiene.forbidden_text, file("a.sh", "curl https://py" + "pi.org/simple"), "package index"),
    ("an index option in a lock", hygiene.forbidden_text, file("c.txt", "--index" + "-url https://x/"), "package index"),
    ("a find-links option", hygiene.forbidden_text, file("c.txt", "--find" + "-links /wheels"), "package index"),
    ("a home directory of the machine", hygiene.forbidden_text, file("a.py", "open('/r" + "oot/x')"), "machine path"),
    ("a work directory of the machine", hygiene.forbidden_text, file("a.md", "see /wo" + "rk/x"), "machine path"),
    ("a private key", hygiene.forbidden_text, file("k.pem", "-----BEGI" + "N RSA PRIVATE KEY-----"), "credential"),
    ("an access key", hygiene.forbidden_text, file("k", "AK" + "IA" + "A" * 16), "credential"),
    ("a mark of unfinished work", hygiene.forbidden_text, file("a.py", "# TO" + "DO later"), "unfinished"),
    ("a file of 1 MB and one byte", hygiene.too_large, file("a.bin", "x" * 1_000_001), "1,000,001 bytes"),
    ("a Python file of 601 lines", hygiene.too_long, file("a.py", lines(601)), "601 lines"),
    ("operator/__init__.py", hygiene.shadowed_stdlib, file("operator/__init__.py"), "shadows a standard module"),
    ("jobs/__init__.py", hygiene.shadowed_stdlib, file("jobs/__init__.py"), "source root a package"),
    ("a test outside the tiers", CHECKS["every test file is in a tier that runs"], file("tests/test_a.py"), "no tier"),
    ("a pin without a hash", hygiene.unpinned, file("constraints.txt", "a==1 \\\n    --hash=sha256:00\nb==2\n"), "'b==2' has no"),
    ("a direct URL in the lock", hygiene.unpinned, file("constraints.txt", "a @ git+x --hash=sha256:0\n"), "exact version"),
    ("a repository without its lock", hygiene.unpinned, file("a.py"), "missing"),
    ("import pickle", unsafe.unsafe_loading, file("jobs/a.py", "import pickle"), "jobs/a.py:1: imports pickle"),
    ("an import inside a function", unsafe.unsafe_loading, file("cli/a.py", "def f():\n import joblib"), "imports joblib"),
    ("torch.load", unsafe.unsafe_loading, file("jobs/a.py", "import torch\ntorch.load(p)"), "a.py:2: uses torch.load"),
    ("torch.load by alias", unsafe.unsafe_loading, file("jobs/a.py", "import torch as t\nt.load(p)"), "torch.load"),
    ("from torch import load", unsafe.unsafe_loading, file("jobs/a.py", "from torch import load as g"), "torch.load"),
    ("allow_pickle", unsafe.unsafe_loading, file("jobs/a.py", "f(p, allow_pickle=True)"), "allow_pickle"),
    ("trust_remote_code", unsafe.unsafe_loading, file("jobs/a.py", "f(trust_remote_code=x)"), "trust_remote_code"),
    ("eval", unsafe.unsafe_loading, file("api/a.py", "eval(s)"), "calls eval"),
    ("tarfile", unsafe.unsafe_loading, file("jobs/a.py", "from tarfile import open"), "imports tarfile"),
    ("extractall", unsafe.unsafe_loading, file("cli/a.py", "z.extractall(d)"), "extractall"),
    ("a function of 51 lines", structure.long_functions, file("cli/a.py", "def f():\n" + lines(50, "    x = 1")), "51 lines"),
    ("a recipe of 351 lines", structure.long_functions, file("jobs/ratchet_jobs/recipes/a.py", "def f():\n" + lines(350, "    x = 1")), "351"),
    ("a YAML key given twice", syntax.unparsable, file("a.yaml", "a: 1\nb: 2\na: 3\n"), "'a' is given twice"),
    ("a tab in YAML", syntax.unparsable, file("a.yml", "a:\n\t- 1\n"), "a.yml: "),
    ("a trailing comma in JSON", syntax.unparsable, file("a.json", '{"a": 1,}'), "a.json: "),
    ("an open string in TOML", syntax.unparsable, file("a.toml", 'a = "x'), "a.toml: "),
    ("torch in the vocabulary", structure.heavy_vocabulary, file("api/ratchet_api/a.py", "if x:\n    import torch.nn"), "imports torch"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "fault", "want"), [pytest.param(*case[1:], id=case[0]) for case in FAULTS])
def test_a_planted_fault_is_found_and_named(check: hygiene.Check, fault: RepoFile, want: str) -> None:
    found = check([fault])
    assert len(found) == 1
    assert want in found[0]


ALLOWED = [
    ("modules of golang.org in go.sum", hygiene.forbidden_text, file("go.sum", "golang.org/x/net v0.1 h1:x=")),
    ("uv's option that keeps addresses out", hygiene.forbidden_text, file("l.sh", "--no-emit-index-url --no-emit-find-links")),
    ("a URL path that ends in /work", hygiene.forbidden_text, file("a.md", "https://example.org/work/x")),
    ("pickle in a test", unsafe.unsafe_loading, file("tests/unit/a.py", "import pickle")),
    ("the word pickle in a message", unsafe.unsafe_loading, file("jobs/a.py", "raise E('pickle refused')")),
    ("trust_remote_code=False", unsafe.unsafe_loading, file("jobs/a.py", "f(trust_remote_code=False)")),
    ("safetensors' load", unsafe.unsafe_loading, file("jobs/a.py", "from safetensors.torch import load\nload(b)")),
    ("a model switched to evaluation", unsafe.unsafe_loading, file("jobs/a.py", "model.eval()")),
    ("a chart template, YAML only once rendered", syntax.unparsable, file("charts/x/templates/a.yaml", "{{- if x }}\n")),
    ("several YAML documents in one file", syntax.unparsable, file("a.yaml", "a: 1\n---\na: 2\n")),
    ("a long docstring in a short function", structure.long_functions, file("cli/a.py", f'def f():\n    """{lines(80)}"""\n    return 1')),
    ("a lazy import in the vocabulary", structure.heavy_vocabulary, file("api/ratchet_api/a.py", "def f():\n    import yaml")),
    ("an import for types only", structure.heavy_vocabulary, file("api/ratchet_api/a.py", "if TYPE_CHECKING:\n    import torch")),
]  # fmt: skip


@pytest.mark.parametrize(("check", "harmless"), [pytest.param(*case[1:], id=case[0]) for case in ALLOWED])
def test_a_harmless_lookalike_passes(check: hygiene.Check, harmless: RepoFile) -> None:
    assert check([harmless]) == []


def test_ignored_files_are_not_listed_and_new_ones_are(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("out/\n")
    (tmp_path / "out").mkdir()
    for name in ("out/a.py", "new.py"):
        (tmp_path / name).write_text("x = 1\n")
    assert [f.path for f in repository_files(tmp_path)] == [".gitignore", "new.py"]


def test_listing_outside_a_work_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not a git work tree"):
        repository_files(tmp_path)


def test_every_extra_dependency_carries_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.M | re.S)
    assert block is not None
    entries = re.findall(r'^  "([^"]+)",(.*)$', block.group(1), re.M)
    declared = tomllib.loads(text)["project"]["optional-dependencies"]
    assert len(entries) == sum(len(names) for names in declared.values())
    assert [name for name, comment in entries if len(comment.strip(" #").split()) < 2] == []


def test_the_changelog_begins_with_what_is_unreleased_or_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[?(\S+?)\]?(?:\s.*)?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] in {"Unreleased", version}
