"""Reward written as arithmetic in the spec, such as `correct - 0.5 * (1 - correct) * confidence`.

The text is parsed to a syntax tree and only nodes of a short list are accepted: numbers, the names below, + - * / % **,
comparisons (1 or 0), and/or/not, `a if condition else b`, and a few functions. There are no attributes, subscripts,
strings, calls of anything else, loops or definitions, so nothing can be read, written or kept busy: the work is the
number of nodes, which is bounded, times the rows. Nothing is compiled or executed by Python.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError

MAX_LENGTH = 500
"""Characters."""
MAX_NODES = 120
"""Numbers, names, operators and calls: the evaluation's steps."""
MAX_NUMBER = 1e6

NAMES: Mapping[str, Callable[[RewardBatch], Tensor]] = MappingProxyType(
    {
        "correct": lambda batch: batch.need_correct("expression"),
        "confidence": lambda batch: batch.confidences,
        "label_prob": lambda batch: batch.label_probs,
        "entropy": lambda batch: batch.entropies,
        "max_prob": lambda batch: batch.probs.max(1).values,
        "latency_ms": lambda batch: batch.need_latency("expression"),
        "classes": lambda batch: torch.full((len(batch),), float(batch.probs.shape[1])),
        "step": lambda batch: torch.full((len(batch),), float(batch.step)),
    }
)
"""What an expression may name, one number per row each."""

_FUNCTIONS: Mapping[str, tuple[int, Callable[..., Tensor]]] = MappingProxyType(
    {
        "abs": (1, torch.abs),
        "exp": (1, torch.exp),
        "log": (1, torch.log),
        "sqrt": (1, torch.sqrt),
        "min": (2, torch.minimum),
        "max": (2, torch.maximum),
        "clip": (3, lambda value, low, high: torch.minimum(torch.maximum(value, low), high)),
    }
)
"""Name -> number of arguments, meaning."""

_OPERATORS: Mapping[type[ast.operator], Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        ast.Add: torch.add,
        ast.Sub: torch.sub,
        ast.Mult: torch.mul,
        ast.Div: torch.div,
        ast.Mod: torch.remainder,
        ast.Pow: torch.pow,
    }
)
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {ast.Lt: torch.lt, ast.LtE: torch.le, ast.Gt: torch.gt, ast.GtE: torch.ge, ast.Eq: torch.eq, ast.NotEq: torch.ne}
)
_CONNECTIVES: tuple[type[ast.AST], ...] = (
    ast.Load,
    ast.And,
    ast.Or,
    ast.Not,
    ast.USub,
    ast.UAdd,
    *_OPERATORS,
    *_COMPARISONS,
)
_STRUCTURE: tuple[type[ast.AST], ...] = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression, evaluated over all rows at once in float64.

    Raises:
        BadConfigError: it is too long, malformed, or uses something that is not on the list; naming what and where.
    """

    expression: str
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tree", parse(self.expression, names=NAMES))

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) float32.

        Raises:
            BadDataError: a row divides by zero, takes the logarithm or root of what has none, or is not finite; or
                a name's value is not known here.
        """
        rewards = evaluated(self.expression, self._tree, lambda name: NAMES[name](batch), rows=len(batch))
        return rewards.to(torch.float32).to(batch.probs.device)


def evaluated(text: str, tree: ast.expr, values: Callable[[str], Tensor], *, rows: int) -> Tensor:
    """Value of an expression for every row, (rows,) float64 on the host.

    Args:
        text: for messages.
        tree: what `parse` made of it.
        values: name -> (rows,) numbers.
        rows: how many.

    Raises:
        BadDataError: see `Expression`.
    """
    result = _Evaluation(text, values, rows).value(tree, torch.ones(rows, dtype=torch.bool))
    _refuse(~torch.isfinite(result), text, "is not finite", "bound it with clip or min")
    return result


def parse(text: str, *, names: Collection[str]) -> ast.expr:
    """Syntax tree of an expression that holds nothing but what is allowed.

    Args:
        text: the expression.
        names: that it may use.

    Raises:
        BadConfigError: see `Expression`.
    """
    if len(text) > MAX_LENGTH:
        raise BadConfigError(f"reward expression: {len(text)} characters, at most {MAX_LENGTH}; shorten it")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadConfigError(f"reward expression: {text!r} cannot be read: {error}; write plain arithmetic") from error
    nodes = [node for node in ast.walk(tree) if not isinstance(node, _CONNECTIVES)]
    if len(nodes) > MAX_NODES:
        raise BadConfigError(f"reward expression: {len(nodes)} parts, at most {MAX_NODES}; simplify it")
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if problem := _problem(node, called, names):
            column = getattr(node, "col_offset", 0) + 1
            raise BadConfigError(f"reward expression: {text!r} {problem} at character {column}")
    return tree.body


