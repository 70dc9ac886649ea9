"""What every report tells, before any form: facts, rows, broken, certificate. The writers only set it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from symdisc.report.action import Step, element, steps
from symdisc.report.grouping import Group, Place, merge, shorten
from symdisc.symmetry import WITHIN, Broken, Discrete, Symmetry

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["WHOLE", "Action", "Fact", "Loss", "Report", "Row", "build", "magnitude", "number", "order_of", "place", "product",
           "relabel", "row_of"]

WHOLE = "whole network"
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_MEASURED = re.compile(r"\d+(?:\.\d+)?e[+-]\d+")
_STYLED = re.compile(r"\\(texttt|text)\{((?:[^{}]|\{\})*)\}")
_TEXTTT = re.compile(r"\\texttt\{([^{}]*)\}")


@dataclass(frozen=True)
class Fact:
    """A line of the head: ``latex`` when the value is a formula."""

    label: str
    text: str
    latex: str = ""


@dataclass(frozen=True)
class Action:
    """What happens to a parameter (or to the same one in ``count`` layers), and what the letters in it stand for."""

    parameter: str
    short: str
    count: int
    latex: str
    letters: str = ""


@dataclass(frozen=True)
class Row:
    """One symmetry, continuous or discrete, at one place or at ``count`` like places.

    ``quantities`` are what gradient flow conserves because of it, in LaTeX; ``formula`` the record's own words for the
    action, used where there are no moves to read it from.
    """

    name: str
    group: str
    where: str
    legend: str
    count: int
    status: str
    element: str
    actions: tuple[Action, ...]
    note: str
    order: int = 1
    each: int = 0
    dimension: int = 0
    counted: bool = True
    condition: str = ""
    formula: str = ""
    by_generators: bool = False
    moved: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()
    conserved: int = 0

    @property
    def places(self) -> str:
        return f" × {self.count} layers" if self.count > 1 else ""

    @property
    def uncounted(self) -> str:
        return uncounted(self.counted, self.note)

    def summary(self, most: int = 3) -> tuple[tuple[str, str], ...]:
        """(LaTeX, names) for the table: parameters that move alike on one line, at most ``most`` lines and a rest."""
        if self.by_generators:
            return ((r"\theta \mapsto \exp(\textstyle\sum_k c_k X_k)\, \theta", _few(list(self.moved))),)
        if not self.actions:
            return ((self.formula, ""),) if self.formula else ()
        alike: dict[str, list[str]] = {}
        for action in self.actions:
            alike.setdefault(action.latex, []).append(action.short)
        lines = [(latex, _few(list(dict.fromkeys(names)))) for latex, names in alike.items()]
        return (*lines[:most], ("", f"… and {len(lines) - most} more")) if len(lines) > most else tuple(lines)


@dataclass(frozen=True)
class Loss:
    """What is not a symmetry, and what broke it."""

    family: str
    where: str
    breaker: str
    reason: str
    count: int


@dataclass(frozen=True)
class Report:
    architecture: str
    facts: tuple[Fact, ...]
    rows: tuple[Row, ...]
    discrete: tuple[Row, ...]
    losses: tuple[Loss, ...]
    certificate: tuple[Fact, ...]
    notes: tuple[str, ...]


def build(cat: Catalog, quantities: bool = True) -> Report:
    """Everything a report tells of a catalog; ``quantities`` asks for the conserved quantities too."""
    merged = merge([_place_as_trained(cat, s) for s in cat.symmetries])
    first = [cat.symmetries[g.members[0]] for g in merged]
    found = _quantities(cat, first) if quantities else {}
    shapes = cat.parameters | cat.buffers
    rows = tuple(row_of(s, g, shapes, found.get(s, ())) for s, g in zip(first, merged, strict=True))
    discrete = tuple(row_of(cat.discrete[g.members[0]], g, shapes, ()) for g in merge([place(d) for d in cat.discrete]))
    return Report(
        cat.architecture,
        _facts(cat, rows, discrete, quantities),
        rows,
        discrete,
        _losses(cat.broken),
        _certificate(cat),
        cat.notes,
    )


def _quantities(cat: Catalog, symmetries: Sequence[Symmetry]) -> dict[Symmetry, tuple[Any, ...]]:
    """What is conserved because of each symmetry; like layers conserve alike, so one of each is asked."""
    found: dict[Symmetry, tuple[Any, ...]] = {}
    for q in cat.replace(symmetries=tuple(dict.fromkeys(symmetries))).conserved:
        found[q.symmetry] = (*found.get(q.symmetry, ()), q)
    return found


def place(s: Symmetry | Discrete) -> Place:
    """Two symmetries are alike when all but layer numbers agree: the moves too, names aside."""
    names = list(s.parameters)
    acting: list[Hashable] = []
    for m in (part for move in s.moves for part in (move, *move.inner)):
        others = [*(n for t in m.through for n in t.reads), *([m.gain] if m.gain else []), *m.extra]
        names += [m.parameter, *others]
        acting.append((m.kind, m.axis, m.index, m.rep, m.power, m.gain_power, m.offset, m.rows, len(others)))
    for part in (p for g in s.generators for p in g.parts) if isinstance(s, Symmetry) else ():
        names.append(part.parameter)
        acting.append((part.axis, part.entries))
    extra = (s.dimension, s.assumptions, s.counts) if isinstance(s, Symmetry) else (s.order,)
    return Place((s.site, *names), (s.name, s.group, s.family, s.shape, s.status, s.note, extra, tuple(acting)))


def _place_as_trained(cat: Catalog, s: Symmetry) -> Place:
    """Like layers of which some are frozen do not conserve alike."""
    found = place(s)
    return replace(found, rest=(found.rest, cat.cuts.pattern(s))) if cat.cuts else found


def row_of(s: Symmetry | Discrete, group: Group, shapes: Mapping[str, tuple[int, ...]], found: tuple[Any, ...]) -> Row:
    """The row of ``s`` under the names of ``group`` (those of ``place(s)``, in order), with the quantities ``found`` for it."""
    names = dict(zip((s.site, *_names(s)), group.names, strict=True))
    site = group.names[0]
    short = {n: shorten(p, site) for n, p in names.items()}
    row = Row(
        name=s.name if s.family != "flow" else f"{s.name} (numeric)",
        group=s.group_latex or rf"\mathrm{{{s.group or 'unnamed'}}}",
        where=group.spread(site) or WHOLE,
        legend=group.legend,
        count=group.count,
        status=s.status,
        element=element(s),
        actions=_actions(steps(s, shapes), names, site),
        note=s.note,
        moved=tuple(short[n] for n in s.parameters),
    )
    if isinstance(s, Discrete):
        return replace(row, order=s.order)
    return replace(
        row,
        each=s.dimension,
        dimension=s.dimension * group.count,
        counted=s.counts,
        condition=s.condition,
        formula=relabel(s.formula, short),
        by_generators=bool(s.generators),
        assumptions=(*s.assumptions, *dict.fromkeys(a for q in found for a in q.assumptions if a not in s.assumptions)),
        quantities=tuple(relabel(q.latex(), short) for q in found),
        conserved=sum(q.dimension for q in found) * group.count,
    )


def uncounted(counts: bool, note: str) -> str:
    """Why the dimension of a factor is not counted."""
    return "" if counts else ", within others, not counted" if note.startswith(WITHIN) else ", moves buffers, not counted"


def _names(s: Symmetry | Discrete) -> list[str]:
    return list(place(s).names[1:])


def _actions(found: Sequence[Step], names: Mapping[str, str], site: str) -> tuple[Action, ...]:
    """One line per parameter; a parameter that moves alike in several layers is one line."""
    places = []
    for step in found:
        latex, letters = relabel(step.latex, names), relabel(step.letters, names)
        inside = [t.replace(r"\_", "_") for t in _TEXTTT.findall(latex + letters)]
        rest = (_TEXTTT.sub("?", latex), _TEXTTT.sub("?", letters), step.part)
        places.append(Place((names[step.parameter], *inside), rest))
    actions = []
    for group in merge(places, first_index=2):
        step = found[group.members[0]]
        mapping = {step.parameter: group.spread(group.names[0])}
        old = [n for n in places[group.members[0]].names[1:]]
        mapping |= {names.get(a, a): group.spread(b) for a, b in zip(old, group.names[1:], strict=True)}
        full = group.spread(group.names[0])
        latex = relabel(relabel(step.latex, names), mapping, site)
        actions.append(
            Action(
                full + step.part,
                shorten(full, site) + step.part,
                group.count,
                latex,
                relabel(relabel(step.letters, names), mapping, site),
            )
        )
    return tuple(dict.fromkeys(actions))


def relabel(latex: str, names: Mapping[str, str], site: str = "") -> str:
    """Names inside a formula replaced: in typewriter as a whole, in words where they stand."""
    table = {_escaped(a): _escaped(shorten(b, site)) for a, b in names.items() if a}
    dotted = sorted((a for a in table if "." in a), key=len, reverse=True)
    inside = re.compile(rf"(?<![\w.\\])(?:{'|'.join(map(re.escape, dotted))})(?![\w\\]|\.\w)") if dotted else None

    def change(found: re.Match[str]) -> str:
        style, text = found.groups()
        if style == "texttt":
            return rf"\texttt{{{table.get(text, text)}}}"
        return rf"\text{{{inside.sub(lambda m: table[m.group()], text) if inside else text}}}"

    return _STYLED.sub(change, latex) if table else latex


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f", … {len(names) - most} more" if len(names) > most else "")


# --- the head ---------------------------------------------------------------------------------------------------------
def _facts(cat: Catalog, rows: Sequence[Row], discrete: Sequence[Row], quantities: bool) -> tuple[Fact, ...]:
    total, group, orbit = cat.parameter_count, cat.group_dimension, cat.orbit_dimension
    facts = [
        Fact("Architecture", f"{cat.architecture}, {'training' if cat.training else 'evaluation'} mode"),
        Fact("Parameters D", number(total) + (f" ({len(cat.aliases)} tied names counted once)" if cat.aliases else "")),
        Fact("Group dimension", number(group)),
    ]
    if orbit is None:
        share = f"up to {_percent(group, total)} of D (by the group; orbit dimension not computed)"
        facts += [Fact("Orbit dimension", "not computed"), Fact("Redundant share", share)]
    else:
        facts += [Fact("Orbit dimension", number(orbit)), Fact("Redundant share", f"{_percent(orbit, total)} of D")]
    if discrete:
        order = sum(order_of(r.order) * r.count for r in discrete)
        size = f"order {magnitude(order)}" if all(r.order for r in discrete) else "of infinite order"
        facts.append(Fact("Discrete group", size, product(discrete)))
    else:
        facts.append(Fact("Discrete group", "none found"))
    if quantities:
        facts.append(Fact("Conserved by gradient flow", f"{number(sum(r.conserved for r in rows))} numbers"))
    facts.append(Fact("Completeness", _verdict(cat)))
    return tuple(facts)


def product(rows: Sequence[Row]) -> str:
    """The product of the groups of rows, equal ones as a power."""
    counts: Counter[str] = Counter()
    for r in rows:
        counts[r.group] += r.count
    return r" \times ".join(
        g if n == 1 else rf"{{{g}}}^{{{n}}}" if not re.search(r"\^|\\times", g) else rf"({g})^{{{n}}}"
        for g, n in counts.items()
    )


def _verdict(cat: Catalog) -> str:
    c = cat.certificate
    if c is None:
        return "not certified"
    where = " on a miniature" if c.miniature else ""
    if c.complete:
        return f"complete{where}: found {number(c.found)} = fibre dimension {number(c.fibre)}"
    return f"not complete{where}: found {number(c.found)}, fibre dimension {number(c.fibre)}"


def _certificate(cat: Catalog) -> tuple[Fact, ...]:
    c = cat.certificate
    if c is None:
        return ()
    arithmetic = "exact" if c.exact else f"float64, spectral gap {c.gap:.1e}"
    facts = [
        Fact("Found orbit dimension", number(c.found)),
        Fact("Fibre dimension", f"{number(c.fibre)} = D − rank J"),
        Fact("Parameters", number(c.D)),
        Fact("Arithmetic", arithmetic),
        Fact("Made on", "a miniature of the same structure" if c.miniature else "the network itself"),
        *([Fact("Without closed form", f"{c.flow} of {c.found}: they act by a flow along the fibre")] if c.flow else []),
        Fact("Verdict", c.verdict if c.complete or c.outside else f"{number(abs(c.fibre - c.found))} not accounted for"),
    ]
    return (*facts, *([Fact("Note", c.note)] if c.note else []))


def _losses(broken: Sequence[Broken]) -> tuple[Loss, ...]:
    """Like losses merged; of measured numbers the smallest and the largest are told."""
    losses = []
    for group in merge([Place((b.site, b.breaker), (b.family, _MEASURED.sub("#", b.reason))) for b in broken]):
        members = [broken[m] for m in group.members]
        first, reason = members[0], members[0].reason
        if any(b.reason != reason for b in members):
            columns = zip(*(_MEASURED.findall(b.reason) for b in members), strict=True)
            ranges = iter([f"{min(c, key=float)} to {max(c, key=float)}" for c in columns])
            reason = _MEASURED.sub(lambda _: next(ranges), reason)  # noqa: B023 (used at once)
        losses.append(
            Loss(first.family, group.spread(group.names[0]) or WHOLE, group.spread(group.names[1]), reason, group.count)
        )
    return tuple(losses)


def number(value: int) -> str:
    """22 713 216: digits in threes."""
    return f"{value:,}".replace(",", "\u2009") if abs(value) >= 10000 else str(value)


def order_of(order: int) -> float:
    """The decimal logarithm of a group's order."""
    return math.log10(max(order, 1))


def magnitude(log10: float) -> str:
    """A size given by its decimal logarithm: exact when small."""
    if log10 < 6:
        return number(round(10**log10))
    power = math.floor(log10)
    return f"≈ {10 ** (log10 - power):.1f}·10{str(power).translate(_RAISED)}"


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.2f} %" if total else "0 %"
