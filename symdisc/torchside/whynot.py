"""What a network does not admit and why, each edit of operators tried: the families of the edited graph are derived again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from symdisc.families.affine import find_affine
from symdisc.families.blocks import find_blocks
from symdisc.families.charts import Family, freeze, lift
from symdisc.families.discrete import find_discrete
from symdisc.families.find import find_families
from symdisc.families.naming import common_path
from symdisc.families.signs import find_signs
from symdisc.moves import Chart
from symdisc.obstacles import Obstacles, Refusal
from symdisc.opgraph import Op, OpGraph
from symdisc.symmetry import Broken
from symdisc.torchside.capture import Capture
from symdisc.torchside.charts import unfolded
from symdisc.torchside.check import TOLERANCE, Checker, can_run
from symdisc.torchside.fold import fold

__all__ = ["swapped", "why_not"]

CHECKED = 2_000_000  # parameters up to which an edited graph is also run: beyond, every run costs seconds
Swaps = tuple[tuple[str, str], ...]


def why_not(captured: Capture, parameter: str | None = None) -> tuple[Broken, ...]:
    """For each feature space the families that it lacks, the operators that broke them, and the edit that restores them.

    An edit that exchanges or drops operators (an activation, a product, a fused norm, eps) is told only if the edited graph has the
    family, checked by running it where weights have values. One that unties, drops positions or a written-out norm is not tried,
    and is told only where it is the single obstacle. With ``parameter`` (canonical name) only the spaces that it holds are told.
    """
    charts = unfolded(captured)[1]
    told = (_stored(r, charts) for r in _derived(captured).refusals())
    refusals = [r for r in told if parameter is None or parameter in r.broken.parameters]
    tried = {swaps: [_derived(replace(captured, graph=swapped(captured.graph, swaps, side)), check=True)
                     for side in ((0, 1) if ("product", "") in swaps else (0,))]
             for swaps in dict.fromkeys(r.swaps for r in refusals if r.swaps)}

    def stands(r: Refusal) -> bool:
        return any(t.admits(r.sides, r.kind, r.units) for t in tried[r.swaps]) if r.swaps else r.edits == 1

    return _merged([r if stands(r) else replace(r, broken=replace(r.broken, remedy="")) for r in refusals])


def _derived(captured: Capture, check: bool = False) -> Obstacles:
    """The families of a graph; with ``check`` those alone that leave its outputs as they are."""
    plain, charts, _ = unfolded(captured)
    facts = fold(plain)
    freeze(facts, charts)
    symmetries, classes, spaces = find_families(plain.graph, facts)
    discrete = find_discrete(classes, spaces)
    discrete += find_blocks(classes, classes.links, discrete) + find_signs(classes, spaces) + find_affine(classes)
    if check and captured.size <= CHECKED and can_run(captured):
        checker = Checker(captured, facts.gained)
        symmetries = _standing(symmetries, charts, checker.judge)
        discrete = _standing(discrete, charts, lambda found: checker.judge_discrete(found, trials=2))
    return Obstacles(classes, spaces, symmetries, discrete)


def _standing(families: list[Family], charts: Sequence[Chart], judge: Callable[[list[Family]], list[float]]) -> list[Family]:
    """Those that leave the outputs as they are when they act on what is stored."""
    acting = [(f, stored) for f in families for stored in lift([f], charts)]
    return [f for (f, _), change in zip(acting, judge([a for _, a in acting]), strict=True) if change < TOLERANCE]


def _stored(refusal: Refusal, charts: Sequence[Chart]) -> Refusal:
    """With the tensors that a made weight is made of in its place."""
    made = {c.weight: c.stored for c in charts}
    names = tuple(dict.fromkeys(n for p in refusal.broken.parameters for n in made.get(p, (p,))))
    return replace(refusal, broken=replace(refusal.broken, parameters=names))


def swapped(graph: OpGraph, swaps: Swaps, side: int = 0) -> OpGraph:
    """The graph with every operator of a kind exchanged, see ``Obstacle.swap``; of products factor ``side`` stays."""
    new, zero = {a: b for a, b in swaps if a}, {b for a, b in swaps if not a}

    def swap(op: Op) -> Op:
        if op.name in zero:
            op = replace(op, args=tuple(0.0 if isinstance(a, float) else a for a in op.args))
        if "product" in new and _is_product(graph, op):
            return replace(op, target="aten.alias.default", args=(op.args[side],), kwargs=())
        packet = new.get(op.packet, "")
        rms = (*op.args[:2], None, op.args[4] if len(op.args) > 4 else 1e-5)
        return replace(op, target=f"{packet}.default", args=rms if packet == "aten.rms_norm" else op.args[:1], kwargs=()) if packet else op

    return replace(graph, ops=tuple(map(swap, graph.ops)))


def _is_product(graph: OpGraph, op: Op) -> bool:
    shapes = [graph.shape(n) for n in op.inputs if graph.is_activation(n)]
    if any(n in graph.by_name and not (graph.by_name[n].dtype or "float").startswith("float") for n in op.inputs):
        return False  # a mask is no factor that could stand alone
    return op.packet == "aten.mul" and len(set(op.inputs)) == 2 and len(shapes) == 2 and shapes[0] == shapes[1]


def _merged(refusals: Sequence[Refusal]) -> tuple[Broken, ...]:
    """One record for spaces that move together and lack the same for the same reason (before and behind an activation)."""
    found: dict[tuple[object, ...], list[Broken]] = {}
    for r in refusals:
        b = r.broken
        found.setdefault((r.tie, b.family, frozenset(b.breaker.split(", ")), frozenset(b.reason.split("; ")), bool(b.remedy)), []).append(b)
    merged = []
    for alike in found.values():
        names = tuple(dict.fromkeys(p for b in alike for p in b.parameters))
        site = alike[0].site if len(alike) == 1 else common_path([n.rpartition(".")[0] for n in names])
        merged.append(replace(alike[0], site=site, parameters=names))
    return tuple(merged)
