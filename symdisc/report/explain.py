"""Everything that can be done to one tensor: the symmetries that move it, with which partners, and what they conserve.

All of it is read off the records; nothing is derived again.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from symdisc.errors import BadInput
from symdisc.opgraph import OpGraph
from symdisc.report import unicode
from symdisc.report.action import element, steps
from symdisc.report.content import WHOLE, magnitude, number, order_of, uncounted
from symdisc.symmetry import Broken, Discrete, Symmetry

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Conserved", "Explanation", "Motion", "canonical", "explain", "lines"]


@dataclass(frozen=True)
class Conserved:
    """What gradient flow conserves because of a symmetry (LaTeX), whether this tensor enters, or why there is nothing."""

    latex: str
    enters: bool
    reason: str = ""


@dataclass(frozen=True)
class Motion:
    """One factor of the group that moves the tensor.

    ``formulas`` are pairs (positions of the tensor, map in LaTeX); empty where the factor acts by a flow. ``partners`` move
    together with the tensor; ``reads`` are tensors that the map looks at. ``size`` is a dimension or an order.
    """

    name: str
    group: str
    where: str
    size: str
    status: str
    element: str
    formulas: tuple[tuple[str, str], ...]
    letters: tuple[str, ...]
    partners: tuple[str, ...]
    reads: tuple[str, ...]
    assumptions: tuple[str, ...] = ()
    conserved: tuple[Conserved, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """``steered``: factors that leave the tensor alone, but whose map of others reads its value."""

    parameter: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    trained: bool
    continuous: tuple[Motion, ...]
    discrete: tuple[Motion, ...]
    steered: tuple[str, ...]
    broken: tuple[Broken, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def explain(cat: Catalog, parameter: str, obstacles: Sequence[Broken] = ()) -> Explanation:
    """What the catalog knows about one tensor, by its state_dict name (names of tied tensors are the same tensor).

    ``obstacles`` are further refusals (``Catalog.why_not``), of which those about this tensor are told.
    Raises BadInput for an unknown name, with the closest known ones.
    """
    name = canonical(cat, parameter)
    continuous = [s for s in cat.symmetries if name in _moved(s)]
    discrete = [d for d in cat.discrete if name in _moved(d)]
    factors: list[Symmetry | Discrete] = [*cat.symmetries, *cat.discrete]
    steered = [s for s in factors if name not in _moved(s) and name in _read(s)]
    shapes = cat.parameters | cat.buffers
    return Explanation(
        name, tuple(a for a, c in cat.aliases.items() if c == name), tuple(shapes[name]), name in cat.parameters,
        tuple(_motion(cat, s, name) for s in continuous), tuple(_motion(cat, d, name) for d in discrete),
        tuple(f"{s.name}: {s.group} at {s.site or WHOLE}" for s in steered),
        tuple(b for b in (*cat.broken, *obstacles) if _concerns(b, name, cat.graph)))


def canonical(cat: Catalog, parameter: str) -> str:
    """The first name of a tensor; raises BadInput for an unknown one."""
    known = [*cat.parameters, *cat.buffers, *cat.aliases]
    if parameter in known:
        return cat.aliases.get(parameter, parameter)
    close = difflib.get_close_matches(parameter, known, n=3, cutoff=0.5) or [n for n in known if n.endswith(parameter)][:3]
    hint = f"did you mean {' or '.join(close)}?" if close else f"its tensors are {', '.join(known[:4])}, ..."
    raise BadInput(f"{cat.architecture} has no tensor {parameter!r}: {hint}")


def _moved(s: Symmetry | Discrete) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*s.parameters, *(m.parameter for m in s.moves)]))


def _read(s: Symmetry | Discrete) -> tuple[str, ...]:
    """Tensors whose values the map needs."""
    return tuple(dict.fromkeys(
        n for m in s.moves for n in (*(n for t in m.through for n in t.reads), *([m.gain] if m.gain else []),
                                     *(m.extra if m.kind != "exchange" else ())) if n))


def _motion(cat: Catalog, s: Symmetry | Discrete, name: str) -> Motion:
    mine = [x for x in steps(s, cat.parameters | cat.buffers) if x.parameter == name]
    partners = tuple(n for n in _moved(s) if n != name)
    more: dict[str, Any] = {"assumptions": _assumed(cat, s), "conserved": _conserved(cat, s, name)} if isinstance(s, Symmetry) else {}
    return Motion(
        s.name, s.group_latex or rf"\mathrm{{{s.group}}}", s.site or WHOLE, _size(s), s.status, element(s),
        tuple((x.part, x.latex) for x in mine), tuple(dict.fromkeys(x.letters for x in mine if x.letters)), partners,
        tuple(n for n in _read(s) if n not in (name, *partners)), **more)


def _size(s: Symmetry | Discrete) -> str:
    if isinstance(s, Symmetry):
        return f"dimension {number(s.dimension)}" + uncounted(s.counts, s.note)
    return f"order {magnitude(order_of(s.order))}" if s.order else "of infinite order"


def _assumed(cat: Catalog, s: Symmetry) -> tuple[str, ...]:
    """Of the symmetry and of its laws in this model's training."""
    return tuple(dict.fromkeys([*s.assumptions, *(text for other, text in cat.cuts.kept if other == s)]))


