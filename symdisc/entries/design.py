"""At which sizes an architecture is looked at: a star and random points around small sizes, in the region of the published model.

A dimension is a polynomial as long as no width passes another one, so the points keep the order of the two axes of every weight
that the published model has (its feed-forward width above its model width, its vocabulary above both), or the miniatures have.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from symdisc.entries.polynomials import evaluate, interpolate
from symdisc.entries.slots import Slots
from symdisc.errors import BadInput, SymdiscError

if TYPE_CHECKING:
    from symdisc.architectures.base import Architecture

__all__ = ["ARM", "Design", "Members", "design"]

ARM = 1  # points along each symbol besides the centre; integers inside groups and counts are of degree 1 in each size
LONG_ARM = 2  # where something is not: degree 2 is what counts reach
INSIDE = 6  # random points for each unit of arm: they hold products of sizes together, and most of them are evidence
ROUNDS = 60  # times that a size is raised to bring the order of two axes to that of the published model
Sizes = Mapping[str, int]
Axes = Mapping[tuple[str, int], sp.Expr]  # (pattern of a parameter's name, axis) -> its size


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
    centre = {s: max(min(m[s] for m in architecture.miniatures), 2) for s in symbols}
    order = family.order()
    for _ in range(ROUNDS):
        wrong = family.violations(_points(centre, family.steps, LONG_ARM, seed), order)
        raised = next((s for larger, smaller in wrong for s in [family.lever(larger, smaller, centre)] if s), None)
        if raised is None:
            break
        centre[raised] += family.steps[raised]
    points = family.buildable([p for k in range(ARM, arm + 1) for p in _points(centre, family.steps, k, seed)])
    return Design(points, family.slots, tuple(sorted({f"{_said(a)} > {_said(b)}" for a, b in family.violations(points, order)})))


def _points(centre: Sizes, steps: Sizes, arm: int, seed: int) -> list[dict[str, int]]:
    """Centre, arms, and random points in a box one step wider: a degree is evidence only where it could have been higher."""
    rng = random.Random(seed + arm)
    arms = [{**centre, s: centre[s] + k * steps[s]} for s in centre for k in range(1, arm + 1)]
    columns = {s: rng.sample([k % (arm + 2) for k in range(INSIDE * arm)], INSIDE * arm) for s in centre}  # each size as often
    inside = [{s: centre[s] + columns[s][k] * steps[s] for s in centre} for k in range(INSIDE * arm)]
    return [dict(centre), *arms, *inside]


def _said(axis: tuple[str, int]) -> str:
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

    def order(self) -> list[tuple[tuple[str, int], tuple[str, int]]]:
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

    def violations(self, points: Sequence[Sizes], order: Sequence[tuple[tuple[str, int], tuple[str, int]]]
                   ) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        return [(a, b) for a, b in order if any(evaluate(self.axes[a], p) <= evaluate(self.axes[b], p) for p in points)]

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
