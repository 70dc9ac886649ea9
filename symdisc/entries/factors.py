"""Factors of the group in symbolic sizes: like symmetries of all members of a family, their sizes and counts as polynomials.

Two symmetries belong to one factor when name, family and all names that they touch agree up to counting numbers (layers). The
integers inside the group of a factor, the number of its places and its dimension are interpolated one by one.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sympy as sp

from symdisc.entries.polynomials import evaluate, interpolate
from symdisc.entries.slots import Slots
from symdisc.report.content import place
from symdisc.symmetry import Discrete, Symmetry

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Key", "Places", "Range", "Shape", "Symbolic", "collect", "ends", "symbolic"]

Sizes = Mapping[str, int]
BLOCKS = "permutation of blocks"
_POWER = re.compile(r"(.*)\^\{(\d+)\}", re.DOTALL)
_INTEGER = re.compile(r"(?<![>{\d.])\d+|(?<=_\{)\d+(?=\})")  # not the 0 of R_{>0} nor the 1 of a bold 1
# dimension of one copy of a group, from the integer in its name
_DIMENSIONS = {r"\mathrm{GL}(@)": lambda n: n**2, r"\mathrm{SO}(@)": lambda n: n * (n - 1) / 2, r"\mathbb{R}": lambda: 1,
               r"\mathbb{R}_{>0}": lambda: 1, r"\mathrm{GL}(@,\mathbb{C})": lambda n: 2 * n**2,
               r"\{1 + \mathbf{1} l^\top\}_{@}": lambda n: n}


@dataclass(frozen=True)
class Key:
    """What like symmetries share: name, family and the names that they touch (site first), counting numbers as ``#``; ``part``: they
    exchange blocks of a part of an axis (the experts of a group, beside the groups)."""

    name: str
    family: str
    names: tuple[str, ...]
    part: bool = False


@dataclass
class Places:
    """The symmetries of one member that belong to one factor, with the counting numbers of each."""

    found: list[Symmetry | Discrete] = field(default_factory=list)
    numbers: list[tuple[int, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Shape:
    """A group's LaTeX cut in three: base with ``@`` for integers, these integers, and the power of the whole."""

    base: str
    integers: tuple[int, ...]
    power: int

    @classmethod
    def of(cls, latex: str) -> Shape:
        found = _POWER.fullmatch(latex)
        base, power = (found[1], int(found[2])) if found else (latex, 1)
        if base.startswith("(") and base.endswith(")") and found:
            base = base[1:-1]
        return cls(_INTEGER.sub("@", base), tuple(int(n) for n in _INTEGER.findall(base)), power)


@dataclass(frozen=True)
class Range:
    """The values of one index: ``first`` to ``last`` in steps of ``step``; None where they are no such row at all sizes."""

    first: sp.Expr | None
    last: sp.Expr | None
    step: int = 1

    @property
    def single(self) -> int | None:
        """The one number that it always is."""
        return int(self.first) if self.first is not None and self.first == self.last and self.first.is_Integer else None


@dataclass(frozen=True)
class Symbolic:
    """A factor in symbolic sizes. ``base`` with ``integers`` put in place of ``@`` is the group of one copy, of which there are
    ``copies``; ``dimension`` is that of all. None stands for what is no polynomial; ``trouble`` then says at which sizes.
    ``unsettled``: more sizes may change that, as they cannot where the groups at those tried already differ in kind."""

    key: Key
    discrete: bool
    counted: bool
    base: str
    integers: tuple[sp.Expr, ...] | None
    copies: sp.Expr | None
    dimension: sp.Expr | None
    places: sp.Expr | None
    ranges: tuple[Range, ...]
    trouble: str = ""
    unsettled: bool = False


def collect(cat: Catalog, slots: Slots) -> dict[Key, Places]:
    """The symmetries of one member by factor, in order of appearance."""
    found: dict[Key, Places] = {}
    everything: list[Symmetry | Discrete] = [*cat.symmetries, *cat.discrete]
    for s in everything:
        names = place(s).names
        key = Key(s.name, s.family, tuple(dict.fromkeys(map(slots.pattern, names))), _of_a_part(s, cat))
        of_key = found.setdefault(key, Places())
        of_key.found.append(s)
        of_key.numbers.append(slots.relative(names)[1])
    return found


def _of_a_part(s: Symmetry | Discrete, cat: Catalog) -> bool:
    """Blocks are exchanged, and not all that stand along the first axis moved."""
    if s.name != BLOCKS:
        return False
    move = s.moves[0]
    moved, shape = move.index.positions().size, (cat.parameters | cat.buffers)[move.parameter]
    return move.axis >= 0 and moved < shape[move.axis]


def symbolic(points: Sequence[Sizes], members: Sequence[Mapping[Key, Places]]) -> tuple[Symbolic, ...]:
    """All factors that appear in any member."""
    keys = dict.fromkeys(k for m in sorted(members, key=len, reverse=True) for k in m)
    return tuple(_factor(key, points, [m.get(key, Places()) for m in members]) for key in keys)


