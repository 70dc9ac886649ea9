"""Operators that move entries or add them up, as linear maps found by running them: on positions, or on unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.func import vmap

from symdisc.errors import Undecided
from symdisc.laws.jets import Node, Tape
from symdisc.opgraph import Op, Ref
from symdisc.residues import MAX_CONTRACTION
from symdisc.torchside.interpret import call
from symdisc.torchside.residues.run import Run, Sampled, refuse, residues_of

__all__ = ["LINEAR", "MOVING", "Moved", "summed", "take"]

# each entry of the result is an entry of an argument, or 0; which one depends on shapes and constants alone
MOVING = frozenset(f"aten.{n}" for n in (
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "expand_as", "unsqueeze", "squeeze", "slice", "select",
    "split", "split_with_sizes", "chunk", "unbind", "cat", "stack", "repeat", "flip", "roll", "narrow", "index", "index_select", "pad",
    "constant_pad_nd", "flatten", "unflatten", "tile", "movedim", "repeat_interleave", "select_scatter", "slice_scatter", "copy",
    "diagonal", "tril", "triu", "unfold", "clone", "alias", "contiguous", "detach", "pixel_shuffle", "channel_shuffle", "view_as",
    "swapaxes", "lift_fresh_copy", "to", "_to_copy", "type_as", "squeeze_copy"))  # fmt: skip
# linear in the one argument that varies, with constants for coefficients
LINEAR = frozenset(f"aten.{n}" for n in (
    "sum", "mean", "cumsum", "diff", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_linear1d"))  # fmt: skip
NOTHING = -1  # the position of a zero


@dataclass(frozen=True, eq=False)
class Moved:
    """Entry i of the result is entry ``index[i]`` of the flat argument (of ``size`` entries), or 0."""

    index: np.ndarray
    size: int

    @cached_property
    def _kept(self) -> np.ndarray:
        return self.index.reshape(-1) != NOTHING

    @cached_property
    def _once(self) -> bool:
        flat = self.index.reshape(-1)[self._kept]
        return len(np.unique(flat)) == len(flat)

    @cached_property
    def _transpose(self) -> csr_matrix:
        flat = self.index.reshape(-1)
        to = np.flatnonzero(self._kept)
        return csr_matrix((np.ones(len(to), np.int64), (flat[to], to)), shape=(self.size, len(flat)))

    def forward(self, v: np.ndarray) -> np.ndarray:
        flat = v.reshape(*v.shape[:3], self.size)
        if not self.size:
            return np.zeros((*v.shape[:3], *self.index.shape), np.int64)
        out = flat[..., self.index.reshape(-1)]
        if not self._kept.all():
            out = np.where(self._kept, out, 0)
        return out.reshape(*v.shape[:3], *self.index.shape)

    def back(self, bar: np.ndarray, shape: tuple[int, ...], prime: int) -> np.ndarray:
        if not self.size * self.index.size:
            return np.zeros((*bar.shape[:3], *shape), np.int64)
        flat = bar.reshape(-1, self.index.size)
        if self._once:
            out = np.zeros((len(flat), self.size), np.int64)
            out[:, self.index.reshape(-1)[self._kept]] = flat[:, self._kept]
        else:
            out = np.asarray((self._transpose @ flat.T).T) % prime
        return out.reshape(*bar.shape[:3], *shape)


def take(tape: Tape, node: Node, moved: Moved) -> Node:
    """The entries that ``moved`` says."""
    shape = node.value.shape[3:]
    return tape.linear(node, moved.forward, lambda bar: moved.back(bar, shape, tape.prime))


# --- moving -------------------------------------------------------------------------------------------------------------------
class Moves:
    """Moving operators of one graph; positions are found once."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Moved, ...]] = {}

    def __call__(self, run: Run, op: Op) -> Node | tuple[Node, ...]:
        names = list(dict.fromkeys(op.inputs))
        filled = op.packet in ("aten.pad", "aten.constant_pad_nd") and any(isinstance(a, float | int) and a for a in op.args[2:])
        if filled or (op.shape is not None and not op.dtype.startswith("float")) or any(
                isinstance(run.env[n], Sampled) and not run.env[n].each.is_floating_point() for n in names):
            raise refuse(op)
        varying = [n for n in names if not isinstance(run.env[n], Tensor) or (run.env[n].is_floating_point() and len(names) > 1)]
        nodes = [run.node(Ref(n)) for n in varying]
        moved = self._positions(run, op, varying, [n.value.shape[3:] for n in nodes])
        whole = nodes[0] if len(nodes) == 1 else _joined(run.tape, nodes)
        parts = tuple(take(run.tape, whole, m) for m in moved)
        dead = [run.dead.get(n) for n in varying]
        if any(d is not None for d in dead):
            self._dead(run, op, nodes, dead, moved)
        return parts[0] if op.shape is not None else parts

    def _positions(self, run: Run, op: Op, varying: list[str], shapes: list[tuple[int, ...]]) -> tuple[Moved, ...]:
        if op.name not in self._found:
            env, start = dict(run.env), 1  # 0 is for what is filled in
            for name, shape in zip(varying, shapes, strict=True):
                size = int(np.prod(shape))
                env[name] = torch.arange(start, start + size, dtype=torch.float64).reshape(shape)
                start += size
            result = call(op, env, torch.float64)
            tensors: Sequence[Any] = result if isinstance(result, tuple | list) else (result,)
            self._found[op.name] = tuple(Moved(t.numpy().astype(np.int64) - 1, start - 1) for t in tensors)
        return self._found[op.name]

    def _dead(self, run: Run, op: Op, nodes: list[Node], dead: list[np.ndarray | None], moved: tuple[Moved, ...]) -> None:
        """Minus infinities move along."""
        if len(moved) > 1 or any(d is not None and d.ndim != n.value.ndim - 3 for d, n in zip(dead, nodes, strict=True)):
            raise Undecided(f"{op.packet} moves infinities that depend on the sample, or takes them apart")
        flat = np.concatenate([np.zeros(n.value.shape[3:], bool).ravel() if d is None else d.ravel()
                               for d, n in zip(dead, nodes, strict=True)])
        index = moved[0].index
        run.dead[op.name] = np.where(index == NOTHING, False, flat[index])


