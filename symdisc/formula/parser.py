"""Formulas, text to sympy and back, by a whitelisted parser: nothing is ever evaluated as Python.

A scalar formula is an expression in named variables (``x*tanh(x)``). An indexed formula is a sequence of assignments
(``m = mean(j, x[j]); y[i] = x[i] - m``) that becomes scalar expressions once every index has a size.
"""

from __future__ import annotations

import ast
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from symdisc.errors import FormulaError
from symdisc.formula.functions import CONSTANTS, FUNCTIONS, exact_number, known, variable

__all__ = ["IndexedFormula", "free_names", "is_indexed", "parse", "parse_indexed"]

# Long enough for every rule, short enough that a hostile text costs nothing.
MAX_LENGTH, MAX_NODES, MAX_EXPONENT, MAX_DIGITS, MAX_DEPTH = 2000, 600, 64, 40, 60
MAX_BITS = 4096
MAX_EXPANDED = 20_000  # scalar expressions made from one indexed formula

_ARITY = {"max": (2, 8), "Max": (2, 8), "min": (2, 8), "Min": (2, 8), "clamp": (3, 3)}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_RELATIONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: sp.Lt,
    ast.LtE: sp.Le,
    ast.Gt: sp.Gt,
    ast.GtE: sp.Ge,
}
_Table = Mapping[tuple[int, ...], sp.Expr]
_RESERVED = {"sum", "mean", "where", "Piecewise"}


def parse(text: str, symbols: Mapping[str, sp.Expr] | None = None) -> sp.Expr:
    """A scalar formula, text to sympy; numbers become exact rationals, names become real variables or the given values.

    Raises FormulaError for anything outside the grammar (``rules/README.md``).
    """
    tables: dict[str, _Table] = {name: {(): value} for name, value in (symbols or {}).items()}
    return _finished(_Builder(tables).expression(_tree(text, "eval").body), text)


def _finished(expr: Any, text: str) -> sp.Expr:
    expr = sp.sympify(expr)
    if not isinstance(expr, sp.Expr) or expr.has(sp.nan, sp.zoo, sp.oo, -sp.oo, sp.I):
        raise FormulaError(f"the formula {_short(text)} has no real finite value")
    return expr


def free_names(text: str) -> frozenset[str]:
    """Names in a scalar formula that are neither functions nor constants."""
    names = {n.id for n in ast.walk(_tree(text, "eval")) if isinstance(n, ast.Name)}
    return frozenset(names - set(FUNCTIONS) - set(CONSTANTS) - _RESERVED)


def is_indexed(text: str) -> bool:
    """The text is an indexed formula (assignments or subscripts), not a scalar one."""
    return "[" in text or "=" in text.replace("<=", "").replace(">=", "")


def parse_indexed(text: str) -> IndexedFormula:
    """An indexed formula: assignments separated by ``;``, the last one the result. Raises FormulaError."""
    tree = _tree(text, "exec")
    steps = []
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise FormulaError(f"an indexed formula is written y[i] = ...; not {_short(text)}")
        name, indices = _target(statement.targets[0], text)
        steps.append(Step(name, indices, statement.value))
    return IndexedFormula(text, tuple(steps))


def _target(node: ast.expr, text: str) -> tuple[str, tuple[str, ...]]:
    if isinstance(node, ast.Name):
        return node.id, ()
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if all(isinstance(p, ast.Name) for p in parts):
            return node.value.id, tuple(p.id for p in parts if isinstance(p, ast.Name))
    raise FormulaError(f"the left side of {_short(text)} must be a name with index names, such as y[i]")


@dataclass(frozen=True)
class Step:
    """One assignment ``name[indices] = value``."""

    name: str
    indices: tuple[str, ...]
    value: ast.expr


