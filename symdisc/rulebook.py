"""Read, validate and index ``rules/``: what operators compute, as data. Read when first asked for, once, without
torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import sympy as sp

from symdisc.errors import FormulaError, RuleError
from symdisc.formula import IndexedFormula, free_names, is_indexed, parse, parse_indexed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["FILES", "Rule", "Rulebook", "read", "rulebook"]

FILES = ("scalar.toml", "functions.toml", "gates.toml", "affine.toml", "norm.toml", "attention.toml", "wiring.toml")
_KEYS = {
    "name",
    "torch",
    "module",
    "formula",
    "symbols",
    "inputs",
    "params",
    "data",
    "sizes",
    "domain",
    "cites",
    "note",
}
_NEEDED = {"name", "torch", "formula", "cites"}


@dataclass(frozen=True)
class Rule:
    """One row: what an operator computes.

    ``inputs`` and ``params`` map names to axis names (empty for elementwise rules); ``data`` are axes on which nothing
    acts (tokens); ``sizes`` are axis sizes that do not follow the size asked for; ``symbols`` are constants with their
    usual value.
    """

    name: str
    formula: str
    torch: tuple[str, ...]
    module: str | None
    symbols: tuple[tuple[str, sp.Expr], ...]
    inputs: tuple[tuple[str, tuple[str, ...]], ...]
    params: tuple[tuple[str, tuple[str, ...]], ...]
    data: tuple[str, ...]
    sizes: tuple[tuple[str, str], ...]
    domain: str
    cites: tuple[str, ...]
    where: str

    @property
    def elementwise(self) -> bool:
        return not is_indexed(self.formula)

    @cached_property
    def indexed(self) -> IndexedFormula:
        """The indexed formula of a rule that is not elementwise."""
        return parse_indexed(self.formula)

    def expression(self, **values: Any) -> sp.Expr:
        """The formula of an elementwise rule, with its symbols at their usual or given values."""
        return parse(self.formula, {**dict(self.symbols), **{k: parse(str(v)) for k, v in values.items()}})

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the inputs of an elementwise rule."""
        return tuple(sorted(free_names(self.formula) - set(dict(self.symbols)))) or ("x",)

    def size_of(self, axis: str, size: int) -> int:
        """The size of an axis when the feature size is ``size``: a number, ``size`` or ``size/2`` in the row."""
        said = dict(self.sizes).get(axis)
        if said is None:
            return 3 if axis in self.data else size
        if said.isdigit():
            return int(said)
        if said == "size/2":
            if size % 2:
                raise RuleError(f"{self.where}: {self.name} needs an even size, not {size}")
            return size // 2
        return size


@dataclass(frozen=True)
class Rulebook:
    """All rules, by name and by torch name."""

    rules: tuple[Rule, ...]

    @cached_property
    def _index(self) -> Mapping[str, Rule]:
        index = {n: r for r in self.rules for n in r.torch}
        index.update({r.module: r for r in self.rules if r.module})
        index.update({r.name: r for r in self.rules})
        return index

    def __iter__(self) -> Any:
        return iter(self.rules)

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def get(self, name: str) -> Rule | None:
        """The rule of that name, torch operator or torch.nn class, or None."""
        return self._index.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(r.name for r in self.rules)


@lru_cache(maxsize=1)
def rulebook() -> Rulebook:
    """The rules that come with symdisc. Raises RuleError when the folder is missing or a row is wrong."""
    folder = _folder()
    return read([folder / name for name in FILES])


def _folder() -> Path:
    package = Path(__file__).resolve().parent
    places = (package / "rules", package.parent / "rules")
    for place in places:
        if (place / FILES[0]).is_file():
            return place
    raise RuleError(f"the rules are neither in {places[0]} nor in {places[1]}; reinstall symdisc")