def _joined(tape: Tape, nodes: list[Node]) -> Node:
    """All entries in one row."""
    sizes = [int(np.prod(n.value.shape[3:])) for n in nodes]
    total = None
    for k, (node, size) in enumerate(zip(nodes, sizes, strict=True)):
        index = np.full(sum(sizes), NOTHING)
        index[sum(sizes[:k]) : sum(sizes[: k + 1])] = np.arange(size)
        part = take(tape, node, Moved(index, size))
        total = part if total is None else tape.add(total, part)
    assert total is not None
    return total


# --- adding up ----------------------------------------------------------------------------------------------------------------
class Sums:
    """Linear operators of one graph; their matrices are found once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], tuple[csr_matrix, csr_matrix, tuple[int, ...]]] = {}

    def __call__(self, run: Run, op: Op) -> Node:
        (name,) = dict.fromkeys(op.inputs)
        node = run.node(Ref(name))
        if (op.name, run.prime) not in self._found:
            self._found[op.name, run.prime] = self._matrix(run, op, name, node.value.shape[3:])
        matrix, transpose, shape = self._found[op.name, run.prime]
        return summed(run.tape, node, matrix, transpose, shape)

    def _matrix(self, run: Run, op: Op, name: str, shape: tuple[int, ...]) -> tuple[csr_matrix, csr_matrix, tuple[int, ...]]:
        units = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
        columns = vmap(lambda unit: call(op, {**run.env, name: unit}, torch.float64))(units)
        rows = csr_matrix(residues_of(columns.reshape(len(units), -1).T.numpy(), run.prime))
        if np.diff(rows.indptr).max(initial=0) > MAX_CONTRACTION or np.diff(rows.T.tocsr().indptr).max(initial=0) > MAX_CONTRACTION:
            raise Undecided(f"{op.packet} adds up more than {MAX_CONTRACTION} entries: count a smaller copy of the network")
        return rows, rows.T.tocsr(), tuple(columns.shape[1:])


def summed(tape: Tape, node: Node, matrix: csr_matrix, transpose: csr_matrix, shape: tuple[int, ...]) -> Node:
    """The matrix times the flat argument, as ``shape``."""
    own = node.value.shape[3:]

    def apply(m: csr_matrix, v: np.ndarray, to: tuple[int, ...]) -> np.ndarray:
        flat = v.reshape(-1, m.shape[1])
        return np.ascontiguousarray((m @ flat.T).T % tape.prime).reshape(*v.shape[:3], *to)

    return tape.linear(node, lambda v: apply(matrix, v, shape), lambda bar: apply(transpose, bar, own))
