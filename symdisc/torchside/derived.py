"""Laws counted by Cartan's derived systems of the one-forms <X_a(theta), d theta> of all symmetries, in float64.

Where the symmetries are complete, the directions orthogonal to all X_a are those that gradients of losses span. The differential of a
function that every flow keeps lies in the span I of the one-forms, and so among those forms of I whose derivative vanishes between
directions that I leaves: the first derived system I'. Its own derived system is smaller or equal; the last one is integrable (Frobenius),
so its dimension is the number of independent laws. With the projector Pi on I and F(u, v) = Pi (D_u Pi v - D_v Pi u) for u, v
orthogonal to I, what of I is orthogonal to all F(u, v) is I'. Only actions are differentiated, never the network. Symmetries without
a parameter in common are systems of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import qr
from torch import Tensor
from torch.func import jacfwd, jvp, vmap

from symdisc.elements import basis, identity_array
from symdisc.errors import NotProved, Undecided
from symdisc.exact import RankEvidence, rank
from symdisc.generators import Generator
from symdisc.symmetry import Symmetry
from symdisc.torchside.algebra import fibre
from symdisc.torchside.brackets import ORTHOGONAL, SPREAD, Brackets, Counted
from symdisc.torchside.kernels import run_moves
from symdisc.torchside.network import Network, plain_kernels

__all__ = ["count"]

LIMIT = 4000  # parameters; the rank of the Jacobian, which shows that symmetries are complete, costs the cube of it
AROUND = (0.02, SPREAD, 0.0, SPREAD, 0.02)  # of weights around where they are, tried in turn: at some of them units do not switch
DEEPEST = 6  # derived systems; each costs the directions of the one before once more
MORE = 6  # pairs of directions beyond the number of forms
DENSE = 2**25  # entries of the derivative of fields that is taken as a matrix
CHUNK = 16  # directions side by side
OUTSIDE = 1e-6  # of the square of a generator, beyond which it is no direction that leaves the outputs alone

Field = Callable[[Tensor], Tensor]  # theta [n] -> generators [m, n]
Curvature = Callable[[Tensor], tuple[Tensor, Tensor]]


def count(cat: Any, seed: int) -> Counted:
    """N - dim Lie of a catalog fresh from ``discover``, by the dimension of the last derived system.

    Raises Undecided where symmetries with a name or a linear field are not all that there are, the network is too large or a rank has
    no clear gap; NotProved when a law of the catalog is none.
    """
    if cat.parameter_count > LIMIT:
        raise Undecided(f"{cat.parameter_count} parameters are too many for a rank: count a smaller copy of the network")
    try:
        with plain_kernels():
            lie, blocks = _complete(cat, [s for s in cat.symmetries if s.counts and s.family != "flow"], seed)
            known, formulas = lie.laws(cat)
            ended = [b.end(known[:, b.columns], seed) for b in blocks]
    except (RuntimeError, NotImplementedError) as error:  # a basis that is found by numbers, such as that of directions never read
        raise Undecided(f"an action of this network has no derivatives side by side: {str(error).splitlines()[0]}") from error
    outside = np.delete(known, np.concatenate([np.zeros(0, np.int64), *(b.columns for b in blocks)]), axis=1)
    if np.abs(outside).max(initial=0.0) > ORTHOGONAL * np.abs(known).max(initial=0.0):
        raise NotProved("a conserved quantity of the catalog depends on parameters that no symmetry moves")
    evidence = min((e.evidence for e in ended), key=lambda e: e.gap, default=RankEvidence(0, (0, 0), False, "singular values", math.inf))
    left, found = sum(e.dimension for e in ended), sum(e.found for e in ended)
    return Counted(lie.network.size - left, found, max((e.depth for e in ended), default=1), sum(b.forms for b in blocks), formulas,
                   evidence, closed=all(e.closed for e in ended))


def _complete(cat: Any, symmetries: Sequence[Symmetry], seed: int) -> tuple[Brackets, list[_Block]]:
    """Weights near those of the catalog at which the generators span all directions that leave the outputs alone, and these in blocks."""
    least = math.inf
    for k, around in enumerate(AROUND):
        lie = Brackets(cat, seed + k, around)
        blocks = list(_blocks(symmetries, {**lie.state, **lie.point}, list(lie.network.layout)))
        network = Network(cat.captured, {**lie.state, **lie.point}, seed + k)
        space = fibre(network)[0]
        if any(b.leaves(space.basis) for b in blocks):
            raise NotProved("a symmetry of the catalog changes the outputs at weights near those of the catalog")
        surplus = space.dimension - sum(b.forms for b in blocks)
        if not surplus:
            return lie, blocks
        least = min(least, surplus)
        if not lie.switches:
            break
    raise Undecided(f"{least} directions in parameter space leave the outputs alone and belong to no symmetry with a field")


def _blocks(symmetries: Sequence[Symmetry], state: Mapping[str, Tensor], layout: Sequence[str]) -> Iterator[_Block]:
    """Symmetries that move or read a parameter in common."""
    groups: list[tuple[set[str], list[Symmetry]]] = []
    for s in symmetries:
        names = set(_names(s.to_dict())) & set(layout)
        if not names:
            continue
        joint = [g for g in groups if g[0] & names]
        groups = [g for g in groups if not g[0] & names]
        groups.append((names.union(*(g[0] for g in joint)), [*(x for g in joint for x in g[1]), s]))
    starts = dict(zip(layout, np.cumsum([0, *(state[n].numel() for n in layout)]), strict=False))
    for names, members in groups:
        inside = tuple(n for n in layout if n in names)
        columns = np.concatenate([np.arange(starts[n], starts[n] + state[n].numel()) for n in inside])
        yield _Block(tuple(members), inside, state, columns)


def _names(value: Any) -> Iterator[str]:
    """All strings of a record: among them the names of what its moves change and read."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _names(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _names(v)


