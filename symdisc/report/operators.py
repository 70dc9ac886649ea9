"""The matrix of operators: what is derived for every rule of the rulebook, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from symdisc.equivariance import Equivariance, equivariance
from symdisc.rulebook import Rule, rulebook

__all__ = ["SIZE", "matrix", "row"]

SIZE = 4  # of operators that are not elementwise: even, for rotary planes
HEAD = f"""# Operators

What is derived for every rule without parameters in `rules/`: the dimension of all pairs (M, N) with f(Mx + m) = N f(x) + n, per
unit for elementwise operators and at size {SIZE} for the others, the families that span it, and the discrete elements.
Operators with parameters (linear, convolutions, gains) absorb what their two ends do and have no algebra of their own.

Made by: symdisc derive --all

| operator | formula | dimension | continuous families | discrete | status |
|---|---|---|---|---|---|
"""


def matrix(progress: Iterable[Rule] | None = None) -> str:
    """The whole table; takes some twenty seconds, for every row is solved and proved. ``progress`` wraps the rules."""
    return HEAD + "".join(f"{row(rule)}\n" for rule in progress or nodes())


def nodes() -> Iterator[Rule]:
    """Rules of operators without parameters, in the order of the rulebook."""
    return (rule for rule in rulebook() if not rule.params)


def row(rule: Rule) -> str:
    """One line of the table."""
    found = equivariance(rule.name) if rule.elementwise else equivariance(rule.name, size=SIZE)
    families = "; ".join(f.name for f in found.families) or "none"
    cells = (f"`{rule.name}`", f"`{' '.join(rule.formula.split())}`", f"{found.dimension}", families, _discrete(found), found.status)
    return f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"


def _discrete(found: Equivariance) -> str:
    counts: dict[str, int] = {}
    for element in found.discrete:
        counts[element.kind] = counts.get(element.kind, 0) + 1
    return ", ".join(kind if n == 1 else f"{n} × {kind}" for kind, n in counts.items()) or "none"