def _problem(node: ast.AST, called: set[int], names: Collection[str]) -> str | None:
    """What is wrong with one node, or None."""
    if isinstance(node, ast.Constant):
        return _number_problem(node.value)
    if isinstance(node, ast.Call):
        return _call_problem(node)
    if isinstance(node, ast.Name):
        known: Collection[str] = _FUNCTIONS if id(node) in called else names
        return None if node.id in known else f"names {node.id!r}; there are: {', '.join(known)}"
    if isinstance(node, _STRUCTURE + _CONNECTIVES):
        return None
    return f"uses {type(node).__name__}; write arithmetic with numbers, names and functions only"


def _number_problem(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"holds {value!r}; only numbers are allowed"
    if abs(value) > MAX_NUMBER:  # infinity too; a literal cannot be NaN
        return f"holds a number above {MAX_NUMBER:g}; scale it down"
    return None


def _call_problem(node: ast.Call) -> str | None:
    if not isinstance(node.func, ast.Name):
        return "calls something that is no function; " + f"there are: {', '.join(_FUNCTIONS)}"
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        return f"calls {node.func.id} with named or starred arguments; give plain ones"
    wanted = _FUNCTIONS.get(node.func.id, (len(node.args), None))[0]
    if len(node.args) != wanted:
        return f"gives {node.func.id} {len(node.args)} arguments, it takes {wanted}"
    return None


def _refuse(wrong: Tensor, text: str, what: str, remedy: str) -> None:
    """Raise for the first row that is True.

    Raises:
        BadDataError: there is one.
    """
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadDataError(f"reward expression: {text!r} {what} in row {row} of the batch; {remedy}")


class _Evaluation:
    """One evaluation; `active` marks the rows whose value is used, so that a guarded division is no error elsewhere."""

    def __init__(self, text: str, values: Callable[[str], Tensor], rows: int) -> None:
        self._text = text
        self._values = values
        self._rows = rows

    def value(self, node: ast.expr, active: Tensor) -> Tensor:
        """(N,) float64; rows that are not active hold anything finite or not."""
        match node:
            case ast.Constant(value=int() | float() as number):
                return torch.full((self._rows,), float(number), dtype=torch.float64)
            case ast.Name(id=name):
                return self._values(name).detach().cpu().to(torch.float64)
            case ast.UnaryOp(op=op, operand=operand):
                return _unary(op, self.value(operand, active))
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(op, self.value(left, active), self.value(right, active), active)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._compare([left, *comparators], ops, active)
            case ast.BoolOp(op=op, values=values):
                return self._connect(values, active, stop_at=isinstance(op, ast.Or))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                holds = self.value(test, active) != 0
                return torch.where(holds, self.value(body, active & holds), self.value(orelse, active & ~holds))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._call(name, [self.value(argument, active) for argument in args], active)
            case _:
                raise TypeError(f"{type(node).__name__} passed the parser's check unseen")

    def _binary(self, op: ast.operator, left: Tensor, right: Tensor, active: Tensor) -> Tensor:
        if isinstance(op, ast.Div | ast.Mod):
            remedy = "guard it, as in `a / b if b > 0 else 0`"
            _refuse(active & (right == 0), self._text, "divides by zero", remedy)
        return _OPERATORS[type(op)](left, right)

    def _compare(self, operands: list[ast.expr], ops: list[ast.cmpop], active: Tensor) -> Tensor:
        values = [self.value(operand, active) for operand in operands]
        holds = torch.ones(self._rows, dtype=torch.bool)
        for left, op, right in zip(values, ops, values[1:], strict=False):
            holds &= _COMPARISONS[type(op)](left, right)
        return holds.to(torch.float64)

    def _connect(self, values: list[ast.expr], active: Tensor, *, stop_at: bool) -> Tensor:
        """and/or from left to right; rows already decided are not asked again."""
        undecided = active
        for operand in values:
            holds = self.value(operand, undecided) != 0
            undecided = undecided & (holds != stop_at)
        decided = active & ~undecided
        return (decided if stop_at else undecided).to(torch.float64)

    def _call(self, name: str, arguments: list[Tensor], active: Tensor) -> Tensor:
        first = arguments[0]
        if name == "log":
            _refuse(active & (first <= 0), self._text, "takes the logarithm of a number not above 0", "add a small one")
        if name == "sqrt":
            _refuse(active & (first < 0), self._text, "takes the root of a negative number", "use abs or max(x, 0)")
        return _FUNCTIONS[name][1](*arguments)


def _unary(op: ast.unaryop, value: Tensor) -> Tensor:
    if isinstance(op, ast.Not):
        return (value == 0).to(torch.float64)
    return -value if isinstance(op, ast.USub) else value
