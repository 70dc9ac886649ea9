"""At which sizes an architecture is looked at: a star and random points around small sizes, in the region of the published model.

A dimension is a polynomial as long as no width passes another one, so the points keep the order of the two axes of every weight
that the published model has (its feed-forward width above its model width, its vocabulary above both), or the miniatures have.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from symdisc.entries.polynomials import evaluate, interpolate, together
from symdisc.entries.slots import Slots
from symdisc.errors import BadInput, SymdiscError

if TYPE_CHECKING:
    from symdisc.architectures.base import Architecture

__all__ = ["ARM", "Design", "Members", "design"]

ARM = 1  # points along each symbol besides the centre; integers inside groups and counts are of degree 1 in each size
LONG_ARM = 2  # where something is not: degree 2 is what counts reach
INSIDE = 6  # random points for each unit of arm: they hold products of sizes together, and most of them are evidence
ROUNDS = 60  # times that a size is raised to bring the order of two axes to that of the published model
FAR = 600  # the same where only the star has to keep it: a width above products of other sizes is reached in many small steps
BOXES = 100  # drawn until enough points keep the order
Sizes = Mapping[str, int]
Axis = tuple[str, int]  # (pattern of a parameter's name, axis)
Axes = Mapping[Axis, sp.Expr]
Order = Sequence[tuple[Axis, Axis]]  # (larger, smaller)
Sample = Callable[[Sizes, Sizes, int, int], list[dict[str, int]]]  # (centre, steps, arm, seed) -> points


@dataclass(frozen=True)
class Design:
    """The points, the centre first, and the order relations of the published model that could not be kept at all of them."""

    points: tuple[Sizes, ...]
    slots: Slots
    broken: tuple[str, ...] = ()


def design(architecture: Architecture, arm: int = ARM, seed: int = 0, members: Members | None = None) -> Design:
    """Sizes from which the polynomials of an architecture are read, the points of a shorter ``arm`` first.

    ``members`` are those built before, which are not built again. Raises BadInput where it cannot be built around its miniatures.
    """
    symbols = tuple(architecture.symbols)
    if not symbols:
        return Design(({},), Slots())
    family = members if members is not None else Members(architecture)
    order = family.order()
    for sample, rounds in ((_points, ROUNDS), (_wide, FAR)):  # a box of products passes other widths long before single sizes do
        centre = family.raised(sample, order, rounds, seed)
        if not family.violations(sample(centre, family.steps, LONG_ARM, seed), order):
            break
    inside = [p for k in range(ARM, arm + 1) for p in family.ordered(centre, order, k, seed)]
    points = family.buildable(inside)
    return Design(points, family.slots, tuple(sorted({f"{_said(a)} > {_said(b)}" for a, b in family.violations(points, order)})))


def _points(centre: Sizes, steps: Sizes, arm: int, seed: int) -> list[dict[str, int]]:
    """Centre, arms, and random points in a box one step wider: a degree is evidence only where it could have been higher."""
    return [*_star(centre, steps, arm), *next(_boxes(centre, steps, arm, seed))]


def _star(centre: Sizes, steps: Sizes, arm: int) -> list[dict[str, int]]:
    return [dict(centre), *({**centre, s: centre[s] + k * steps[s]} for s in centre for k in range(1, arm + 1))]


def _wide(centre: Sizes, steps: Sizes, arm: int, seed: int) -> list[dict[str, int]]:
    """The star as wide as the box."""
    return _star(centre, steps, arm + 1)


def _boxes(centre: Sizes, steps: Sizes, arm: int, seed: int) -> Iterator[list[dict[str, int]]]:
    """Random points in the box, again and again as many."""
    rng = random.Random(seed + arm)
    while True:
        columns = {s: rng.sample([k % (arm + 2) for k in range(INSIDE * arm)], INSIDE * arm) for s in centre}  # each size as often
        yield [{s: centre[s] + columns[s][k] * steps[s] for s in centre} for k in range(INSIDE * arm)]


def _varied(centre: Sizes, points: Sequence[dict[str, int]], count: int) -> list[dict[str, int]]:
    """So many of the points, at which as many pairs and triples of sizes as possible are changed together."""
    left = [(p, together(centre, p)) for p in points]
    chosen: list[dict[str, int]] = []
    seen: set[frozenset[str]] = set()
    for _ in range(count):
        best = max(range(len(left)), key=lambda k: len(left[k][1] - seen))
        point, new = left.pop(best)
        chosen.append(point)
        seen |= new
    return chosen


def _said(axis: Axis) -> str:
    return f"{axis[0]}[{axis[1]}]"


@dataclass
class Members:
    """Shapes of the members of an architecture, each built once."""

    architecture: Architecture
    _built: dict[tuple[tuple[str, int], ...], dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        from symdisc.torchside.family import shapes

        key = tuple(sorted(sizes.items()))
        if key not in self._built:
            self._built[key] = shapes(self.architecture.build, sizes)
        return self._built[key]

    @cached_property
    def steps(self) -> dict[str, int]:
        """How far apart sizes of a symbol lie: as in the miniatures, so that what must be even stays even."""
        found = {}
        for s in self.architecture.symbols:
            values = sorted({m[s] for m in self.architecture.miniatures})
            found[s] = math.gcd(*(b - a for a, b in itertools.pairwise(values))) if len(values) > 1 else 1
        return found

    @cached_property
    def around(self) -> tuple[tuple[Sizes, dict[str, tuple[int, ...]]], ...]:
        """Members around the miniatures, with their shapes."""
        start = {s: max(min(m[s] for m in self.architecture.miniatures), 2) for s in self.architecture.symbols}
        return tuple((p, self.shapes(p)) for p in self.buildable(_points(start, self.steps, LONG_ARM, seed=1)))

    @cached_property
    def slots(self) -> Slots:
        return Slots.of([shapes for _, shapes in self.around], self.architecture.symbols)

    @cached_property
    def axes(self) -> Axes:
        """Sizes of all axes of all weights as polynomials, where every like-named weight has the same."""
        points = [p for p, _ in self.around]
        values: dict[tuple[str, int], list[set[int]]] = {}
        for k, (_, shapes) in enumerate(self.around):
            for name, shape in shapes.items():
                for axis, size in enumerate(shape if len(shape) > 1 else ()):
                    values.setdefault((self.slots.pattern(name), axis), [set() for _ in points])[k].add(size)
        fits = {a: interpolate(points, [next(iter(v)) for v in sets]) for a, sets in values.items() if all(len(v) == 1 for v in sets)}
        return {a: f.polynomial for a, f in fits.items() if f.polynomial is not None}

    def order(self) -> list[tuple[Axis, Axis]]:
        """Pairs (larger, smaller) of the first two axes of each weight at the published sizes; where no model is published, those
        pairs on which all miniatures agree."""
        known = self.architecture.published
        members = (known[1],) if known is not None else self.architecture.miniatures
        pairs = []
        for name in sorted({a for a, _ in self.axes}):
            a, b = (name, 0), (name, 1)
            if a in self.axes and b in self.axes:
                signs = {np.sign(evaluate(self.axes[a], s) - evaluate(self.axes[b], s)) for s in members}
                pairs += [(a, b)] if signs == {1} else [(b, a)] if signs == {-1} else []
        return pairs

    def violations(self, points: Sequence[Sizes], order: Order) -> list[tuple[Axis, Axis]]:
        return [(a, b) for a, b in order if any(evaluate(self.axes[a], p) <= evaluate(self.axes[b], p) for p in points)]

    def raised(self, sample: Sample, order: Order, rounds: int, seed: int) -> dict[str, int]:
        """The centre at which the sample keeps the order, as far as single sizes raised step by step bring it."""
        centre = {s: max(min(m[s] for m in self.architecture.miniatures), 2) for s in self.architecture.symbols}
        for _ in range(rounds):
            wrong = self.violations(sample(centre, self.steps, LONG_ARM, seed), order)
            raised = next((s for larger, smaller in wrong for s in [self.lever(larger, smaller, centre)] if s), None)
            if raised is None:
                break
            centre[raised] += self.steps[raised]
        return centre

    def ordered(self, centre: Sizes, order: Order, arm: int, seed: int) -> list[dict[str, int]]:
        """The star and as many points as the box has, those that keep the order if there are enough; every size of the box occurs."""
        first, *more = itertools.islice(_boxes(centre, self.steps, arm, seed), BOXES)
        kept = [p for box in (first, *more) for p in box if not self.violations([p], order)]
        inside = first if kept[:len(first)] == first or len(kept) < len(first) else _varied(centre, kept, len(first))
        star = _star(centre, self.steps, arm)
        lost = {s: centre[s] + (arm + 1) * self.steps[s] for s in centre}
        tips = [{**centre, s: n} for s, n in lost.items() if all(p[s] != n for p in inside)]
        return [*star, *inside, *tips]

    def lever(self, larger: tuple[str, int], smaller: tuple[str, int], centre: Sizes) -> str | None:
        """The smallest size symbol that enlarges the one axis and not the other."""
        own = {s.name for s in self.axes[larger].free_symbols} - {s.name for s in self.axes[smaller].free_symbols}
        return min(own, key=lambda s: (centre[s], s), default=None)

    def buildable(self, points: Sequence[Sizes]) -> tuple[Sizes, ...]:
        """The points at which the architecture can be built; the centre must be one."""
        kept: list[Sizes] = []
        for p in points:
            try:
                self.shapes(p)
            except (SymdiscError, RuntimeError, ValueError, TypeError, AssertionError, ZeroDivisionError) as error:
                if not kept:
                    said = re.sub(r"\s+", " ", str(error))
                    raise BadInput(f"{self.architecture.name} cannot be built at {dict(p)}: {type(error).__name__}: {said}") from error
                continue
            if p not in kept:
                kept.append(p)
        return tuple(kept)
