"""Linear maps that read one tensor and whose results are added: W + T and V - T, entry by entry where they see the same place.

Between a map and the sum each output channel may meet constants and factors of its own (BatchNorm in eval mode, layer scales). With
factors d and e the trade is W + e T, V - d T, so nothing is divided by. Kernels of different sizes meet where their taps look at the
same pixel: the 1 x 1 branch of a block and the middle of its 3 x 3 branch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations

import numpy as np

from symdisc.families.batchnorm import affine_after, buffer_behind, variance_behind
from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine
from symdisc.families.translations import Translations
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["bias_trades", "parallel_trades"]

PASS = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout"))
Key = tuple[object, ...]  # what two maps must share to be compared


@dataclass(frozen=True)
class _Branch:
    """One map: ``entries`` [n] of its weight with the numbers ``keys`` [n] of (output channel, input channel, tap), the sums that it
    enters with the factors met before each, those met before the weight (``first``). Where the source loses a constant first (a
    BatchNorm of the source itself), ``centre`` is (the buffer, the shift that takes what this adds). ``places`` makes entries and
    keys when a second map asks for them: those of a large matrix take seconds."""

    parameter: str
    module: str
    size: int
    alike: Key
    places: Callable[[], tuple[np.ndarray, np.ndarray]]
    sums: dict[str, tuple[Through, ...]]
    first: tuple[Through, ...] = ()
    centre: tuple[str, str] | None = None

    @cached_property
    def _placed(self) -> tuple[np.ndarray, np.ndarray]:
        return self.places()

    @property
    def entries(self) -> np.ndarray:
        return self._placed[0]

    @property
    def keys(self) -> np.ndarray:
        return self._placed[1]

    def factors(self, where: str) -> tuple[Through, ...]:
        return (*self.first, *self.sums[where])


def parallel_trades(classes: Classes, written: Collection[str] = (), read: Collection[str] = ()) -> list[Symmetry]:
    """One additive group for each pair of maps that share entries, no more than the entries need.

    ``written`` are weights that may hold any multiple of 1 along their outputs, ``read`` those with a free direction along their
    inputs: of what two of them trade, one row or column is in those families already.
    """
    found: list[Symmetry] = []
    groups: dict[Key, list[_Branch]] = {}
    for branch in (*_branches(classes), *_norms(classes)):
        groups.setdefault(branch.alike, []).append(branch)
    for group in groups.values():
        if len(group) < 2:
            continue
        group.sort(key=lambda b: -len(b.entries))
        joined: dict[int, set[int]] = {}  # maps already connected at a key
        for (i, a), (j, b) in combinations(enumerate(group), 2):
            where = next((s for s in a.sums if s in b.sums), None)
            shared = np.intersect1d(a.keys, b.keys) if where is not None else np.zeros(0, dtype=np.int64)
            if len(group) > 2:
                shared = np.array([k for k in shared.tolist() if not _connected(joined, k, i, j)], dtype=np.int64)
            if where is None or not len(shared):
                continue
            rows, columns, both = shared // _BIG, shared % _BIG // _TAPS, {a.parameter, b.parameter}
            keep = np.ones(len(shared), dtype=bool)
            keep &= rows != a.size - 1 if both <= set(written) else True
            keep &= columns != columns.max() if both <= set(read) else True
            found += _trade(a, b, where, shared[keep]) if keep.any() else []
    return found


_TAPS, _BIG = 1 << 12, 1 << 36  # a key is (output * 2^24 + input) * 2^12 + tap
_REACH = 16  # offsets of taps lie between -8 and 7, in each direction


def _connected(joined: dict[int, set[int]], key: int, i: int, j: int) -> bool:
    """The pairs compared first come with the largest maps; a later pair whose maps both met one of them is not independent."""
    met = joined.setdefault(key, set())
    known = {i, j} <= met
    met |= {i, j}
    return known


# --- maps ---------------------------------------------------------------------------------------------------------------
def _branches(classes: Classes) -> Iterator[_Branch]:
    search = Translations(classes)
    for name, uses in classes.uses.items():
        ops = {u.op for u in uses}
        if len(ops) != 1 or not all(isinstance(u, DenseUse) for u in uses):
            continue
        op = classes.graph.by_name[next(iter(ops))]
        dense = [u for u in uses if isinstance(u, DenseUse) and u.outs is not None and u.ins is not None]
        places = _places(classes, op, name, dense) if len(dense) == len(uses) else None
        if places is None or dense[0].value != op.name:
            continue
        outs = np.concatenate([classes(u.outs) for u in dense])  # type: ignore[arg-type]
        sums = dict(_sums(classes, search, op.name, outs))
        if sums:
            alike, made = places
            yield _Branch(name, dense[0].module, len(outs), (dense[0].source, *alike), made, sums)


def _places(classes: Classes, op: Op, name: str, uses: list[DenseUse]) -> tuple[Key, Callable[[], tuple[np.ndarray, np.ndarray]]] | None:
    """(what must agree, what makes the flat entries and their keys): the tap of a kernel by the offset of the pixel that it sees."""
    shape, axes = classes.shape(name), (uses[0].out_axis, uses[0].in_axis)
    if op.packet in ("aten.linear", "aten.addmm", "aten.matmul", "aten.mm") and len(shape) == 2:
        return ("linear", op.shape), partial(_keyed, shape, axes, (), 1)
    if op.packet not in ("aten.conv1d", "aten.conv2d", "aten.conv3d"):
        return None
    n = len(shape) - 2
    stride, padding, dilation = (_each(op, k, d, n) for k, d in ((3, 1), (4, 0), (5, 1)))
    groups = int(op.args[6]) if len(op.args) > 6 else 1
    if padding is None or stride is None or dilation is None:
        return None
    first = tuple(_REACH // 2 - p for p in padding)
    if any(f < 0 or f + (size - 1) * d >= _REACH for f, size, d in zip(first, shape[2:], dilation, strict=True)):
        return None
    return ("conv", stride, op.shape), partial(_keyed, shape, axes, tuple(zip(first, dilation, strict=True)), groups)


def _keyed(shape: tuple[int, ...], axes: tuple[int, int], taps: tuple[tuple[int, int], ...], groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat entries of a weight and their keys, sorted by key; ``taps`` are (first offset, dilation) for each direction of a kernel."""
    grid = np.indices(shape).reshape(len(shape), -1)
    ins = grid[axes[1]] if not taps else grid[1] + grid[0] // (shape[0] // groups) * shape[1]
    keys = (grid[axes[0]] << 36) | (ins << 12)
    for k, (first, dilation) in enumerate(taps):
        keys = keys + (first + grid[2 + k] * dilation) * _REACH**k
    order = np.argsort(keys)
    return order, keys[order]


