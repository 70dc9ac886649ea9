"""The folded graph as one labelled graph: classes, operators, parameters and relations are vertices; its automorphisms permute
units, heads, groups, experts and whole branches.

A parameter axis is unordered (a dense weight absorbs any renumbering), operands of sums and products are unordered, positions
along axes that carry units are told by their classes. Everything else (literals, data, order of operands) must be kept.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.hashing import mix
from symdisc.families.links import Links, ranks
from symdisc.opgraph import Op, refs

__all__ = ["Structure"]

ROUNDS = 3  # of refining the signatures of vertices
COMMUTES = frozenset(("aten.add", "aten.mul"))
JOINS = frozenset(("aten.cat", "aten.stack"))
CHOOSES = frozenset(f"aten.{n}" for n in ("select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind")) | {"getitem"}


class Structure:
    """Vertices 0..count-1 are the classes; others are numbered as they come. Edges carry labels, directions are kept apart."""

    def __init__(self, classes: Classes, links: Links) -> None:
        self.classes, self.graph = classes, classes.graph
        self.size = classes.count
        self.colour: dict[int, Hashable] = {}
        self.names: dict[tuple[Any, ...], int] = {}
        self.labels: dict[Hashable, int] = {}
        self.seeds: dict[Hashable, list[int]] = {}
        self._edges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._sets: dict[str, frozenset[int]] = {}
        self._keys: dict[str, tuple[Any, ...]] = {}
        self._ways: dict[tuple[Any, ...], int] = {}
        self._from_buffers: dict[str, bool] = {}
        self.stored = {n: v for v, n in (*self.graph.buffers.items(), *self.graph.parameters.items())}
        self.pinned = self._pinned()
        self._operators()
        self._parameters()
        self._relations(links)
        self._freeze()

    # --- vertices and edges -------------------------------------------------------------------------------------------
    def vertex(self, name: tuple[Any, ...], colour: Hashable) -> int:
        if name not in self.names:
            self.names[name] = self.size
            self.colour[self.size] = colour
            self.size += 1
        return self.names[name]

    def edge(self, label: Hashable, a: int | np.ndarray, b: int | np.ndarray) -> None:
        number = self.labels.setdefault(label, len(self.labels))
        a, b = np.broadcast_arrays(np.atleast_1d(a), np.atleast_1d(b))
        self._edges.append((np.full(len(a), number), a, b))

    def pairs(self, hub: int, label: Hashable, left: np.ndarray, right: np.ndarray,
              places: tuple[np.ndarray, np.ndarray] | None = None) -> int:
        """One vertex for each pair of classes that correspond in a relation; the first of them. ``places`` are the ranks of the units
        in their classes: units of one class keep them."""
        first = self.size
        made = np.arange(first, first + len(left))
        self.size += len(left)
        for side, vec, place in zip(("left", "right"), (left, right), places or (np.zeros(len(left), dtype=np.int64),) * 2, strict=True):
            for k in np.unique(place).tolist():
                self.edge((label, side, k), made[place == k], vec[place == k])
        self.edge((label, "of"), made, np.full(len(made), hub))
        return first

    def _pinned(self) -> np.ndarray:
        pinned = np.zeros(self.classes.count, dtype=bool)
        pinned[self.classes.data] = True
        facts = self.classes.facts
        for units in [*facts.rigid, *(u for u, why in facts.fixed if why == "output")]:
            pinned[self.classes(units)] = True
        return pinned

    def _freeze(self) -> None:
        none = (np.zeros(0, dtype=np.int64),) * 3  # a network without parameters has no edges
        label, a, b = (np.concatenate(x) for x in zip(none, *self._edges, strict=True))
        kinds, size = 2 * len(self.labels), self.size  # one sort of whole numbers: rows are slow to compare
        packed, times = np.unique(np.concatenate([(a * kinds + 2 * label) * size + b, (b * kinds + 2 * label + 1) * size + a]),
                                  return_counts=True)
        self._neighbour, rest = packed % size, packed // size
        self._label = (rest % kinds) * (int(times.max(initial=0)) + 1) + times
        self._labels = int(self._label.max(initial=-1)) + 1
        self._start = np.searchsorted(rest // kinds, np.arange(size + 1))

    def edges(self, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(owner, label, neighbour) of the edges at ``vertices``, each once, in this order; ``owner`` counts within ``vertices``."""
        first, last = self._start[vertices], self._start[vertices + 1]
        counts = last - first
        owner = np.repeat(np.arange(len(vertices)), counts)
        where = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(len(owner))
        return owner, self._label[where], self._neighbour[where]

    def code(self, owner: np.ndarray, label: np.ndarray, neighbour: np.ndarray) -> np.ndarray:
        """Each edge as one number, in the order of (owner, label, neighbour)."""
        return np.asarray((owner * self._labels + label) * self.size + neighbour)

    def free(self, vertices: np.ndarray) -> np.ndarray:
        """Boolean per vertex: it may be exchanged."""
        return np.asarray(~self.pinned[np.minimum(vertices, len(self.pinned) - 1)] | (vertices >= len(self.pinned)))

    @cached_property
    def signature(self) -> np.ndarray:
        """A number per vertex that no automorphism changes: what is seen of the graph up to ROUNDS edges away."""
        kinds: dict[Hashable, int] = {}
        h = np.zeros(self.size, dtype=np.uint64)
        h[list(self.colour)] = [kinds.setdefault(c, len(kinds) + 1) for c in self.colour.values()]
        h = mix(h, 30)
        fixed = np.flatnonzero(self.pinned)
        h[fixed] = mix(fixed, 31)
        labels = mix(self._label, 32)
        for _ in range(ROUNDS):
            with np.errstate(over="ignore"):
                sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mix(labels ^ h[self._neighbour], 33))])
                h = mix(h, 34) + sums[self._start[1:]] - sums[self._start[:-1]]
        return h

    # --- operators ----------------------------------------------------------------------------------------------------
    def _classes_of(self, name: str) -> frozenset[int]:
        """Classes that a value carries."""
        if name not in self._sets:
            labels = self.classes.facts.labels.get(name)
            found: frozenset[int] = frozenset()
            if isinstance(labels, np.ndarray):
                cut = labels[tuple(slice(0, 1) if s == 0 else slice(None) for s in labels.strides)]
                found = frozenset(np.unique(self.classes(np.unique(cut))).tolist()) - {self.classes.data}
            self._sets[name] = found
        return self._sets[name]

    def _operators(self) -> None:
        graph = self.graph
        self._same: dict[str, str] = {}
        for op in reversed(graph.ops):
            users = [u for u in graph.users.get(op.name, ()) if u.name in graph.live]
            if _plain_sum(op) and len(users) == 1 and op.name not in graph.outputs:
                user = users[0]
                if _plain_sum(user) and user.shape == op.shape and user.inputs.count(op.name) == 1:
                    self._same[op.name] = self._same.get(user.name, user.name)
        for op in graph.ops:
            if op.name in graph.live and graph.varies(op.name):
                self._operator(op)

    def value(self, name: str) -> int:
        """The vertex of a value: data and constants are told by how they are made, the rest by name."""
        graph = self.graph
        if name in graph.parameters or name in graph.buffers:
            stored = graph.parameters.get(name) or graph.buffers[name]
            return self.vertex(("tensor", stored), ("tensor", graph.shapes[name], name in graph.parameters))
        if name in graph.by_name and (graph.varies(name) or self._has_buffer(name)):
            return self.vertex(("op", self._same.get(name, name)), self._kind(graph.by_name[self._same.get(name, name)]))
        key = self._made(name)
        return self.vertex(key, key)

    def _has_buffer(self, name: str) -> bool:
        """Made from buffers alone, entry by entry: they may have to be exchanged too."""
        if name not in self._from_buffers:
            op = self.graph.by_name[name]
            self._from_buffers[name] = not self.graph.roles[name] and any(
                n in self.graph.buffers or (n in self.graph.by_name and self._has_buffer(n)) for n in op.inputs)
        return self._from_buffers[name]

    def _made(self, name: str) -> tuple[Any, ...]:
        """One key for all constants that are made alike; numbered, for a value may be reached along very many paths."""
        if name not in self._keys:
            op = self.graph.by_name.get(name)
            how = ("input", name) if op is None else (op.target, repr(_literal(op)), *(self._made(n) for n in op.inputs))
            self._keys[name] = ("made", self._ways.setdefault(how, len(self._ways)))
        return self._keys[name]

    def _kind(self, op: Op) -> Hashable:
        return ("op", op.target, None if self._tracked(op) else repr(_literal(op)), op.shape)

    def _tracked(self, op: Op) -> bool:
        """Which part is chosen, or where a part is put, can be read off the classes."""
        if op.packet in CHOOSES:
            whole = self._classes_of(op.inputs[0])
            if op.target == "getitem":
                whole = self._classes_of(self.graph.by_name[op.inputs[0]].inputs[0])
            return bool(whole) and self._classes_of(op.name) != whole
        if op.packet in JOINS:
            parts = [self._classes_of(n) for n in op.inputs]
            return all(parts) and sum(map(len, parts)) == len(frozenset().union(*parts))
        return _plain_sum(op)

    def _operator(self, op: Op) -> None:
        me = self.value(op.name)
        unordered = op.packet in COMMUTES or (op.packet in JOINS and self._tracked(op))
        operands = []
        for place, n in enumerate(op.inputs):
            if n in self.graph.buffers or (n in self.graph.by_name and self._has_buffer(n)):
                self._buffers(n)
            if self._same.get(n) != self._same.get(op.name, op.name):
                operands.append(self.value(n))
                self.edge(("arg", "*" if unordered else place), me, operands[-1])
        if unordered:
            self.seeds.setdefault(("operands", me), []).extend(operands)
        if op.packet in CHOOSES and self._tracked(op):
            self.edge("carries", me, np.array(sorted(self._classes_of(op.name)), dtype=np.int64))

    def _buffers(self, name: str) -> None:
        op = self.graph.by_name.get(name)
        for place, n in enumerate(op.inputs if op is not None else ()):
            self.edge(("arg", place), self.value(name), self.value(n))
            self._buffers(n)

    # --- parameters ---------------------------------------------------------------------------------------------------
    def _parameters(self) -> None:
        classes, facts = self.classes, self.classes.facts
        for k, use in enumerate(facts.dense):
            grouped = "conv" in self.graph.by_name[use.op].packet and use.ins is not None and bool((classes(use.ins) == classes.data).all())
            channels = use.rows if grouped else None  # groups of channels of raw data are told apart, experts of one input are not
            me = self.vertex(("dense", k), ("dense", use.out_axis, use.in_axis, use.padded, channels))
            self.edge("op", me, self.value(use.op))
            self.edge("weight", me, self.value(self.stored[use.parameter]))
            for side, vec in (("out", use.outs), ("in", use.ins)):
                if vec is not None:
                    self.edge(side, me, classes(vec.ravel()))
            if use.rows is not None:
                self.seeds.setdefault(("rows", use.op), []).append(me)
        for k, shift in enumerate(facts.shifts):
            self._use(("shift", k), shift.op, shift.parameter, shift.units)
        for k, gain in enumerate((*facts.gains, *facts.statistics)):
            self._use(("gain", k), gain.op, gain.parameter, gain.outs)

    def _use(self, name: tuple[str, int], op: str, parameter: str, units: np.ndarray) -> None:
        me = self.vertex(name, name[0])
        self.edge("op", me, self.value(op))
        self.edge("weight", me, self.value(self.stored[parameter]))
        self.edge("units", me, np.unique(self.classes(units)))

    # --- relations ----------------------------------------------------------------------------------------------------
    def _relations(self, links: Links) -> None:
        classes, facts = self.classes, self.classes.facts
        for k, link in enumerate(links.all):
            hub = self.vertex(("link", k), ("link", link.kind, len(link.left)))
            self.pairs(hub, ("link", link.kind), link.left, link.right, link.ranks)
            if link.group:
                self.seeds.setdefault(("links", link.group), []).append(hub)
        for entries, units, name in facts.marked:
            for entry in np.unique(entries).tolist():
                self.edge(("constant", entry), self.value(name), np.unique(classes(units[entries == entry])))
        for ins, outs, name in facts.elementwise:
            self.pairs(self.value(name), "elementwise", classes(ins), classes(outs), (ranks(classes, ins), ranks(classes, outs)))
        for k, alike in enumerate(facts.alike):
            for row in range(len(alike.ins)):
                hub = self.vertex(("alike", k, row), "alike")
                self.edge("op", hub, self.value(alike.op))
                first = self.pairs(hub, "alike", classes(alike.ins[row]), classes(alike.outs[row]))
                self.seeds.setdefault(("rows alike", k), []).append(hub)
                self.seeds[("alike", k, row)] = list(range(first, first + alike.ins.shape[1]))
        for label, relation in (("total", facts.totals), ("weighted", facts.weighted)):
            for left, right, name in relation:
                self.pairs(self.value(name), label, classes(left), classes(right))
        for k, (entries, units) in enumerate(links.shared):
            hub, first = self.vertex(("shared", k), "shared"), self.size
            _, entry = np.unique(entries, return_inverse=True)
            self.size += int(entry.max()) + 1
            self.edge("multiplies", first + entry, units)
            self.edge("entry", np.arange(first, self.size), hub)
        for k, (out, a, b, p) in enumerate(facts.sums):
            hub = self.vertex(("sums", k), ("sums", p))
            first = self.pairs(hub, "sums", classes(a), classes(b))
            self.edge(("sums", "out"), np.arange(first, first + len(out)), classes(out))


def _plain_sum(op: Op) -> bool:
    """A sum of values without a factor and without a constant (but zero, which Python's sum starts with)."""
    return op.packet == "aten.add" and not op.kwargs and all(a == 0 for a in op.args if isinstance(a, (int, float)))


def _literal(op: Op) -> tuple[Any, ...]:
    """The arguments with the names of values taken out."""
    def strip(arg: Any) -> Any:
        return tuple(strip(a) for a in arg) if isinstance(arg, tuple) else "@" if next(refs(arg), None) is not None else arg

    return strip(op.args), tuple((k, strip(v)) for k, v in op.kwargs)
