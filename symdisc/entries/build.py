"""From an architecture to its entry: derived at many sizes, interpolated, certified at miniatures, compared at the published size."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from symdisc.entries import notation
from symdisc.entries.checked import certificates, twins_of
from symdisc.entries.design import ARM, LONG_ARM, Members, design
from symdisc.entries.factors import Symbolic, collect, symbolic
from symdisc.entries.nodes import nodes
from symdisc.entries.polynomials import HELD_OUT, Sizes, interpolate
from symdisc.entries.shown import Family, at, shown
from symdisc.entries.slots import Slots
from symdisc.entries.training import kept
from symdisc.entry import At, Checked, Citation, Entry, Factor, Poly
from symdisc.session import Tried, discover, discover_captured
from symdisc.session import _Clock as Clock

if TYPE_CHECKING:
    from symdisc.architectures.base import Architecture
    from symdisc.catalog import Catalog

__all__ = ["DIRECT", "Derived", "build_entry", "derive", "structure_at"]

_SIZE = re.compile(r"\(\d+\)|\^\d+|(?<=S)_\d+")
DIRECT = 120_000  # lengths of all axes of all parameters, summed: beyond, the published model is not traced (many seconds)


@dataclass(frozen=True)
class Derived:
    """Factors and totals in symbolic sizes; ``dimension`` sums the counted continuous factors, None if one has no polynomial."""

    family: Family
    factors: tuple[Symbolic, ...]
    parameters: sp.Expr | None
    dimension: sp.Expr | None
    held_out: int
    region: tuple[str, ...]
    layers: tuple[str, ...]


def structure_at(architecture: Architecture, sizes: Sizes, tried: Tried | None = None) -> Catalog:
    """The named families of the member at ``sizes``, derived from its traced graph, and run on it at small sizes unless ``tried``."""
    from symdisc.torchside.family import structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captured, name = structure(architecture.build, sizes)
    return discover_captured(captured, name, Clock(None), False, tried)


def derive(architecture: Architecture) -> Derived:
    """The factors of the group as polynomials: read at few sizes, at more where these leave some of them unsettled."""
    built, tried = Members(architecture), Tried()
    catalogs: dict[tuple[tuple[str, int], ...], Catalog] = {}
    for arm in (ARM, LONG_ARM):
        plan = design(architecture, arm, members=built)
        for p in plan.points:
            if _frozen(p) not in catalogs:
                catalogs[_frozen(p)] = structure_at(architecture, p, tried)
        cats = [catalogs[_frozen(p)] for p in plan.points]
        members = tuple(collect(c, plan.slots) for c in cats)
        factors = symbolic(plan.points, members)
        if not any(f.unsettled for f in factors):
            break
    centre = _run(architecture, plan.points[0])
    family = Family(plan.points, tuple(c.parameters | c.buffers for c in cats), members, plan.slots, centre, collect(centre, plan.slots))
    parts = [f.dimension for f in factors if f.counted and not f.discrete]
    whole = interpolate(plan.points, [c.group_dimension for c in cats]).polynomial if None in parts else sp.expand(sp.Add(*parts))
    parameters = _parameters(plan.points, [c.parameters for c in cats], plan.slots)
    if parameters is None:  # a size that enters squared, at more points: shapes cost no tracing
        more = design(architecture, LONG_ARM, members=built)
        parameters = _parameters(more.points, [built.shapes(p) for p in more.points], more.slots)
    layers = tuple(s for s in architecture.symbols if len({len(n) for p, n in zip(plan.points, family.shapes, strict=True)
                                                            if all(p[t] == plan.points[0][t] for t in p if t != s)}) > 1)
    return Derived(family, factors, parameters, whole, HELD_OUT, plan.broken, layers)


def _frozen(sizes: Sizes) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(sizes.items()))


def _run(architecture: Architecture, sizes: Sizes) -> Catalog:
    """The named families at generic weights, each run and judged."""
    from symdisc.torchside.family import generic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return discover(*generic(architecture.build, sizes), solve=False)


def _parameters(points: Sequence[Sizes], members: Sequence[Mapping[str, tuple[int, ...]]], slots: Slots) -> sp.Expr | None:
    """The number of parameters: for like-named tensors their number times the product of their axes, each of low degree.

    None where some is no polynomial.
    """
    alike: dict[str, list[list[tuple[int, ...]]]] = {}
    for k, parameters in enumerate(members):
        for name, shape in parameters.items():
            alike.setdefault(slots.pattern(name), [[] for _ in members])[k].append(shape)
    terms = [_tensors(points, shapes) for shapes in alike.values()]
    return None if None in terms else sp.expand(sp.Add(*terms))


def _tensors(points: Sequence[Sizes], shapes: Sequence[Sequence[tuple[int, ...]]]) -> sp.Expr | None:
    """Entries of like-named tensors; their shapes are those of one at each point, if all are equal there."""
    sizes = [sum(math.prod(s) for s in at) for at in shapes]
    if any(len(set(at)) > 1 for at in shapes):
        return interpolate(points, sizes).polynomial
    there = [(p, at[0]) for p, at in zip(points, shapes, strict=True) if at]
    fits = [interpolate(points, [len(at) for at in shapes]), *(interpolate([p for p, _ in there], [s[k] for _, s in there])
                                                               for k in range(len(there[0][1])))]
    found = [f.polynomial for f in fits]
    return None if None in found else sp.Mul(*found)


def build_entry(architecture: Architecture, direct: bool = True) -> tuple[Entry, str]:
    """The entry of an architecture and its operator graph (JSON) at the sizes at which formulas are read.

    ``direct``: also trace the published model and compare, where that is affordable. Raises CaptureError, BadInput and SymdiscError as
    ``discover`` and ``certify`` do.
    """
    derived = derive(architecture)
    spans = derived.family.spans()
    records = tuple(shown(f, derived.family, spans) for f in derived.factors)
    checks = certificates(architecture, derived.dimension)
    centre, trained = derived.family.centre, _trained(records, checks)
    entry = Entry(
        name=architecture.name, title=architecture.title, symbols=dict(architecture.symbols),
        parameters=_total(derived.parameters, derived.layers), dimension=_total(derived.dimension, derived.layers),
        points=len(derived.family.points), held_out=derived.held_out, region=derived.region, factors=records,
        published=_published(architecture, derived, trained, direct), certificates=checks, nodes=nodes(centre.graph),  # type: ignore[arg-type]
        restored=_restored(centre, derived.family.slots),
        twins=twins_of(centre, derived.family.slots),
        assumptions=architecture.assumptions, sources=tuple(Citation(s.text, s.where, s.known) for s in architecture.sources),
        notes=_notes(derived, checks), laws=_total(trained, derived.layers))
    assert centre.graph is not None
    return entry, centre.graph.to_json()


def _restored(cat: Catalog, slots: Slots) -> tuple[tuple[str, str, str, str], ...]:
    """(where, family, what broke it, edit): each once for all layers and sizes."""
    found = ((slots.relative((b.site,))[0][0], _SIZE.sub("", b.family), b.breaker, b.remedy) for b in cat.why_not if b.remedy)
    return tuple(dict.fromkeys(found))


def _total(p: sp.Expr | None, layers: Sequence[str]) -> Poly | None:
    return None if p is None else notation.total(p, layers)


def _trained(factors: Sequence[Factor], checks: Sequence[Checked]) -> sp.Expr | None:
    """What gradient flow keeps, in symbolic sizes: no factor's laws are among those of others where the sum is what was counted."""
    numbers = kept(factors)
    counted = [c for c in checks if c.closed is not None]
    agree = numbers is not None and all(at(numbers, c.sizes) == c.closed and c.laws.startswith(f"{c.closed}, all") for c in counted)
    return numbers if agree and counted else None