@dataclass(frozen=True)
class IndexedFormula:
    """Assignments in order; the last one is the result."""

    text: str
    steps: tuple[Step, ...]

    @property
    def result(self) -> Step:
        return self.steps[-1]

    @cached_property
    def names(self) -> frozenset[str]:
        """Every free name: inputs, symbols; without indices, steps and functions."""
        bound = {s.name for s in self.steps} | self.indices | set(FUNCTIONS) | set(CONSTANTS) | _RESERVED
        return frozenset(n.id for s in self.steps for n in ast.walk(s.value) if isinstance(n, ast.Name)) - bound

    @cached_property
    def indices(self) -> frozenset[str]:
        """Index names: those on left sides and those summed over."""
        found = {i for s in self.steps for i in s.indices}
        for step in self.steps:
            for node in ast.walk(step.value):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("sum", "mean"):
                    found |= {a.id for a in node.args[:-1] if isinstance(a, ast.Name)}
        return frozenset(found)

    def used_axes(self) -> dict[str, tuple[str, ...]]:
        """The free names and the index names each is first written with. Raises FormulaError for other subscripts."""
        found: dict[str, tuple[str, ...]] = {}
        for node in (n for s in self.steps for n in ast.walk(s.value)):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in self.names:
                parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                if not all(isinstance(p, ast.Name) for p in parts):
                    raise FormulaError(f"{ast.unparse(node)}: without a rule, subscripts are index names only")
                found.setdefault(node.value.id, tuple(p.id for p in parts if isinstance(p, ast.Name)))
        bare = self.names - set(found)
        if bare or not found:
            where = sorted(bare)[0] if bare else _short(self.text)
            raise FormulaError(f"{where}: an indexed formula needs inputs with subscripts, such as x[i]")
        return found

    def expand(
        self,
        sizes: Mapping[str, int],
        inputs: Mapping[str, Mapping[tuple[int, ...], sp.Expr]],
        symbols: Mapping[str, sp.Expr] | None = None,
    ) -> dict[tuple[int, ...], sp.Expr]:
        """The result, entry by entry, with every index at its size and every input entry given."""
        missing = self.indices - set(sizes)
        if missing:
            raise FormulaError(f"index {sorted(missing)[0]!r} of {_short(self.text)} has no size")
        tables: dict[str, _Table] = dict(inputs)
        for name, value in (symbols or {}).items():
            tables[name] = {(): value}
        for step in self.steps:
            builder = _Builder(tables, sizes)
            values = {
                at: builder.at(dict(zip(step.indices, at, strict=True)), step.value)
                for at in _positions(step.indices, sizes)
            }
            tables[step.name] = {at: _finished(value, self.text) for at, value in values.items()}
        return dict(tables[self.result.name])


def _positions(indices: tuple[str, ...], sizes: Mapping[str, int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(sizes[i]) for i in indices))


class _Builder:
    """Syntax tree to sympy. With tables: subscripts and bare names are looked up; without: names are variables."""

    def __init__(self, tables: Mapping[str, _Table], sizes: Mapping[str, int] | None = None) -> None:
        self.tables, self.sizes, self.env = tables, sizes, {}  # type: ignore[var-annotated]
        self.count = 0

    def at(self, env: dict[str, int], node: ast.expr) -> Any:
        outer, self.env = self.env, {**self.env, **env}
        try:
            return self.expression(node)
        finally:
            self.env = outer

    def expression(self, node: ast.expr) -> Any:
        self.count += 1
        if self.count > MAX_EXPANDED * 50:
            raise FormulaError("a formula becomes too large at these sizes; take smaller sizes")
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            kind = _KINDS.get(type(node).__name__, type(node).__name__.lower())
            raise FormulaError(f"a formula cannot contain {kind}; see rules/README.md for the grammar")
        return method(node)

    def _constant(self, node: ast.Constant) -> sp.Expr:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            raise FormulaError(f"a formula cannot contain the constant {_short(repr(node.value))}")
        return exact_number(node.value)

    def _name(self, node: ast.Name) -> sp.Expr:
        if node.id in self.env:
            return sp.Integer(self.env[node.id])
        if node.id in self.tables and () in self.tables[node.id]:
            return self.tables[node.id][()]
        if node.id in CONSTANTS:
            return CONSTANTS[node.id]
        if node.id in FUNCTIONS or node.id in _RESERVED:
            raise FormulaError(f"{node.id} is a function; write {node.id}(x)")
        if self.sizes is not None:
            raise FormulaError(f"{node.id!r} is not declared: it is no input, no symbol and no index")
        if node.id.startswith("_") or not node.id.isidentifier() or not node.id.isascii():
            raise FormulaError(f"{_short(node.id)} is not a variable name of a formula")
        return variable(node.id)

    def _binop(self, node: ast.BinOp) -> sp.Expr:
        left, right = self.expression(node.left), self.expression(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) not in _OPERATORS:
            raise FormulaError(f"a formula cannot contain the operator {type(node.op).__name__}")
        if isinstance(node.op, ast.Div) and right == 0:
            raise FormulaError("a formula divides by zero")
        return _OPERATORS[type(node.op)](left, right)

    def _unaryop(self, node: ast.UnaryOp) -> sp.Expr:
        if not isinstance(node.op, (ast.UAdd, ast.USub)):
            raise FormulaError(f"a formula cannot contain the operator {type(node.op).__name__}")
        value = self.expression(node.operand)
        return -value if isinstance(node.op, ast.USub) else value

    def _compare(self, node: ast.Compare) -> Any:
        if len(node.ops) != 1 or type(node.ops[0]) not in _RELATIONS:
            raise FormulaError("a condition compares two expressions by <, <=, > or >=")
        return _RELATIONS[type(node.ops[0])](self.expression(node.left), self.expression(node.comparators[0]))

    def _subscript(self, node: ast.Subscript) -> sp.Expr:
        if self.sizes is None or not isinstance(node.value, ast.Name) or node.value.id not in self.tables:
            raise FormulaError(f"{ast.unparse(node)} is not an entry of an input or of an earlier step")
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        at = tuple(int(v) if (v := self.expression(p)).is_Integer else -1 for p in parts)
        table = self.tables[node.value.id]
        if at not in table:
            raise FormulaError(f"{ast.unparse(node)} is outside {node.value.id} at {at}")
        return table[at]

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise FormulaError(f"a formula cannot call {_short(ast.unparse(node.func))}")
        name = node.func.id
        if name not in FUNCTIONS and name.lower() in FUNCTIONS:
            name = name.lower()  # ReLU, GELU, Tanh, as torch.nn spells them
        if name in ("sum", "mean"):
            return self._reduce(name, node.args)
        if name == "where" and len(node.args) == 3:
            condition, yes, no = (self.expression(a) for a in node.args)
            return sp.Piecewise((yes, condition), (no, True))
        if name == "Piecewise":
            return self._piecewise(node.args)
        if name not in FUNCTIONS:
            raise FormulaError(f"unknown function {_short(name)}; known: {known()}, where, sum, mean")
        low, high = _ARITY.get(name, (1, 1))
        if not low <= len(node.args) <= high:
            count = low if low == high else f"{low} to {high}"
            raise FormulaError(f"{name} takes {count} argument(s), not {len(node.args)}")
        return FUNCTIONS[name](*(self.expression(a) for a in node.args))

    def _piecewise(self, args: list[ast.expr]) -> sp.Expr:
        """Piecewise((value, condition), ..., (value, True)), as sympy prints it."""
        pairs = []
        for k, arg in enumerate(args):
            if not isinstance(arg, ast.Tuple) or len(arg.elts) != 2:
                raise FormulaError("Piecewise is written Piecewise((value, condition), ..., (value, True))")
            always = isinstance(arg.elts[1], ast.Constant) and arg.elts[1].value is True
            if always != (k == len(args) - 1):
                raise FormulaError("the last condition of a Piecewise is True, and no other")
            pairs.append((self.expression(arg.elts[0]), True if always else self.expression(arg.elts[1])))
        return sp.Piecewise(*pairs)

    def _reduce(self, name: str, args: list[ast.expr]) -> sp.Expr:
        names = [a.id for a in args[:-1] if isinstance(a, ast.Name)]
        if self.sizes is None or not names or len(names) != len(args) - 1:
            raise FormulaError(f"{name} is written {name}(i, expression in i) and needs an indexed formula")
        values = [self.at(dict(zip(names, at, strict=True)), args[-1]) for at in _positions(tuple(names), self.sizes)]
        total = sp.Add(*values)
        return total if name == "sum" else total / len(values)