def read(paths: Iterable[Path]) -> Rulebook:
    """Rules from files; raises RuleError naming file, row and key for anything that is not read or said twice."""
    rules: list[Rule] = []
    seen: dict[str, str] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                table = tomllib.load(file)
        except OSError as error:
            raise RuleError(f"{path}: cannot be read ({error.strerror})") from error
        except tomllib.TOMLDecodeError as error:
            raise RuleError(f"{path}: {error}") from error
        if set(table) != {"operator"} or not isinstance(table["operator"], list):
            found = ", ".join(sorted(set(table) - {"operator"})) or "none"
            raise RuleError(f"{path}: only [[operator]] rows are read, found {found}")
        for number, row in enumerate(table["operator"], 1):
            rule = _rule(f"{path.name}, row {number} ({row.get('name', 'no name')})", row)
            for key in {rule.name, *rule.torch, *([rule.module] if rule.module else [])}:
                if key in seen:
                    raise RuleError(f"{rule.where}, key torch: {key!r} already belongs to {seen[key]}")
                seen[key] = rule.where
            rules.append(rule)
    return Rulebook(tuple(rules))


def _rule(where: str, row: Mapping[str, Any]) -> Rule:
    for key in row:
        if key not in _KEYS:
            raise RuleError(f"{where}, key {key}: unknown; a row has {', '.join(sorted(_KEYS))}")
    for key in sorted(_NEEDED - set(row)):
        raise RuleError(f"{where}, key {key}: missing")
    _check_types(where, row)
    symbols = tuple((k, _value(where, k, v)) for k, v in row.get("symbols", {}).items())
    rule = Rule(
        row["name"],
        row["formula"],
        tuple(row["torch"]),
        row.get("module"),
        symbols,
        _axes(row.get("inputs", {})),
        _axes(row.get("params", {})),
        tuple(row.get("data", ())),
        tuple((k, str(v)) for k, v in row.get("sizes", {}).items()),
        row.get("domain", ""),
        tuple(row["cites"]),
        where,
    )
    _check_formula(rule)
    return rule


def _axes(table: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((k, tuple(v)) for k, v in table.items())


def _check_types(where: str, row: Mapping[str, Any]) -> None:
    kinds = {
        "name": str,
        "formula": str,
        "module": str,
        "domain": str,
        "note": str,
        "torch": list,
        "cites": list,
        "data": list,
        "symbols": dict,
        "inputs": dict,
        "params": dict,
        "sizes": dict,
    }
    for key, value in row.items():
        if not isinstance(value, kinds[key]):
            raise RuleError(f"{where}, key {key}: must be a {kinds[key].__name__}, not {value!r}")
    for axis, said in row.get("sizes", {}).items():
        if not (isinstance(said, int) or said in ("size", "size/2")):
            raise RuleError(f'{where}, key sizes: {axis} is a number, "size" or "size/2", not {said!r}')


def _value(where: str, name: str, value: Any) -> sp.Expr:
    try:
        return parse(str(value))
    except FormulaError as error:
        raise RuleError(f"{where}, key symbols: {name}: {error}") from error


def _check_formula(rule: Rule) -> None:
    where = f"{rule.where}, key formula"
    try:
        if rule.elementwise:
            rule.expression()
            unused = set(dict(rule.symbols)) - free_names(rule.formula)
            undeclared: set[str] = {v for v in rule.variables if rule.inputs and v not in dict(rule.inputs)}
        else:
            declared = {k for k, _ in (*rule.inputs, *rule.params, *rule.symbols)}
            unused = declared - rule.indexed.names
            undeclared = set(rule.indexed.names - declared - set(dict(rule.sizes)) - set(rule.data))
            axes = (
                {a for _, names in (*rule.inputs, *rule.params) for a in names} | set(dict(rule.sizes)) | set(rule.data)
            )
            undeclared |= set(rule.indexed.result.indices) - axes - rule.indexed.indices
    except FormulaError as error:
        raise RuleError(f"{where}: {error}") from error
    if undeclared:
        raise RuleError(f"{where}: {sorted(undeclared)[0]!r} is not declared in inputs, params or symbols")
    if unused:
        raise RuleError(f"{where}: {sorted(unused)[0]!r} is declared but not used")
