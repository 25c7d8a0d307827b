"""Promise P22, the static half: product code cannot unpickle, run remote code or unpack archives.

Walks the syntax tree, so aliases (`import torch as t`, `from torch import load`) are seen and comments are not.
Never imports what it checks. Called by `tests/unit/test_repository.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from tests.tools.files import RepoFile

UNPICKLERS = frozenset({"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"})
ARCHIVES = frozenset({"tarfile"})
BANNED_CALLS = {
    "torch.load": "read safetensors instead",
    "torch.jit.load": "read safetensors instead",
    "torch.hub.load": "models come from the store, by digest",
    "torch.package.PackageImporter": "read safetensors instead",
    "numpy.load": "read Parquet or safetensors instead",
    "pandas.read_pickle": "read Parquet instead",
    "shutil.unpack_archive": "artifacts are plain files",
    "yaml.load": "use the project's one YAML loader",
    "yaml.unsafe_load": "use the project's one YAML loader",
    "eval": "expressions are parsed and evaluated by our own grammar",
    "exec": "no code comes from data",
    "os.system": "start programs with an argument list",
}
BANNED_METHODS = {
    "extractall": "copy the members you need, one by one",
    "allow_pickle": "arrays of objects are pickles",
    "trust_remote_code": "only code that is in the image may run",
    **dict.fromkeys(
        (
            "all_gather_object",
            "broadcast_object_list",
            "gather_object",
            "recv_object_list",
            "scatter_object_list",
            "send_object_list",
        ),
        "they send pickles between nodes; send tensors",
    ),
}


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str) -> None:
        self.path = path
        self.findings: list[str] = []
        self.names: dict[str, str] = {}  # local name -> full dotted name

    def report(self, node: ast.AST, what: str, remedy: str) -> None:
        self.findings.append(f"{self.path}:{getattr(node, 'lineno', 0)}: {what}; {remedy}")

    def check_module(self, node: ast.AST, module: str) -> None:
        top = module.split(".")[0]
        if top in UNPICKLERS:
            self.report(node, f"imports {module}", "unpickling runs code; use JSON, Parquet or safetensors")
        if top in ARCHIVES:
            self.report(node, f"imports {module}", "artifacts are plain files")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.check_module(node, alias.name)
            top = alias.name.split(".")[0]
            self.names[alias.asname or top] = alias.name if alias.asname else top

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level == 0:
            self.check_module(node, module)
        for alias in node.names:
            full = f"{module}.{alias.name}"
            self.names[alias.asname or alias.name] = full
            if full in BANNED_CALLS:
                self.report(node, f"imports {full}", BANNED_CALLS[full])

    def dotted(self, node: ast.expr) -> str | None:
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        return ".".join([self.names.get(node.id, node.id), *reversed(parts)])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if (full := self.dotted(node)) in BANNED_CALLS:
            self.report(node, f"uses {full}", BANNED_CALLS[full])
        elif node.attr in BANNED_METHODS:
            self.report(node, f"uses .{node.attr}", BANNED_METHODS[node.attr])
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and self.names.get(node.func.id, node.func.id) in BANNED_CALLS:
            self.report(node, f"calls {node.func.id}", BANNED_CALLS[self.names.get(node.func.id, node.func.id)])
        for keyword in node.keywords:
            turned_on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            if keyword.arg in BANNED_METHODS and turned_on:
                self.report(node, f"passes {keyword.arg}", BANNED_METHODS[keyword.arg])
        self.generic_visit(node)


def unsafe_loading(files: Iterable[RepoFile]) -> list[str]:
    """Find code in the product that could run what a file contains."""
    findings = []
    for file in files:
        if file.is_product:
            finder = _Finder(file.path)
            finder.visit(ast.parse(file.data, filename=file.path))
            findings += finder.findings
    return findings