def _power(base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
    if exponent.is_number and (not exponent.is_real or abs(exponent) > MAX_EXPONENT):
        raise FormulaError(f"an exponent of a formula lies between -{MAX_EXPONENT} and {MAX_EXPONENT}")
    if base == 0 and not exponent.is_positive:
        raise FormulaError("a formula raises zero to a power that is not positive")
    if not exponent.is_number and not (base.is_number and base.is_positive):
        raise FormulaError("a variable exponent needs a positive constant base, as in 2**x; else write exp(y*log(x))")
    if base.is_Rational and exponent.is_Rational and _bits(base) * abs(exponent) > MAX_BITS:
        raise FormulaError("a number in a formula is too large")
    power = sp.Pow(base, exponent)
    if isinstance(power, sp.Pow) and power.exp.is_number and abs(power.exp) > MAX_EXPONENT:
        raise FormulaError(f"an exponent of a formula lies between -{MAX_EXPONENT} and {MAX_EXPONENT}")
    return power


def _bits(number: sp.Rational) -> int:
    return max(int(number.p).bit_length(), int(number.q).bit_length())


def _tree(text: str, mode: str) -> Any:
    if not isinstance(text, str) or not text.strip():
        raise FormulaError("an empty formula")
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"a formula of {len(text)} characters is too long (at most {MAX_LENGTH})")
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        raise FormulaError(f"a number in a formula has at most {MAX_DIGITS} digits")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # python's own remarks on odd literals; the whitelist decides
            tree = ast.parse(text.strip().replace("^", "**"), mode=mode)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise FormulaError(f"{_short(text)} is not a formula: {getattr(error, 'msg', error)}") from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES or _depth(tree) > MAX_DEPTH:
        raise FormulaError(f"the formula {_short(text)} is too large")
    return tree


def _depth(tree: ast.AST) -> int:
    level, depth = [tree], 0
    while level:
        level, depth = [c for n in level for c in ast.iter_child_nodes(n)], depth + 1
    return depth


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else flat[:57] + "...")


_KINDS = {"Attribute": "an attribute", "Lambda": "a lambda", "ListComp": "a comprehension", "JoinedStr": "a string"}
