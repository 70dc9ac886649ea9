"""What training keeps of a factor: conserved quantities of gradient flow, and what other flows make of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sympy as sp

from symdisc.conserved import ConservedQuantity, conserved_quantities
from symdisc.entries.factors import Places
from symdisc.entries.notation import poly
from symdisc.entries.polynomials import interpolate, symbol
from symdisc.entry import Factor, Law, Poly
from symdisc.errors import SymdiscError
from symdisc.symmetry import Symmetry

__all__ = ["FLOWS", "Members", "kept", "laws"]

# rows of rules/optimizer.toml; their constants stay symbols
FLOWS = ("gradient_flow", "weight_decay", "momentum", "adamw")
BLOCK = sp.Symbol("n")  # size of a block of a matrix group
# symmetric, antisymmetric and full matrices of that size, those that fix one vector, traces
BLOCK_COUNTS = (sp.Integer(1), BLOCK, BLOCK - 1, BLOCK * (BLOCK + 1) / 2, BLOCK * (BLOCK - 1) / 2, (BLOCK - 1) * (BLOCK - 2) / 2, BLOCK**2)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Members:
    """A factor at all members of the family: their sizes, the shapes of their tensors, its places there, and its dimension."""

    points: Sequence[Mapping[str, int]]
    shapes: Sequence[Shapes]
    places: Sequence[Places]
    dimension: sp.Expr | None


def laws(s: Symmetry, shapes: Shapes, members: Members, relabel: Callable[[str], str]) -> tuple[Law, ...]:
    """One record per flow and part of the algebra, for a representative ``s`` at ``shapes``; ``relabel`` shortens names in formulas.

    The number of conserved numbers is interpolated over the members of the family.
    """
    found: list[Law] = []
    for flow in FLOWS:
        try:
            quantities = conserved_quantities((s,), shapes, None if flow == "gradient_flow" else flow)
        except SymdiscError as error:
            found.append(Law(flow, "undecided", rf"\text{{{error}}}", None))
            continue
        for q in quantities:
            told = q.law if flow != "gradient_flow" and q.status in ("decays", "driven") and q.law else q.latex()
            found.append(Law(flow, q.status, relabel(_without_sizes(told)), _numbers(q, s, flow, members)))
    return tuple(found)


def _without_sizes(latex: str) -> str:
    """Sums over all entries of an axis without their number, constants of the flow as letters."""
    latex = re.sub(r"\\sum_\{k=1\}\^\{?\d+\}?", r"\\sum_{k}", latex)
    return re.sub(r"(?<![A-Za-z\\{])(lam|eta|tau)(?![A-Za-z])", lambda m: {"lam": r"\lambda "}.get(m[1], "\\" + m[1] + " "), latex)


def _numbers(q: ConservedQuantity, s: Symmetry, flow: str, members: Members) -> Poly | None:
    if not q.form or q.dimension == 0:
        return poly(sp.Integer(0))
    own = q.count(q.part, s) != q.dimension  # a quantity of its own, whose size the algebra does not tell
    if len(s.shape) == 3 and not own:
        return _of_matrices(q, members.points, members.places)
    there = [[t for t in at.found if isinstance(t, Symmetry)] for at in members.places]
    counts = [[_derived(q, t, flow, shapes) if own else q.count(q.part, t) for t in at]
              for at, shapes in zip(there, members.shapes, strict=True)]
    if all(n == t.dimension for at, ns in zip(there, counts, strict=True) for t, n in zip(at, ns, strict=True)):
        return None if members.dimension is None else poly(members.dimension)  # known as a product, of which sums need more points
    found = interpolate(members.points, [sum(ns) for ns in counts]).polynomial
    return None if found is None else poly(found)


def _derived(q: ConservedQuantity, t: Symmetry, flow: str, shapes: Shapes) -> int:
    """The numbers in the like quantity of another symmetry of the factor."""
    others = conserved_quantities((t,), shapes, None if flow == "gradient_flow" else flow)
    return sum(other.dimension for other in others if (other.part, other.status) == (q.part, q.status))


def _of_matrices(q: ConservedQuantity, points: Sequence[Mapping[str, int]], places: Sequence[Places]) -> Poly | None:
    """Of a matrix group: every block carries as many numbers, the one function of its size that agrees at all points (None where the
    sizes met leave more than one)."""
    there = [(p, at.found[0]) for p, at in zip(points, places, strict=True) if at.found]
    copies = interpolate(points, [sum(t.shape[0] for t in at.found) for at in places]).polynomial
    size = interpolate([p for p, _ in there], [t.shape[1] for _, t in there]).polynomial
    if copies is None or size is None:
        return None
    agreeing = {sp.expand(copies * each.subs(BLOCK, size)) for each in BLOCK_COUNTS
                if all(q.count(q.part, t) == t.shape[0] * each.subs(BLOCK, t.shape[1]) for _, t in there if isinstance(t, Symmetry))}
    return poly(agreeing.pop()) if len(agreeing) == 1 else None


def kept(factors: Sequence[Factor]) -> sp.Expr | None:
    """The conserved numbers of gradient flow of all factors; None where those of one are not known in symbolic sizes."""
    numbers = [law.numbers for f in factors for law in f.laws if law.flow == "gradient_flow" and law.status in ("conserved", "undecided")]
    if any(n is None for n in numbers):
        return None
    names = {s: symbol(s) for n in numbers if n is not None for s in re.findall(r"[A-Za-z_]\w*", n.text)}
    return sp.expand(sp.Add(*(sp.sympify(n.text, locals=names) for n in numbers if n is not None)))
