"""One conserved quantity under watch: its bilinear form B and linear form c, parameter by parameter.

Every quantity of at most second degree is Q(theta) = 1/2 B(theta, theta) + c(theta), and both forms are sums over the
parameters that the symmetry moves. Wide matrices are seen through fixed random vectors: u^T Q u obeys the law that Q
obeys, at the cost of one pass over the parameter instead of a matrix product; of many charges per unit some are picked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from zlib import crc32

import torch
from torch import Tensor

from symdisc.conserved import ConservedQuantity, Term
from symdisc.conserved.algebra import project
from symdisc.conserved.linear import pairings
from symdisc.conserved.pairing import matrix_rows, pairing, unit_rows
from symdisc.generators import Generator
from symdisc.moves import ADDITIVE, BENT, Index, Move

__all__ = ["PROBES", "UNITS", "WIDE", "Law", "Piece", "law_of", "moved_by", "norm"]

Tensors = Mapping[str, Tensor]
Form = Callable[[Tensor, Tensor, Tensors], Tensor]
Both = Callable[[Tensor, Tensor, Tensors], tuple[Tensor, Tensor]]

WIDE = 16  # the widest blocks that are followed entry by entry: k (k + 1) / 2 float64 numbers per block and form
UNITS = 32  # charges of one symmetry that are followed unless all are asked for; neighbours, as memory comes in lines
PROBES = 8  # random vectors per block; one would find a wrong Q with probability 1, eight show its size


@dataclass(frozen=True)
class Piece:
    """What one parameter adds: ``bilinear(x, y, state)`` and ``linear(x, x, state)``, flat; None where it is zero.

    ``both(x, y, state)`` is (B(x, x), B(x, y)) with what they share done once, where that saves something.
    """

    parameter: str
    bilinear: Form | None
    linear: Form | None
    both: Both | None = None

    def squares(self, x: Tensor, y: Tensor, state: Tensors) -> tuple[Tensor, Tensor]:
        """B(x, x) and B(x, y) of a piece that has B."""
        assert self.bilinear is not None
        return self.both(x, y, state) if self.both else (self.bilinear(x, x, state), self.bilinear(x, y, state))


@dataclass(frozen=True)
class Law:
    """A symmetry under watch; ``sketched`` says what is followed of Q if not all of it. No pieces: Q is not predicted."""

    quantity: ConservedQuantity
    label: str
    pieces: tuple[Piece, ...]
    sketched: str = ""

    @property
    def moved(self) -> tuple[str, ...]:
        return moved_by(self.quantity)

    @property
    def predicts(self) -> bool:
        return bool(self.pieces)

    @property
    def homogeneous(self) -> bool:
        """No translation in it: c = 0."""
        return all(p.linear is None for p in self.pieces)

    @property
    def affine(self) -> bool:
        """Both forms are there, so that only their sum vanishes on a gradient."""
        return not self.homogeneous and any(p.bilinear for p in self.pieces)

    def zero(self, like: Tensors) -> Tensor:
        """A single zero, for a form that is not there."""
        return _total([], like[self.pieces[0].parameter])

    def bilinear(self, x: Tensors, y: Tensors, state: Tensors) -> Tensor:
        """B(x, y), flat, in float64; a single zero where no parameter has a quadratic part."""
        parts = [p.bilinear(x[p.parameter], y[p.parameter], state) for p in self.pieces if p.bilinear]
        return _total(parts, x[self.pieces[0].parameter])

    def squares(self, x: Tensors, y: Tensors, state: Tensors) -> tuple[Tensor, Tensor]:
        """B(x, x) and B(x, y), as ``bilinear`` gives them."""
        parts = [p.squares(x[p.parameter], y[p.parameter], state) for p in self.pieces if p.bilinear]
        like = x[self.pieces[0].parameter]
        return _total([a for a, _ in parts], like), _total([b for _, b in parts], like)

    def linear(self, x: Tensors, state: Tensors) -> Tensor:
        """c(x), flat, in float64; a single zero where there is no linear part."""
        parts = [p.linear(x[p.parameter], x[p.parameter], state) for p in self.pieces if p.linear]
        return _total(parts, x[self.pieces[0].parameter])

    def value(self, state: Tensors) -> Tensor:
        """Q, or what the random vectors see of it, flat."""
        return self.bilinear(state, state, state) / 2 + self.linear(state, state)

    def quadratic(self, state: Tensors) -> Tensor:
        """Which entries have a quadratic part; asked of random parameters, so that two of one shape do not cancel."""
        draw = torch.Generator().manual_seed(11)
        probe = {n: torch.randn(state[n].shape, dtype=torch.float64, generator=draw).to(state[n]) for n in self.moved}
        return self.bilinear(probe, probe, state) != 0


def law_of(q: ConservedQuantity, label: str, full: bool) -> Law:
    """The forms of ``q``; without pieces where Q is not of at most second degree."""
    if q.form == "linear":
        return Law(q, label, _of_generators(q.generators))
    if q.form != "moment" or any(t.potential or t.move.kind in BENT for t in q.terms):
        return Law(q, label, ())
    if full:
        return Law(q, label, tuple(_of_term(q, t, False) for t in q.terms))
    if q.part == "symmetric" and q.symmetry.shape[-1] > WIDE:
        return Law(q, label, tuple(_of_term(q, t, True) for t in q.terms), f"u^T Q u for {PROBES} fixed random u")
    count = _charges(q)
    if count <= UNITS:
        return Law(q, label, tuple(_of_term(q, t, False) for t in q.terms))
    # each symmetry has its own place to look at, the same in every run
    first = crc32(label.encode()) % (count - UNITS + 1)
    kept = tuple(_of_term(q, replace(t, move=_of_units(t.move, first)), False) for t in q.terms)
    return Law(q, label, kept, f"units {first} to {first + UNITS - 1}")


def _charges(q: ConservedQuantity) -> int:
    """How many charges, one per unit (scalings) or plane (rotary), some of which may stand for all; 0 where none may."""
    kinds = {t.move.kind for t in q.terms}
    if kinds == {"scale"} and not q.zero_sum:
        return prod(q.symmetry.shape)
    return q.symmetry.shape[0] if kinds == {"matmul"} and q.part == "scalar" else 0


def _of_units(move: Move, first: int) -> Move:
    """The move on ``UNITS`` neighbours alone: units of a scaling, blocks of matrices."""
    positions = move.index.positions()
    positions = positions.reshape(len(positions), -1, 1) if move.kind == "scale" else positions
    return replace(move, index=Index.of(positions[:, first : first + UNITS]))


# --- generators without a name ----------------------------------------------------------------------------------------
def _of_generators(generators: Sequence[Generator]) -> tuple[Piece, ...]:
    names = dict.fromkeys(n for g in generators for n in g.parameters)
    return tuple(Piece(n, _restricted(generators, n, True), _restricted(generators, n, False)) for n in names)


def _restricted(generators: Sequence[Generator], name: str, matrices: bool) -> Form | None:
    """The part of the pairing that lives on one parameter: its matrices, or its constants."""
    kept = [Generator(tuple(p for p in g.parts if p.parameter == name and (p.axis >= 0) == matrices)) for g in generators]
    if not any(g.parts for g in kept):
        return None
    return lambda x, y, state: torch.as_tensor(pairings(kept, {name: y}, {name: x})).reshape(-1)


# --- moves ------------------------------------------------------------------------------------------------------------
def _of_term(q: ConservedQuantity, term: Term, sketched: bool) -> Piece:
    kind, name = term.move.kind, term.move.parameter
    if kind == "matmul":
        return Piece(name, _matrix(q, term, sketched), None, _matrix_twice(q, term) if sketched else None)
    if kind == "scale" and not q.zero_sum:
        factor = float(term.move.power * term.weight)
        return Piece(name, lambda x, y, state: _units(term.move, x, y) * factor, None,
                     lambda x, y, state: _units_twice(term.move, x, y, factor))

    def whole(x: Tensor, y: Tensor, state: Tensors) -> Tensor:
        mu = pairing(term.move, x, y, state, q.symmetry.shape) * term.weight
        return torch.as_tensor(project(q.part, mu, q.zero_sum)).reshape(-1)

    if kind in ADDITIVE:
        return Piece(name, None, whole)
    if kind == "scale":
        return Piece(name, whole, None)
    return Piece(name, lambda x, y, state: whole(x, y, state) - whole(x, y * 0, state),
                 lambda x, y, state: whole(x, y * 0, state))


def _matrix(q: ConservedQuantity, term: Term, sketched: bool) -> Form:
    """<x, X_a(y)> over the part of the algebra; the two signs of ``rep`` differ by a transpose that the part undoes."""
    factor = term.weight * (1.0 if term.move.rep == "g" else -1.0)

    def form(x: Tensor, y: Tensor, state: Tensors) -> Tensor:
        left, right = matrix_rows(term.move, x, y, state)
        if sketched:
            u = _probes(q.symmetry.shape[-1]).to(left)
            one = torch.matmul(u, left)
            other = one if x is y and term.move.gain is None else torch.matmul(u, right)
            return (one * other).sum(-1).reshape(-1) * factor
        if q.part in ("diagonal", "scalar"):
            seen = _rowwise(left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])).reshape(left.shape[:2])
            return (seen.sum(-1) if q.part == "scalar" else seen).reshape(-1) * factor
        return project(q.part, left @ right.swapaxes(-1, -2), q.zero_sum).reshape(-1) * factor

    return form


def _matrix_twice(q: ConservedQuantity, term: Term) -> Both:
    """``_matrix`` of (x, x) and (x, y), seen through the random vectors: u^T x is read once."""
    factor, move = term.weight * (1.0 if term.move.rep == "g" else -1.0), term.move

    def both(x: Tensor, y: Tensor, state: Tensors) -> tuple[Tensor, Tensor]:
        left, right = matrix_rows(move, x, y, state)
        u = _probes(q.symmetry.shape[-1]).to(left)
        one, other = torch.matmul(u, left), torch.matmul(u, right)
        same = one if move.gain is None else torch.matmul(u, matrix_rows(move, x, x, state)[1])
        return (one * same).sum(-1).reshape(-1) * factor, (one * other).sum(-1).reshape(-1) * factor

    return both


@lru_cache(maxsize=64)
def _probes(size: int) -> Tensor:
    """Fixed unit vectors [PROBES, size]."""
    u = torch.randn(PROBES, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    return u / u.norm(dim=-1, keepdim=True)


_SCRATCH: dict[tuple[torch.dtype, torch.device], Tensor] = {}


def _units(move: Move, x: Tensor, y: Tensor) -> Tensor:
    """<x, y> of the units of a scaling."""
    rows = unit_rows(move, x)
    if x is y and rows.stride(-1) == 1:
        return torch.linalg.vector_norm(rows, dim=-1).square()
    return _rowwise(rows, rows if x is y else unit_rows(move, y))


def _units_twice(move: Move, x: Tensor, y: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    rows, others = unit_rows(move, x), unit_rows(move, y)
    own = torch.linalg.vector_norm(rows, dim=-1).square() if rows.stride(-1) == 1 else _rowwise(rows, rows)
    return own * factor, _rowwise(rows, others) * factor


def _rowwise(x: Tensor, y: Tensor) -> Tensor:
    """sum_c x[r, c] y[r, c]; the products go to one piece of memory, as fresh pages cost more than the arithmetic."""
    key = (x.dtype, x.device)
    if key not in _SCRATCH or _SCRATCH[key].numel() < x.numel():
        _SCRATCH[key] = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    room = _SCRATCH[key][: x.numel()]
    upright = x.shape[1] == 1 or x.stride(1) == 1
    return torch.mul(x, y, out=room.view(x.shape) if upright else room.view(x.shape[::-1]).t()).sum(-1)


def _total(parts: list[Tensor], like: Tensor) -> Tensor:
    return sum(parts[1:], parts[0]).double() if parts else torch.zeros(1, dtype=torch.float64, device=like.device)


# --- small things -----------------------------------------------------------------------------------------------------
def moved_by(q: ConservedQuantity) -> tuple[str, ...]:
    """Parameters and buffers that the symmetry moves (not those that it only reads)."""
    s = q.symmetry
    return tuple(dict.fromkeys([*(m.parameter for m in s.moves), *(n for g in s.generators for n in g.parameters)]))


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Length of all tensors together, in float64."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([torch.linalg.vector_norm(t.detach()).double() for t in tensors]).norm()