@dataclass(frozen=True)
class _End:
    """The last derived system: its dimension, the laws known in it, how many systems were taken; ``closed``: whether it is the last."""

    dimension: int
    found: int
    depth: int
    closed: bool
    evidence: RankEvidence


@dataclass(frozen=True, eq=False)
class _Block:
    """Some symmetries and the parameters ``names`` that they move or read, at one point."""

    symmetries: tuple[Symmetry, ...]
    names: tuple[str, ...]
    state: Mapping[str, Tensor] = field(repr=False)
    columns: np.ndarray = field(repr=False)

    @cached_property
    def theta(self) -> Tensor:
        return torch.cat([self.state[n].reshape(-1) for n in self.names])

    @cached_property
    def _field(self) -> Field:
        """The generators, [m, n], each of length 1 at the point."""
        with plain_kernels():
            parts = [_affine(_field_of(s, self.names, self.state), self.theta) for s in self.symmetries]
            lengths = torch.cat([part(self.theta) for part in parts]).norm(dim=1, keepdim=True).clamp_min(1e-300)
        return lambda theta: torch.cat([part(theta) for part in parts]) / lengths

    @cached_property
    def _rows(self) -> np.ndarray:
        """Generators that are independent at the point, and so near it."""
        rows = self._field(self.theta).numpy()
        number = rank(rows, widest=True, what="generators").rank
        return np.sort(qr(rows.T, mode="r", pivoting=True)[1][:number])

    @property
    def forms(self) -> int:
        return len(self._rows)

    def leaves(self, fibre: np.ndarray) -> bool:
        """Whether a generator, of length 1, has a part outside the directions ``fibre`` [D, k] that leave the outputs alone."""
        rows, inside = self._field(self.theta).numpy(), fibre[self.columns]
        return bool((np.abs(1.0 - np.square(rows @ inside).sum(1))[np.square(rows).sum(1) > 0] > OUTSIDE).any())

    def end(self, known: np.ndarray, seed: int) -> _End:
        """Derived systems until the laws ``known`` [laws, n] are all that is left, or nothing more falls away."""
        known = known[np.abs(known).max(axis=1, initial=0.0) > 0]
        found = rank(known, what="gradients of laws").rank if len(known) else 0
        rows = _orthonormal(self._field, self._rows, self.theta)
        here = rows(self.theta)
        generator = torch.Generator().manual_seed(seed)
        depth, least = 1, RankEvidence(0, (0, 0), False, "singular values", math.inf)
        _hold(known, here)
        while len(here) > found and depth < DEEPEST:
            bent = self._bent(rows, len(here), found, generator)
            if bent is None or not bent.evidence.rank:
                return _End(len(here), found, depth, True, least if bent is None else min(least, bent.evidence, key=lambda e: e.gap))
            least = min(least, bent.evidence, key=lambda e: e.gap)
            rows, kept = bent.derived(rows)
            here, depth = kept @ here, depth + 1
            _hold(known, here)
        return _End(len(here), found, depth, len(here) == found, least)

    def _bent(self, rows: Field, left: int, found: int, generator: torch.Generator) -> _Bent | None:
        """What falls away of a system of ``left`` forms: twice as many directions do not show more."""
        room, best = len(self.theta) - left, None
        number = min(math.ceil((1 + math.sqrt(1 + 8 * (left + MORE))) / 2), room)
        while number > 1:
            curvature = _curvature(rows, torch.randn(number, len(self.theta), dtype=torch.float64, generator=generator))
            pairs, size = curvature(self.theta)
            now = _Bent(curvature, pairs, _judged(pairs.numpy(), float(size)))
            if best is not None and now.evidence.rank <= best.evidence.rank:
                break
            best = now
            if number == room or left - now.evidence.rank <= found:
                break
            number = min(2 * number, room)
        return best