def _published(architecture: Architecture, derived: Derived, trained: sp.Expr | None, direct: bool) -> At | None:
    if architecture.published is None:
        return None
    from symdisc.torchside.family import shapes

    name, sizes = architecture.published
    found = shapes(architecture.build, sizes)
    count = sum(int(sp.prod(s)) for s in found.values())
    value, conserved = at(derived.dimension, sizes), at(trained, sizes)
    work = sum(sum(s) for s in found.values())
    if not direct or work > DIRECT:
        return At(name, dict(sizes), count, value, None, "not traced at this size", conserved)
    cat = structure_at(architecture, sizes)
    return At(name, dict(sizes), count, value, cat.group_dimension, laws=conserved)


def _notes(derived: Derived, checks: Sequence[Checked]) -> tuple[str, ...]:
    notes = [f"{f.key.name} ({', '.join(f.key.names[1:3])}): {f.trouble}" for f in derived.factors if f.trouble]
    for c in checks:
        where = ", ".join(f"{k} = {v}" for k, v in c.sizes.items())
        if c.polynomial is not None and c.polynomial != c.group - c.unnamed:
            notes.append(f"at {where} the named families have dimension {c.group - c.unnamed}, not {c.polynomial} as the polynomial says: "
                         "these sizes lie outside its region")
    return tuple(notes)
