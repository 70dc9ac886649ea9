"""Certificates of an architecture at miniature sizes, the number of its independent laws there, and twins with an assumption broken."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import sympy as sp

from symdisc.entries.factors import collect
from symdisc.entries.polynomials import Sizes
from symdisc.entries.ranks import GAP, certified
from symdisc.entries.shown import at
from symdisc.entries.slots import Slots
from symdisc.entry import Checked, Twin
from symdisc.errors import SymdiscError
from symdisc.session import discover
from symdisc.symmetry import Symmetry

if TYPE_CHECKING:
    from symdisc.architectures.base import Architecture
    from symdisc.catalog import Catalog

__all__ = ["certificates", "twins_of"]

COUNTED = 120  # parameters up to which independent laws are counted; of larger miniatures at the least one: it costs the cube of them
WORK = 2_000_000  # parameters times operators up to which they are: deeper networks take longer than all the rest of an entry
UNNAMED = ("linear", "flow")  # families of symmetries that the complete system found and no name covers


def certificates(architecture: Architecture, dimension: sp.Expr | None) -> tuple[Checked, ...]:
    """Found orbit beside the fibre at each of the architecture's miniatures; a rank without a clear gap is not recorded."""
    made = [_checked(architecture, sizes, dimension) for sizes in architecture.miniatures]
    least = min(range(len(made)), key=lambda k: made[k][0].parameters)
    return tuple(_counted(c, cat) if k == least or c.parameters <= COUNTED else c for k, (c, cat) in enumerate(made))


def _checked(architecture: Architecture, sizes: Sizes, dimension: sp.Expr | None) -> tuple[Checked, Catalog]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cat, found = certified(architecture, sizes)
    unnamed = sum(s.dimension for s in cat.symmetries if s.counts and s.family in UNNAMED)
    refused = tuple(dict.fromkeys(f"{b.family} at {b.site or 'the whole network'}" for b in cat.broken if b.breaker == "check"))
    return Checked(dict(sizes), cat.parameter_count, at(dimension, sizes), cat.group_dimension, cat.orbit_dimension,
                   None if found is None else found.fibre, GAP, found is not None and found.exact, unnamed, refused, _note(cat)), cat


def _note(cat: Catalog) -> str:
    """What the catalog has to say of directions without a name, measured numbers left out."""
    rest = [f"{s.dimension} in {', '.join(s.parameters[:4])}" + (f" and {len(s.parameters) - 4} more" if len(s.parameters) > 4 else "")
            for s in cat.symmetries if s.family in UNNAMED]
    told = [re.sub(r" by \d\.\de[+-]\d+", "", n) for n in cat.notes if "surplus" in n or "decided" in n]
    return "; ".join([*rest, *told])


def _counted(checked: Checked, cat: Catalog) -> Checked:
    """With the number of independent conservation laws, or why they were not counted, measured numbers left out."""
    from symdisc.laws import count_laws

    operators = len(cat.graph.live) if cat.graph is not None else 0
    if cat.parameter_count * operators > WORK:
        return replace(checked, laws=f"not counted: {operators} operators in {cat.parameter_count} parameters take too long")
    try:
        count = count_laws(cat)
    except SymdiscError as error:
        return replace(checked, laws=re.sub(r" \([^)]*\)", "", f"not counted: {error}".split(";")[0]))
    return replace(checked, laws=count.summary, closed=count.found)


def twins_of(cat: Catalog, slots: Slots) -> tuple[Twin, ...]:
    """What the dimension of ``cat`` becomes when eps vanishes (or appears) and in train mode, by discovering the twin of its model."""
    from symdisc.torchside.twins import twins

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for change, twin in twins(cat.model):
            try:
                after = discover(twin, cat.example, solve=False)
            except SymdiscError:
                continue  # random masks of dropout that torch.export cannot trace: nothing is told of this twin
            found.append(Twin(change, cat.group_dimension, after.group_dimension, *_differences(cat, after, slots)))
    return tuple(found)


def _differences(before: Catalog, after: Catalog, slots: Slots) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(factors that only the twin has, factors that only the model has), by name and place."""
    one, two = ({(k.name, k.names[0]): sum(s.dimension for s in p.found if isinstance(s, Symmetry)) for k, p in collect(c, slots).items()}
                for c in (before, after))
    gained = tuple(f"{n} at {w or 'the whole network'}" for n, w in two if two[n, w] > one.get((n, w), 0))
    lost = tuple(f"{n} at {w or 'the whole network'}" for n, w in one if one[n, w] > two.get((n, w), 0))
    return gained, lost