def _conserved(cat: Catalog, s: Symmetry, name: str) -> tuple[Conserved, ...]:
    return tuple(
        Conserved(q.latex() if q.form else "", bool(q.form) and name in q.parameters, q.reason)
        for q in cat.replace(symmetries=(s,)).conserved)


def _concerns(b: Broken, name: str, graph: OpGraph | None) -> bool:
    """The refusal is about this tensor: it is named, lies below the site, or feeds an operator without a rule."""
    if b.parameters:
        return name in b.parameters
    if b.family == "all":
        return graph is None or _feeds(graph, name, b.breaker)
    return not b.site or name == b.site or name.startswith(f"{b.site}.")


def _feeds(graph: OpGraph, name: str, packet: str) -> bool:
    """A value that depends on the tensor enters such an operator."""
    touched = {v for table in (graph.parameters, graph.buffers) for v, n in table.items() if n == name}
    for op in graph.ops:
        if touched.intersection(op.inputs):
            if op.packet == packet:
                return True
            touched.add(op.name)
    return False


# --- as text --------------------------------------------------------------------------------------------------------------
def lines(found: Explanation) -> list[str]:
    """The explanation as plain lines."""
    kind = "parameter" if found.trained else "buffer"
    text = [f"{found.parameter}   {kind} {list(found.shape)}" + "".join(f", tied with {n}" for n in found.names)]
    if not (found.continuous or found.discrete):
        text.append("no symmetry moves it")
    for title, motions in (("continuous", found.continuous), ("discrete", found.discrete)):
        text += ["", f"{title} symmetries that move it: {len(motions)}"] if motions else []
        for motion in motions:
            text += _motion_lines(motion)
    if found.steered:
        text += ["", "stays as it is, but its value steers", *(f"  {s}" for s in found.steered)]
    if found.broken:
        text += ["", "refused here", *(f"  {line}" for b in found.broken for line in refusal(b))]
    return text


def _motion_lines(m: Motion) -> list[str]:
    text = [f"  {unicode.from_latex(m.group)}   {m.name}, {m.size}, {m.status}, at {m.where}"]
    text += [f"      {unicode.from_latex(latex)}{f'   on {part}' if part else ''}" for part, latex in m.formulas]
    if not m.formulas:
        text.append("      moved along a flow, numerically")
    text.append(f"      {unicode.from_latex(m.element)}")
    text += [f"      with {unicode.from_latex(x)}" for x in m.letters]
    text.append(f"      together with {', '.join(m.partners)}" if m.partners else "      alone")
    text += [f"      reads {', '.join(m.reads)}"] if m.reads else []
    text += [f"      assumes: {a}" for a in m.assumptions]
    for c in m.conserved:
        formula = "; ".join(unicode.from_latex(c.latex).split("\n"))
        text.append(f"      nothing conserved: {c.reason}" if not c.latex else
                    f"      conserved{'' if c.enters else ' (does not contain it)'}: {formula}")
    return text


def refusal(b: Broken) -> list[str]:
    """A refusal as lines: what and where, who broke it and why, what would restore it."""
    text = [f"{b.family} at {b.site or WHOLE}: broken by {b.breaker}: {b.reason}"]
    return [*text, f"    restored by: {b.remedy}"] if b.remedy else text