@dataclass(frozen=True, eq=False)
class _Bent:
    """The curvature between some directions, its values at the point, [pairs, r], and their rank."""

    curvature: Curvature
    pairs: Tensor
    evidence: RankEvidence

    def derived(self, rows: Field) -> tuple[Field, Tensor]:
        """The forms on which all curvatures vanish: combinations, orthonormal at the point, that follow these; and which at the point."""
        u, s, v = torch.linalg.svd(self.pairs)
        number = self.evidence.rank
        mixed, kept = (u[:, :number] / s[:number]).T, v[number:]

        def smaller(t: Tensor) -> Tensor:
            against = mixed @ self.curvature(t)[0]
            return (kept - torch.linalg.solve(against @ against.T, against @ kept.T).T @ against) @ rows(t)

        return smaller, kept


def _hold(known: np.ndarray, rows: Tensor) -> None:
    """Differentials of laws lie in every derived system."""
    inside = known @ rows.numpy().T @ rows.numpy()
    if len(known) and (np.linalg.norm(known - inside, axis=1) > ORTHOGONAL * np.linalg.norm(known, axis=1)).any():
        raise NotProved("a conserved quantity of the catalog is no combination of what its symmetries can keep")


def _judged(pairs: np.ndarray, size: float) -> RankEvidence:
    """The rank of ``pairs`` among entries of that size: one more row and column hold it, so that all may be rounding."""
    framed = np.zeros((pairs.shape[0] + 1, pairs.shape[1] + 1))
    framed[0, 0], framed[1:, 1:] = size or 1.0, pairs
    found = rank(framed, widest=True, what="curvatures of one-forms")
    return RankEvidence(found.rank - 1, pairs.shape, False, found.method, found.gap, found.above, found.below)


def _orthonormal(fields: Field, chosen: np.ndarray, theta: Tensor) -> Field:
    """Constant combinations of the independent fields ``chosen``, orthonormal at ``theta``: no precision is lost there."""
    turn = torch.linalg.inv(torch.linalg.qr(fields(theta)[chosen].T).R.T)
    return lambda t: turn @ fields(t)[chosen]


