"""Training flows read from ``rules/optimizer.toml``, brought to one normal form per parameter.

Every row is an equation that is linear in the derivatives and the gradient. The normal form is

    theta'' [if inertia] + friction theta' + P grad + P rho(theta) = 0    (without inertia theta' has coefficient 1)

with P the preconditioner and rho the covector of decay. Nothing in a row says what is conserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import sympy as sp

from symdisc.conserved.expressions import parse_scalar
from symdisc.errors import BadInput, FormulaError, RuleError

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

__all__ = ["Flow", "FlowRule", "Local", "THETA", "TIME", "load_flows", "read_flows", "tex"]

THETA = sp.Symbol("theta", real=True)
TIME = sp.Symbol("t", positive=True)
_D1, _D2, _GRAD, _AVERAGE = sp.symbols("D1 D2 grad average")
_STATE = {"theta": THETA, "t": TIME, "D1": _D1, "D2": _D2, "grad": _GRAD, "average": _AVERAGE}
KINDS = ("number", "formula", "shared", "history", "fisher")
_DEFAULTS: Mapping[str, Any] = {"eta": 1}


@dataclass(frozen=True)
class FlowRule:
    """One row: the equation and what is known of its symbols."""

    name: str
    equation: str
    symbols: tuple[tuple[str, str], ...]
    domain: str = ""
    cites: tuple[str, ...] = ()


@dataclass(frozen=True)
class Local:
    """The flow as one parameter sees it; P is of ``kind`` "function" (of theta), "shared", "history" or "fisher"."""

    inertia: bool
    friction: sp.Expr
    precondition: sp.Expr
    rho: sp.Expr
    kind: str
    averaged: bool
    domain: str = ""

    @property
    def frozen(self) -> bool:
        return bool(self.precondition == 0)

    @property
    def radial(self) -> bool:
        """The decay is a number times theta, so that what turns about 0 does not see it."""
        return not sp.simplify(self.rho / THETA).has(THETA)

    @property
    def constant(self) -> bool:
        """P is a number (or a shared function of time, which only changes the clock)."""
        return not self.precondition.has(THETA)


@dataclass(frozen=True)
class Flow:
    """A row of ``rules/optimizer.toml`` with values for its symbols.

    A value is a number, or (kind "formula") text in ``theta``, or a mapping from parameter name to such values with "*"
    for the rest. Numbers that are not given stay symbols; the learning rate ``eta`` is 1 unless given; a rate of 0
    freezes the parameter. ``others`` gives single parameters a flow of their own (mixed mirror flows).

    >>> Flow("weight_decay", {"lam": 0.01, "eta": {"*": 0.1, "head.weight": 0.01}})
    """

    name: str = "gradient_flow"
    values: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Flow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = dict(self.rule.symbols)
        unknown = set(self.values) - set(known)
        if unknown:
            raise BadInput(
                f"flow {self.name!r} has no symbol {sorted(unknown)[0]!r}; its symbols: {', '.join(known) or 'none'}"
            )

    @property
    def rule(self) -> FlowRule:
        rules = load_flows()
        if self.name not in rules:
            raise BadInput(f"no flow is called {self.name!r} in rules/optimizer.toml: {', '.join(rules)}")
        return rules[self.name]

    def at(self, parameter: str) -> Local:
        """The normal form for one parameter; raises BadInput for values that do not fit."""
        flow = self.others.get(parameter, self)
        chosen = tuple((s, kind, flow._value(s, kind, parameter)) for s, kind in flow.rule.symbols)
        return _normal_form(flow.rule, chosen)

    def _value(self, symbol: str, kind: str, parameter: str) -> str | None:
        value = self.values.get(symbol, _DEFAULTS.get(symbol))
        if isinstance(value, Mapping):
            if parameter not in value and "*" not in value:
                raise BadInput(f"flow {self.name!r}: {symbol} has no value for {parameter}; give one, or one under '*'")
            value = value.get(parameter, value.get("*"))
        if value is not None and kind in ("shared", "history", "fisher"):
            raise BadInput(f"flow {self.name!r}: {symbol} is made by the optimizer ({kind}) and takes no value")
        return None if value is None else str(value)


@cache
def _normal_form(rule: FlowRule, chosen: tuple[tuple[str, str, str | None], ...]) -> Local:
    symbols: dict[str, sp.Expr] = dict(_STATE)
    kinds = {}
    for name, kind, value in chosen:
        symbol = sp.Symbol(name, positive=True)
        kinds[kind] = symbol
        if value is None:
            symbols[name] = sp.Function(name)(TIME) if kind == "shared" else symbol
        else:
            symbols[name] = parse_scalar(value, {"theta": THETA} if kind == "formula" else {})
        if kind == "formula" and value is None:
            raise BadInput(f"flow {rule.name!r} needs a formula for {name}, such as {name}=\"theta**2\"")
    left = sp.expand(parse_scalar(rule.equation, symbols))
    a2, a1, ag, aa = (sp.diff(left, s) for s in (_D2, _D1, _GRAD, _AVERAGE))
    rest = left.subs({_D2: 0, _D1: 0, _GRAD: 0, _AVERAGE: 0})
    lead = a2 if a2 != 0 else a1
    if lead == 0 or any(c.has(_D2, _D1, _GRAD, _AVERAGE) for c in (a2, a1, ag, aa)) or (ag != 0 and aa != 0):
        raise RuleError(
            f"rules/optimizer.toml, row {rule.name!r}, equation: must be linear in D1, D2, grad (or average)"
        )
    precondition = sp.simplify((ag + aa) / lead)
    kind = next((k for k in ("history", "fisher", "shared") if k in kinds), "function")
    if kind == "shared":  # a common function of time changes the clock alone
        precondition = precondition.subs({f: 1 for f in precondition.atoms(sp.core.function.AppliedUndef)})
    elif kind != "function":
        precondition = precondition.subs(kinds[kind], 1)
    rho = sp.Integer(0) if precondition == 0 else sp.simplify(rest / lead / precondition)
    friction = sp.simplify(a1 / lead) if a2 != 0 else sp.Integer(1)
    return Local(a2 != 0, friction, precondition, rho, kind, aa != 0, rule.domain)


def tex(value: sp.Expr) -> str:
    """LaTeX of a number of a flow; ``lam`` is a name that Python allows."""
    return str(sp.latex(value, symbol_names={sp.Symbol("lam", positive=True): r"\lambda "}))


@cache
def load_flows() -> Mapping[str, FlowRule]:
    """The rows of ``rules/optimizer.toml`` by name."""
    return read_flows(_find("optimizer.toml"))


def read_flows(path: Path) -> Mapping[str, FlowRule]:
    """The rows of a file of flows by name; raises RuleError naming file, row and key."""
    try:
        with path.open("rb") as file:
            rows = tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"{path}: {error}") from error
    if set(rows) != {"flow"}:
        raise RuleError(f"{path}: only [[flow]] rows are read, found {sorted(set(rows) - {'flow'})}")
    found: dict[str, FlowRule] = {}
    for i, row in enumerate(rows["flow"]):
        rule = _rule(path, i, row)
        if rule.name in found:
            raise RuleError(f"{path}, row {i + 1}: flow {rule.name!r} is there twice")
        found[rule.name] = rule
    return found


def _rule(path: Path, i: int, row: Mapping[str, Any]) -> FlowRule:
    where = f"{path}, row {i + 1} ({row.get('name', 'no name')})"
    unknown = set(row) - {"name", "equation", "symbols", "domain", "cites"}
    missing = {"name", "equation", "symbols", "cites"} - set(row)
    if unknown or missing:
        wrong = f"{sorted(unknown)[0]!r} is unknown" if unknown else f"{sorted(missing)[0]!r} is missing"
        raise RuleError(f"{where}: key {wrong}")
    for name, kind in row["symbols"].items():
        if kind not in KINDS:
            raise RuleError(f"{where}, symbol {name}: kind {kind!r} is none of {', '.join(KINDS)}")
    try:
        parse_scalar(row["equation"], {**_STATE, **{s: sp.Symbol(s) for s in row["symbols"]}})
    except FormulaError as error:
        raise RuleError(f"{where}, equation: {error}") from error
    return FlowRule(
        row["name"], row["equation"], tuple(row["symbols"].items()), row.get("domain", ""), tuple(row["cites"])
    )


def _find(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    places = (package / "rules" / name, package.parent / "rules" / name)
    for place in places:
        if place.is_file():
            return place
    raise RuleError(f"{name} is neither at {places[0]} nor at {places[1]}; reinstall symdisc")
