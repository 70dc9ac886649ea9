"""The entry: a formula, a sympy expression, a rule's name or a torch callable to its solved equivariance."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sympy as sp

from symdisc.equivariance.discrete import affine_elements, permutation, several_inputs
from symdisc.equivariance.record import PROVED, WITNESSED, Equivariance
from symdisc.equivariance.scalar import solve_scalar
from symdisc.equivariance.units import fixed_points, name_unit, total_dimension, unit_pairs
from symdisc.equivariance.vector import discrete_of, operator, solve_vector
from symdisc.errors import BadInput, FormulaError
from symdisc.formula import IndexedFormula, check_expression, is_indexed, parse, parse_indexed, to_text, variable
from symdisc.rulebook import Rule, rulebook

__all__ = ["equivariance"]


def equivariance(spec: str | sp.Expr | Callable[..., Any], size: int | None = None, **values: Any) -> Equivariance:
    """All affine pairs and discrete affine elements under which an operator is equivariant.

    ``spec`` is the text of a formula in one variable (``"x*tanh(x)"``) or several (``"silu(g)*u"``), of an indexed
    formula (``"y[i] = x[i]/sqrt(sum(j, x[j]**2))"``), a sympy expression, the name of a rule (``"softmax"``), or a
    torch callable. ``size`` is the feature size; without it elementwise operators are counted per unit, others are
    refused. ``values`` replace constants of a rule (``eps=0``). Solves Df(x)[M x + m] = N f(x) + n (Godfrey et al.,
    arXiv:2205.14258, with affine maps).

    Raises FormulaError for text outside the grammar, BadInput for a spec or size that cannot be used, Undecided when
    the evidence has no clear gap.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise BadInput(f"size must be a positive whole number, not {size!r}")
    if isinstance(spec, str):
        rule = rulebook().get(spec.strip())
        if rule is not None:
            return _of_rule(rule, size, values)
        _no_values(values)
        return _of_text(spec, size)
    _no_values(values)
    if isinstance(spec, sp.Basic):
        if not isinstance(spec, sp.Expr):
            raise FormulaError(f"{spec} is no expression")
        return _elementwise(str(spec), check_expression(spec), (), size)
    if callable(spec):
        from symdisc.equivariance.blackbox import solve_callable
        from symdisc.torchside.probe import Probe

        return solve_callable(Probe.of(spec), size)
    raise BadInput(
        f"equivariance takes a formula, a sympy expression, a rule's name or a callable, not {type(spec).__name__}"
    )


def _no_values(values: Mapping[str, Any]) -> None:
    if values:
        raise BadInput(f"{sorted(values)[0]!r} is a constant of no rule; write the number into the formula")


def _of_text(text: str, size: int | None) -> Equivariance:
    if is_indexed(text):
        return _of_indexed(text, size)
    stripped = text.strip()
    if stripped.isidentifier() and len(stripped) > 1:
        near = difflib.get_close_matches(stripped, rulebook().names, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; rules: {', '.join(rulebook().names)}"
        raise BadInput(f"{stripped!r} is no rule, and as a formula only a bare variable{hint}")
    return _elementwise(stripped, parse(stripped), (), size)


def _of_indexed(text: str, size: int | None) -> Equivariance:
    """An indexed formula with no declarations: every free name is an input, its axes those it is written with."""
    formula = parse_indexed(text)
    inputs = formula.used_axes()
    axes = {a for names in inputs.values() for a in names} | formula.indices
    _needs_size(text, size)
    assert size is not None
    return _whole(text, formula, inputs, (), dict.fromkeys(axes, size), {}, size)


def _needs_size(name: str, size: int | None) -> None:
    if size is None:
        raise BadInput(
            f"{name} mixes the units of a feature space: give the feature size, as in equivariance({name!r}, size=4)"
        )


def _of_rule(rule: Rule, size: int | None, values: Mapping[str, Any]) -> Equivariance:
    unknown = set(values) - set(dict(rule.symbols))
    if unknown:
        raise BadInput(
            f"rule {rule.name} has no constant {sorted(unknown)[0]!r}; it has {', '.join(dict(rule.symbols)) or 'none'}"
        )
    if rule.params:
        raise BadInput(
            f"{rule.name} has parameters ({', '.join(dict(rule.params))}): it is a segment between nodes and absorbs "
            "what its two ends do; ask symdisc.discover for a network with it"
        )
    if rule.elementwise:
        return _elementwise(rule.name, rule.expression(**values), rule.variables, size)
    _needs_size(rule.name, size)
    assert size is not None
    symbols = {**dict(rule.symbols), **{k: parse(str(v)) for k, v in values.items()}}
    axes = {a for _, names in rule.inputs for a in names} | rule.indexed.indices
    sizes = {a: rule.size_of(a, size) for a in axes}
    return _whole(rule.name, rule.indexed, dict(rule.inputs), rule.data, sizes, symbols, size)


@lru_cache(maxsize=256)
def _elementwise(name: str, f: sp.Expr, inputs: tuple[str, ...], size: int | None) -> Equivariance:
    variables = tuple(variable(v) for v in inputs) or tuple(sorted(f.free_symbols, key=str)) or (variable("x"),)
    found = solve_scalar(f, variables)
    several = len(variables) > 1
    discrete: tuple[Any, ...] = ()
    if found.kind == "generic":
        elements = (
            several_inputs(f, variables) if several else affine_elements(f, variables[0], fixed_points(found.basis))
        )
        discrete = (permutation(several), *elements)
    labels = tuple(v.name for v in variables)
    return Equivariance(
        name,
        to_text(f),
        total_dimension(found.kind, found.dimension, len(variables), size),
        name_unit(found.kind, found.names, found.basis, labels, size),
        discrete,
        PROVED if found.proved else WITNESSED,
        True,
        labels,
        size,
        pairs=unit_pairs(found.names, found.basis, found.lower_proved),
        evidence={
            "samples": found.samples,
            "rank": found.rank,
            "nothing more": found.upper_proved,
            "kind": found.kind,
            "arithmetic": "balls of 330 bits; sympy",
        },
    )


def _whole(
    name: str,
    formula: IndexedFormula,
    inputs: Mapping[str, Sequence[str]],
    data: Sequence[str],
    sizes: Mapping[str, int],
    symbols: Mapping[str, sp.Expr],
    size: int,
) -> Equivariance:
    key = (
        name,
        formula.text,
        tuple((k, tuple(v)) for k, v in inputs.items()),
        tuple(data),
        tuple(sorted(sizes.items())),
        tuple(sorted(symbols.items())),
        size,
    )
    return _whole_cached(*key)


@lru_cache(maxsize=64)
def _whole_cached(
    name: str,
    text: str,
    inputs: tuple[tuple[str, tuple[str, ...]], ...],
    data: tuple[str, ...],
    sizes: tuple[tuple[str, int], ...],
    symbols: tuple[tuple[str, sp.Expr], ...],
    size: int,
) -> Equivariance:
    op = operator(parse_indexed(text), dict(inputs), data, dict(sizes), dict(symbols))
    found = solve_vector(op)
    return Equivariance(
        name,
        text,
        found.dimension,
        found.families,
        discrete_of(op),
        PROVED if found.proved else WITNESSED,
        False,
        tuple(k for k, _ in inputs),
        size,
        sizes,
        found.pairs,
        tuple(tuple(map(float, r)) for r in found.remainder.T),
        {
            "gap": found.gap,
            "samples": found.samples,
            "nothing more": found.upper_proved,
            "arithmetic": "balls of 330 bits; sympy",
        },
    )
