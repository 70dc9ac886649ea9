"""The architecture graph made ready for drawing: like layers folded, each edge with the symmetry living there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from symdisc.archgraph import ArchGraph
from symdisc.report import unicode
from symdisc.report.grouping import Group, Place, merge
from symdisc.symmetry import Discrete, Symmetry

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Edge", "Picture", "Strand", "Vertex", "picture"]

FOLD_FROM = 12  # graphs with more vertices than this are folded
# What colours an edge, when several symmetries move its parameters: the one that says most.
LEADING = tuple("gl complex scale o o1 permutation sign linear flow outer outer0 translation translation0".split())


@dataclass(frozen=True)
class Vertex:
    """A node, input or output; ``count`` of them folded into one."""

    label: str
    place: str
    kind: str
    count: int = 1


@dataclass(frozen=True)
class Strand:
    """One linear map of an edge: the modules whose parameters it carries, and what lives there."""

    modules: str
    groups: str
    family: str
    name: str


@dataclass(frozen=True)
class Edge:
    """All maps from one vertex to another; ``back``: to the same or an earlier vertex of the next layer."""

    tail: int
    head: int
    strands: tuple[Strand, ...]
    back: bool


@dataclass(frozen=True)
class Picture:
    """Vertices in order of execution, edges by their numbers."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """The row of each vertex: one below the lowest of those that it reads."""
        rank = [0] * len(self.vertices)
        for v in range(len(self.vertices)):
            reads = [rank[e.tail] for e in self.edges if e.head == v and not e.back]
            rank[v] = max(reads, default=-1) + 1
        return tuple(rank)

    @cached_property
    def columns(self) -> tuple[float, ...]:
        """The column of each vertex: those of one row side by side, below what they read, centred at 0."""
        column = [0.0] * len(self.vertices)
        for row in range(max(self.ranks, default=0) + 1):
            members = [v for v, r in enumerate(self.ranks) if r == row]
            members.sort(key=lambda v: (self._mean_above(v, column), v))
            for k, v in enumerate(members):
                column[v] = k - (len(members) - 1) / 2
        return tuple(column)

    def _mean_above(self, v: int, column: Sequence[float]) -> float:
        above = [column[e.tail] for e in self.edges if e.head == v and not e.back]
        return sum(above) / len(above) if above else 0.0


def picture(arch: ArchGraph, cat: Catalog) -> Picture:
    """Fold the graph (when it is large) and colour its edges."""
    graph = arch.networkx
    names = _in_order(arch, list(graph))
    groups = _folded(names, {n: graph.nodes[n] for n in names})
    number = {names[m]: k for k, group in enumerate(groups) for m in group.members}
    vertices = []
    for group in groups:
        data = graph.nodes[names[group.members[0]]]
        kind = data.get("kind", "constant")
        label = kind if kind == "output" else data.get("label", kind)
        vertices.append(Vertex(label, group.spread(group.names[0]), kind, group.count))
    living = _Living(cat)
    strands: dict[tuple[int, int], dict[Strand, None]] = defaultdict(dict)
    for tail, head, data in graph.edges(data=True):
        carried = _carried(arch, tail, data["value"])
        strands[(number[tail], number[head])][living.strand(carried)] = None
    edges = tuple(Edge(t, h, tuple(s), t >= h) for (t, h), s in sorted(strands.items()))
    return Picture(tuple(vertices), edges)


def _in_order(arch: ArchGraph, names: list[str]) -> list[str]:
    """Inputs, nodes as they are executed, outputs."""
    place = {node.name: k for k, node in enumerate(arch.nodes)}
    last = len(place)
    return sorted(names, key=lambda n: place.get(n, last if n.startswith("output:") else -1))


def _folded(names: Sequence[str], data: dict[str, dict[str, str]]) -> tuple[Group, ...]:
    """Vertices that differ in a layer number only become one, in graphs that are too large to draw otherwise."""
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for name in names:
        module, label = data[name].get("module", ""), data[name].get("label", "")
        seen[(module, label)] += 1
        places.append(Place((module,), (data[name].get("kind", ""), label, seen[(module, label)])))
    if len(names) <= FOLD_FROM:
        return tuple(Group(p.names, (k,)) for k, p in enumerate(places))
    return merge(places, depth=1)


def _carried(arch: ArchGraph, tail: str, value: str) -> tuple[str, ...]:
    """Parameters on the way from ``tail`` to ``value``: those of the segment that other branches read are left out."""
    graph = arch.graph
    ops, _, _ = arch.segment(value)
    start = {tail} | {v for v, node in arch.produced.items() if node.name == tail}
    reached, found = set(start), {}  # type: tuple[set[str], dict[str, None]]
    made = {op.name: op for op in ops}
    for op in ops:
        if not any(n in reached for n in op.inputs):
            continue
        reached.add(op.name)
        waiting = [n for n in op.inputs if n not in reached and graph.varies(n) and not graph.is_activation(n)]
        while waiting:
            name = waiting.pop(0)
            if name in graph.parameters:
                found[graph.parameters[name]] = None
            elif name in made:
                waiting += [n for n in made[name].inputs if graph.varies(n)]
    return tuple(found)


class _Living:
    """Which symmetries move a parameter."""

    def __init__(self, cat: Catalog) -> None:
        self.movers: dict[str, list[Symmetry | Discrete]] = defaultdict(list)
        everything: list[Symmetry | Discrete] = [*cat.symmetries, *cat.discrete]
        for s in everything:
            for name in s.parameters:
                self.movers[name].append(s)

    def strand(self, carried: tuple[str, ...]) -> Strand:
        found = {id(s): s for name in carried for s in self.movers[name]}
        ordered = sorted(found.values(), key=_leading)
        telling = [s for s in ordered if _leading(s)[0] < LEADING.index("linear")] or ordered[:1]
        groups = list(dict.fromkeys(unicode.from_latex(s.group_latex) if s.group_latex else s.group for s in telling))
        first = ordered[0] if ordered else None
        return Strand(
            _modules(carried),
            ", ".join(groups[:2]) + (", …" if len(groups) > 2 else ""),
            first.family if first else "",
            first.name if first else "",
        )


def _leading(s: Symmetry | Discrete) -> tuple[int, int]:
    rank = LEADING.index(s.family) if s.family in LEADING else len(LEADING)
    return rank, len(s.parameters)


def _modules(carried: tuple[str, ...]) -> str:
    """The modules of some parameters, by their last names."""
    found: dict[str, None] = {}
    for name in carried:
        parts = name.split(".")[:-1] or name.split(".")
        keep = 1 if not parts[-1].isdigit() else 2
        found[".".join(parts[-keep:])] = None
    return ", ".join(found)