def _factor(key: Key, points: Sequence[Sizes], places: Sequence[Places]) -> Symbolic:
    first = next(p.found[0] for p in places if p.found)
    discrete = isinstance(first, Discrete)
    groups = [[Shape.of(s.group_latex) for s in p.found] for p in places]
    bases = {g.base for at in groups for g in at}
    alike = len(bases) == 1 and all(len({g.integers for g in at}) <= 1 for at in groups)
    counts = interpolate(points, [len(p.found) for p in places]).polynomial
    ranges = tuple(_range(points, places, level) for level in range(_levels(places)))
    dimensions = [_dimension(p) for p in places]
    counted = discrete or bool(getattr(first, "counts", True))
    if not alike:
        said = "its groups differ between layers" if len(bases) == 1 else f"its group changes with the sizes: {', '.join(sorted(bases))}"
        dimension = None if discrete else interpolate(points, dimensions).polynomial
        return Symbolic(key, discrete, counted, first.group_latex, None, None, dimension, counts, ranges, said,
                        not discrete and dimension is None)
    there = [(p, at) for p, at in zip(points, groups, strict=True) if at]
    copies = interpolate(points, [sum(g.power for g in at) for at in groups]).polynomial
    copies = copies if copies is not None else _copies(points, places, counts)
    integers = [interpolate([p for p, _ in there], [at[0].integers[k] for _, at in there]).polynomial
                for k in range(len(there[0][1][0].integers))]
    base = bases.pop()
    whole = None if None in integers else tuple(integers)
    dimension = None
    if not discrete:
        known = _by_group(base, whole, copies, points, dimensions) if whole is not None and copies is not None else None
        dimension = known if known is not None else interpolate(points, dimensions).polynomial
    trouble = "" if whole is not None and copies is not None and (discrete or dimension is not None) else _where(points, places)
    return Symbolic(key, discrete, counted, base, whole, copies, dimension, counts, ranges, trouble, bool(trouble))


def _copies(points: Sequence[Sizes], places: Sequence[Places], counts: sp.Expr | None) -> sp.Expr | None:
    """Copies of a line, where they are no polynomial of low degree: places times what each has, or times entries of a matrix, read
    along each of its sides.

    A side is often another one less some product (what readers leave of a vector), which a few points decide.
    """
    there = [(p, [s for s in at.found if isinstance(s, Symmetry)]) for p, at in zip(points, places, strict=True) if at.found]
    powers = [{Shape.of(s.group_latex).power for s in at} for _, at in there]
    each = interpolate([p for p, _ in there], [min(of) for of in powers]).polynomial if all(len(of) == 1 for of in powers) else None
    if counts is not None and each is not None:
        return sp.expand(counts * each)
    plain = all(len({s.shape for s in at}) == 1 and math.prod(at[0].shape) == Shape.of(at[0].group_latex).power for _, at in there)
    if counts is None or not plain:
        return None
    sizes, shapes = [p for p, _ in there], [at[0].shape for _, at in there]
    if len({len(s) for s in shapes}) > 1:
        return None
    columns = list(zip(*shapes, strict=True))
    sides = [interpolate(sizes, c).polynomial for c in columns]
    for k, own in enumerate(sides):
        for j, other in enumerate(sides):
            if own is None and other is not None and sides[k] is None:
                less = interpolate(sizes, [a - b for a, b in zip(columns[j], columns[k], strict=True)]).polynomial
                sides[k] = None if less is None else other - less
    return None if None in sides else sp.expand(counts * sp.Mul(*sides))


def _levels(places: Sequence[Places]) -> int:
    """How many counting numbers every place has."""
    return min(len(n) for p in places for n in p.numbers)


def _dimension(p: Places) -> int:
    return sum(s.dimension for s in p.found if isinstance(s, Symmetry))


def _by_group(base: str, integers: tuple[sp.Expr, ...], copies: sp.Expr, points: Sequence[Sizes], values: Sequence[int]
              ) -> sp.Expr | None:
    """The dimension from the group's own formula, if it agrees with the dimension found at every point."""
    formula = _DIMENSIONS.get(base)
    if formula is None:
        return None
    polynomial = sp.expand(copies * formula(*integers))  # type: ignore[operator]
    return polynomial if all(evaluate(polynomial, p) == v for p, v in zip(points, values, strict=True)) else None


def _range(points: Sequence[Sizes], places: Sequence[Places], level: int) -> Range:
    """First, last and step of the values of one index, where they are an arithmetic row at all sizes."""
    return ends(points, [sorted({n[level] for n in at.numbers}) for at in places])


def ends(points: Sequence[Sizes], rows: Sequence[Sequence[int]]) -> Range:
    """The range of rows of numbers, one at each point (none where it is empty)."""
    there = [(p, row) for p, row in zip(points, rows, strict=True) if row]
    steps = {b - a for _, row in there for a, b in itertools.pairwise(row)}
    if len(steps) > 1:
        return Range(None, None)
    first, last = (interpolate([p for p, _ in there], [row[k] for _, row in there]).polynomial for k in (0, -1))
    return Range(first, last, steps.pop() if steps else 1) if first is not None and last is not None else Range(None, None)


def _where(points: Sequence[Sizes], places: Sequence[Places]) -> str:
    """Some sizes with what was found there, for a factor that is no polynomial."""
    shown = [(p, at.found[0].group_latex if at.found else "nothing") for p, at in zip(points, places, strict=True)][:3]
    return "no polynomial explains it: " + "; ".join(f"{g} at {', '.join(f'{k}={v}' for k, v in p.items())}" for p, g in shown)