def _curvature(rows: Field, directions: Tensor) -> Curvature:
    """theta -> d omega_a (u, v) of the forms ``rows`` for all pairs of ``directions``, projected on what the forms leave, [pairs, r],
    and the size of the derivatives that they are made of.

    Pi D_u Pi v = X^+ (D_u X) v, since X v = 0; X X^T is 1 at the point, but has derivatives.
    """
    one, other = torch.triu_indices(len(directions), len(directions), 1)

    def pairs(theta: Tensor) -> tuple[Tensor, Tensor]:
        here = rows(theta)
        free = directions - torch.linalg.solve(here @ here.T, here @ directions.T).T @ here
        free = free / free.norm(dim=1, keepdim=True)
        turned = vmap(lambda u: free @ jvp(rows, (theta,), (u,))[1].T, chunk_size=CHUNK)(free)
        return turned[one, other] - turned[other, one], turned.norm(dim=-1).max()

    return pairs


# --- fields -------------------------------------------------------------------------------------------------------------------
def _field_of(s: Symmetry, names: Sequence[str], state: Mapping[str, Tensor]) -> Field:
    """theta [n] -> the generators of one symmetry, [count, n]."""
    shapes = [state[n].shape for n in names]
    one = torch.as_tensor(np.array(identity_array(s), dtype=np.float64)) if s.moves else torch.zeros(0)
    arrays = torch.from_numpy(np.stack(list(basis(s)))) if s.moves else torch.zeros(0)

    def at(theta: Tensor) -> Tensor:
        pieces = theta.split([math.prod(shape) for shape in shapes])
        values = {**state, **{n: p.reshape(shape) for n, p, shape in zip(names, pieces, shapes, strict=True)}}

        def flat(change: Mapping[str, Tensor]) -> Tensor:
            return torch.cat([(change[n] if n in change else torch.zeros_like(values[n])).reshape(-1) for n in names])

        if s.generators:
            return torch.stack([flat(_linear(g, values)) for g in s.generators])
        return vmap(lambda a: flat(jvp(lambda g: run_moves(s.moves, g, values), (one,), (a,))[1]))(arrays)

    return at


def _linear(generator: Generator, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a linear field moves."""
    change: dict[str, Tensor] = {}
    for part in generator.parts:
        w = values[part.parameter]
        i, j, v = (torch.tensor(c) for c in zip(*part.entries, strict=True))
        v = v.to(w)
        if part.axis == -1:
            moved = torch.zeros(w.numel(), dtype=w.dtype).index_add(0, i, v).reshape(w.shape)
        else:
            side = w.shape[part.axis]
            matrix = torch.zeros(side, side, dtype=w.dtype).index_put((i, j), v, accumulate=True)
            moved = torch.tensordot(matrix, w, dims=([1], [part.axis])).movedim(0, part.axis)
        change[part.parameter] = change[part.parameter] + moved if part.parameter in change else moved
    return change


def _affine(at: Field, theta: Tensor) -> Field:
    """The same field by its few coefficients where it is affine: most are, and derivatives of sums are quick."""
    count, n = at(theta).shape
    if count * n * n > DENSE:
        return at
    slopes = jacfwd(at)(theta)
    constant = at(theta) - slopes @ theta
    other = theta + torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if not torch.allclose(at(other), slopes @ other + constant, rtol=1e-9, atol=1e-12 * float(theta.abs().max())):
        return at
    row, column, source = slopes.nonzero(as_tuple=True)
    values, place = slopes[row, column, source], row * n + column

    def sparse(t: Tensor) -> Tensor:
        return torch.zeros(count * n, dtype=t.dtype).index_add(0, place, values * t[source]).reshape(count, n) + constant

    return sparse
