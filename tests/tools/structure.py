"""Shape rules that ruff has no rule for: how long a function may be, and what the vocabulary may import.

Pure checks over the files' syntax trees, in the same form as those of `hygiene.py`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable

from tests.tools.files import RepoFile

MAX_FUNCTION_LINES = 50
RECIPE_PREFIX = "jobs/ratchet_jobs/recipes/"  # linear by design: one file per stage, read top-down
MAX_RECIPE_LINES = 350
# pydantic_core and typing_extensions come with pydantic
VOCABULARY_MAY_IMPORT = sys.stdlib_module_names | {"pydantic", "pydantic_core", "typing_extensions", "ratchet_api"}


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, the docstring not counted."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def long_functions(files: Iterable[RepoFile]) -> list[str]:
    """Find product functions that should have been split."""
    findings = []
    for file in files:
        if not file.is_product:
            continue
        limit = MAX_RECIPE_LINES if file.path.startswith(RECIPE_PREFIX) else MAX_FUNCTION_LINES
        findings += [
            f"{file.path}:{node.lineno}: {node.name} has {lines} lines, at most {limit}; split it"
            for node in ast.walk(ast.parse(file.data, filename=file.path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := _code_lines(node)) > limit
        ]
    return findings


def _imports_on_load(tree: ast.Module) -> Iterable[tuple[int, str]]:
    """Yield line and top-level module of every import that runs when the module is imported."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue  # imported lazily, when called
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, (node.module or "").split(".")[0]
        pending += ast.iter_child_nodes(node)


def heavy_vocabulary(files: Iterable[RepoFile]) -> list[str]:
    """Find imports of ratchet_api beyond pydantic and the standard library (lazy ones inside functions are free).

    The CRD generator and the client are run on purpose by people who have their extras, and are exempt.
    """
    findings = []
    for file in files:
        name = file.path.removeprefix("api/ratchet_api/")
        if not file.is_product or name == file.path or name.startswith(("crdgen", "client")):
            continue
        for line, module in _imports_on_load(ast.parse(file.data, filename=file.path)):
            if module not in VOCABULARY_MAY_IMPORT:
                findings.append(f"{file.path}:{line}: imports {module}; the vocabulary depends on pydantic only")
    return findings