def _each(op: Op, position: int, default: int, n: int) -> tuple[int, ...] | None:
    value = op.args[position] if len(op.args) > position else default
    if isinstance(value, str):
        return None
    whole = tuple(value) if isinstance(value, tuple) else (value,)
    return whole * n if len(whole) == 1 else whole


def _norms(classes: Classes) -> Iterator[_Branch]:
    """BatchNorms of a source itself (the identity branch): a diagonal map of the source less its mean."""
    graph, search = classes.graph, Translations(classes)
    for op in graph.ops:
        mean = buffer_behind(classes, op.inputs[1]) if op.packet == "aten.sub" and len(op.inputs) == 2 and op.name in graph.live else None
        after = None if mean is None else affine_after(classes, op.name)
        if mean is None or after is None or op.shape is None or len(op.shape) < 3:
            continue
        variance, eps, gain, shift = after
        if gain is None or shift is None:
            continue
        n, use = op.shape[1], classes.uses[gain][0]
        if any(len(classes.uses[p]) != 1 for p in (gain, shift)) or not isinstance(use, GainUse) or len(use.elements) != n:
            continue
        channels = np.arange(n)
        tap = sum(_REACH // 2 * _REACH**k for k in range(len(op.shape) - 2))
        sums = dict(_sums(classes, search, use.op, classes(use.outs)[np.argsort(use.elements)]))
        rsqrt = Through("rsqrt", variance, index=Index.of(channels[None, :, None]), offset=eps)
        yield _Branch(gain, use.module, n, (op.inputs[0], "conv", (1,) * (len(op.shape) - 2), op.shape),
                      partial(_diagonal, channels, tap), sums, (rsqrt,), (mean, shift))


def _diagonal(channels: np.ndarray, tap: int) -> tuple[np.ndarray, np.ndarray]:
    return channels, (channels << 36) | (channels << 12) | tap


# --- the way to the sum -------------------------------------------------------------------------------------------------
def _sums(classes: Classes, search: Translations, value: str, vec: np.ndarray) -> Iterator[tuple[str, tuple[Through, ...]]]:
    """The sums of activations that a value enters, nothing else reading it on the way, with the factors of each channel before them."""
    graph = classes.graph
    chain: tuple[Through, ...] = ()
    while value not in graph.outputs:
        users = [u for u in graph.users.get(value, ()) if u.name in graph.live]
        if len(users) != 1 or users[0].inputs.count(value) != 1:
            return
        op = users[0]
        step = _step(classes, search, op, value, vec)
        if step is None:
            return
        vec, factors = step
        chain = (*chain, *factors)
        if op.packet in ("aten.add", "aten.sub") and all(graph.is_activation(n) for n in op.inputs) and len(op.inputs) == 2:
            yield op.name, chain
        value = op.name


def _step(classes: Classes, search: Translations, op: Op, value: str, vec: np.ndarray) -> tuple[np.ndarray, tuple[Through, ...]] | None:
    """(classes behind the operator, factors per channel), or None where the channels do more than meet a constant."""
    graph = classes.graph
    if op.packet in PASS:
        return vec, ()
    if op.packet in ("aten.add", "aten.sub") and not op.kwargs and len(op.args) == 2:
        if any((graph.shape(n) or ()) != op.shape for n in op.inputs if graph.is_activation(n)):
            return None
        second = op.packet == "aten.sub" and isinstance(op.args[1], Ref) and op.args[1].name == value
        return vec, (Through("scale", "", offset=-1.0),) if second else ()
    if op.packet not in ("aten.mul", "aten.div"):
        return None
    number = next((a for a in op.args[:2] if isinstance(a, (int, float))), None)
    if number is not None and isinstance(op.args[0], Ref):
        return vec, (Through("scale", "", offset=float(number) if op.packet == "aten.mul" else 1.0 / float(number)),)
    gain = search.gain.get(op.name)
    if op.packet == "aten.mul" and gain is not None:
        table = {int(i): (int(e), int(o)) for i, e, o in zip(classes(gain.ins), gain.elements, classes(gain.outs), strict=True)}
        if any(int(c) not in table for c in vec) or len(table) != len(gain.elements):
            return None
        elements, outs = np.array([table[int(c)] for c in vec]).T
        return outs, (Through("gain", gain.parameter, index=Index.of(elements[None, :, None]), offset=gain.offset),)
    factor = next((n for n in op.inputs if n != value), "") if op.packet == "aten.mul" and len(op.inputs) == 2 else ""
    variance = variance_behind(search.graph, factor)
    if variance is None or len(vec) != classes.shape(variance[0])[0]:
        return None
    return vec, (Through("rsqrt", variance[0], index=Index.of(np.arange(len(vec))[None, :, None]), offset=variance[1]),)


# --- biases ---------------------------------------------------------------------------------------------------------------
def bias_trades(classes: Classes, known: Sequence[Symmetry]) -> list[Symmetry]:
    """The ``known`` families and biases that enter one sum, each behind factors of its own, where those do not let them trade yet.

    Families of translations tie the parameters that they move; two biases without such a tie trade b + e t and c - d t. Where a
    known family trades only one number between the two, the whole vector takes its place.
    """
    tied: dict[str, str] = {}

    def root(name: str) -> str:
        while tied.get(name, name) != name:
            name = tied[name]
        return name

    numbers = [s for s in known if s.family == "translation" and s.shape == (1,) and len(s.parameters) == 2]
    for s in known:
        if s.family.startswith(("translation", "outer", "free")) and s not in numbers:
            for p in s.parameters[1:] if len(s.parameters) > 1 else [""]:
                tied[root(p)] = root(s.parameters[0])
    found = []
    whole: list[set[str]] = []
    for a, b in combinations(_biases(classes), 2):
        where = next((s for s in a.sums if s in b.sums), None)
        if where is not None and np.array_equal(a.keys, b.keys) and root(a.parameter) != root(b.parameter):
            tied[root(a.parameter)] = root(b.parameter)
            made = _trade(a, b, where, a.keys)
            whole += [{a.parameter, b.parameter}] * bool(made)
            found += made
    return [s for s in known if s not in numbers or set(s.parameters) not in whole] + found


def _biases(classes: Classes) -> Iterator[_Branch]:
    """Biases with the sums that they reach; constants are added to any tensor, so no source is compared."""
    search = Translations(classes)
    for name, uses in classes.uses.items():
        shape, use = classes.shape(name), uses[0]
        if len(uses) != 1 or not isinstance(use, ShiftUse) or use.buffer or len(shape) != 1 or len(use.elements) != shape[0]:
            continue
        vec = classes(use.units)[np.argsort(use.elements)]
        sums = dict(_sums(classes, search, use.value, vec)) if use.value in classes.graph.by_name else {}
        if sums and len(np.unique(vec)) == len(vec):
            channels = np.arange(len(vec))
            yield _Branch(name, use.module, len(vec), (), partial(lambda c: (c, c << 36), channels), sums)


# --- to moves -----------------------------------------------------------------------------------------------------------
def _trade(a: _Branch, b: _Branch, where: str, keys: np.ndarray) -> list[Symmetry]:
    """W + e T and V - d T on the shared entries."""
    rows = keys >> 36
    per = np.bincount(rows)[np.unique(rows)]
    if per.min() != per.max():
        return []
    shape = (1, len(per), int(per[0]))
    moves = []
    for mine, other, power in ((a, b, 1.0), (b, a, -1.0)):
        entries = mine.entries[np.searchsorted(mine.keys, keys)].reshape(shape)
        through = tuple(_spread(t, rows) for t in other.factors(where))
        moves.append(Move("add", mine.parameter, -1, Index.of(entries), power=power, through=through))
        if mine.centre is not None:
            mean, shift = mine.centre
            index = Index.of(rows[None, :, None])
            constant = (*through, *(_spread(t, rows) for t in mine.first), Through("gain", mean, index=index))
            moves.append(Move("add", shift, -1, index, power=power, through=constant))
    n, names = len(keys), parameters_of(moves)
    if not a.alike:
        return [describe_affine("translation traded between parameters", "translation", n, (n,), tuple(moves), names, [a.module, b.module],
                                r"D (b + E t) + E (c - D t) = D b + E c", r"b \mapsto b + E t,\; c \mapsto c - D t")]
    return [describe_affine("weights of parallel maps traded", "translation", n, (n,), tuple(moves), names, [a.module, b.module],
                            r"D (W + E T) x + E (V - D T) x = D W x + E V x", r"W \mapsto W + E T,\; V \mapsto V - D T")]


def _spread(step: Through, rows: np.ndarray) -> Through:
    """The factor of each output channel for each entry of its row."""
    if step.index is None:
        return step
    blocks, each = len(np.unique(rows)), len(rows) // len(np.unique(rows))
    table = step.index.positions().ravel()[np.unique(rows)]
    return replace(step, index=Index.of(np.broadcast_to(table[None, :, None], (1, blocks, each))))
