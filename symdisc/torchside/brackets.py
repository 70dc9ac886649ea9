"""Laws of a network counted in float64, where its operators have no exact form: evidence, not a proof.

The fields grad <y, f(., x)> of random losses and inputs, and their brackets [X, Y] = DY X - DX Y by automatic differentiation, are
taken at one random point; their rank bounds dim Lie from below as far as a rank in float64 can tell, with its gap shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap

from symdisc.errors import NotProved, Undecided
from symdisc.exact import RankEvidence, rank
from symdisc.torchside.network import Network, plain_kernels

__all__ = ["Brackets", "Counted", "count", "independent_laws"]

DEEPEST = 4  # brackets of so many fields; their derivatives double in cost with each
MIXED = 3  # inputs that one field sees, each with a covector of its own
MORE = 8  # fields and brackets beyond the number of unknown dimensions
SPREAD = 0.3  # of weights around where they are: the count is at generic ones
POINTS = 8  # random weights of a network with units that switch, of which those with the widest span of fields are taken
CHUNK = 32  # brackets that run side by side
ORTHOGONAL = 1e-7  # cosine of a law's gradient with a field that counts as none
LIMIT = 800  # parameters; brackets cost their square and more
WORK = 200_000  # parameters times operators beyond which brackets take minutes

# operators by which a unit can be without effect, or without a bend, at all inputs of one region of weights
SWITCHING = frozenset(f"aten.{n}" for n in ("relu", "leaky_relu", "prelu", "hardtanh", "hardswish", "hardsigmoid", "clamp", "clamp_min",
                                            "clamp_max", "threshold", "maximum", "amax", "max_pool1d", "max_pool2d", "max", "topk", "abs"))

Field = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Counted:
    """Dimension of what the brackets span, independent laws known, and how both were found; ``closed``: whether it is the whole Lie
    algebra as far as ranks tell, not what a search has reached."""

    span: int
    found: int
    depth: int
    fields: int
    formulas: tuple[str, ...]
    evidence: RankEvidence
    closed: bool = False


def count(cat: Any, seed: int) -> Counted:
    """Brackets of a catalog fresh from ``discover`` until their rank meets the laws known, or stops growing.

    Units that never switch at one point are no laws of the network, so several points are tried.
    Raises Undecided where the network is too large, has no derivatives of such order under vmap, or a rank has no clear gap;
    NotProved when a law of the catalog is not orthogonal to some field.
    """
    if cat.parameter_count > LIMIT:
        raise Undecided(f"{cat.parameter_count} parameters are too many for brackets in float64: count a smaller copy of the network")
    lie, rows, known, formulas, found = _widest(cat, seed)
    want = lie.network.size - found
    evidence, doubt = _judged(rows)
    spanned, depth, idle = evidence.rank if evidence else 0, 1, 0
    while (doubt or spanned < want) and depth < DEEPEST and idle < 2:
        depth += 1
        rows = np.concatenate([rows, lie.rows(depth, want - spanned + MORE)])
        evidence, doubt = _judged(rows)
        if evidence:
            idle = 0 if evidence.rank > spanned else idle + 1
            spanned = evidence.rank
    if evidence is None:
        raise doubt or Undecided("no rank was taken")
    _orthogonal(known, rows)
    return Counted(spanned, found, depth, len(rows), formulas, evidence)


def _widest(cat: Any, seed: int) -> tuple[Brackets, np.ndarray, np.ndarray, tuple[str, ...], int]:
    """Of some random points the one whose fields span most, the fields there, and the laws known: gradients, formulas, rank."""
    best: tuple[Brackets, np.ndarray, np.ndarray, tuple[str, ...], int] | None = None
    widest = -1
    for k in range(POINTS):
        lie = Brackets(cat, seed + k)
        known, formulas = lie.laws(cat)
        found = rank(known, what="gradients of laws").rank if len(known) else 0
        rows = lie.rows(1, lie.network.size - found + MORE)
        evidence, _ = _judged(rows)
        spanned = evidence.rank if evidence else 0
        if spanned > widest:
            best, widest = (lie, rows, known, formulas, found), spanned
        if widest + found >= lie.network.size or not lie.switches:
            break
    assert best is not None
    return best


def independent_laws(cat: Any, seed: int) -> tuple[int, tuple[str, ...]]:
    """The rank of the gradients of all conserved quantities of a catalog, and their formulas."""
    known, formulas = Brackets(cat, seed).laws(cat)
    return rank(known, what="gradients of laws").rank if len(known) else 0, formulas


def _judged(rows: np.ndarray) -> tuple[RankEvidence | None, Undecided | None]:
    """The rank, or why it is not decided: with more brackets it may be.

    Brackets that are hard to tell apart leave small singular values, but not as small as rounding: the widest gap decides.
    """
    try:
        return rank(rows, widest=True, what="fields and brackets"), None
    except Undecided as error:
        return None, error


def _orthogonal(known: np.ndarray, rows: np.ndarray) -> None:
    lengths = np.linalg.norm(known, axis=1)
    cosines = np.abs(known @ rows.T).max(axis=1, initial=0.0) / np.where(lengths > 0, lengths, 1.0)
    if len(known) and cosines.max() > ORTHOGONAL:
        raise NotProved(f"a conserved quantity of the catalog changes along a bracket of fields (cosine {cosines.max():.1e})")


class Brackets:
    """Random fields of one network and their brackets at one random point."""

    def __init__(self, cat: Any, seed: int, around: float = SPREAD) -> None:
        source = cat.captured
        self.state = {**{n: source.tensors[v] for v, n in source.graph.buffers.items() if v in source.tensors}, **source.parameters}
        self.network = Network(source, self.state, seed)
        self.function = self.network.function(self.network.graph.outputs)
        draw = torch.Generator().manual_seed(seed)
        spread = {n: around * max(1.0, float(t.std()) if t.numel() > 1 else 1.0) for n, t in self.network.parameters.items()}
        self.point = {n: t + spread[n] * torch.randn(t.shape, dtype=torch.float64, generator=draw)
                      for n, t in self.network.parameters.items()}
        self.theta = torch.from_numpy(self.network.flatten(self.point))
        self.outputs = len(self.function(self.point, *self.network.draws(0, 1)[0]))
        self.drawn, self.seed = 0, seed
        self.switches = any(op.packet in SWITCHING for op in source.graph.ops)

    def _field(self, inputs: tuple[Tensor, ...], covectors: Tensor) -> Field:
        """theta -> grad of sum_s <y_s, f(theta, x_s)>, for stacked inputs and covectors.

        Sums are written out: the gradient of a vmap is silently wrong where torch writes into tensors of zeros.
        """
        def potential(theta: Tensor) -> Tensor:
            parameters = self.network.unflatten(theta)
            values = torch.stack([self.function(parameters, *(t[s] for t in inputs)) for s in range(MIXED)])
            return (values * covectors).sum()

        return grad(potential)

    def rows(self, depth: int, number: int) -> np.ndarray:
        """Brackets of ``depth`` random fields, [number, D], each of length 1."""
        count = number * depth * MIXED
        draws = self.network.draws(self.drawn, count)
        self.drawn += count
        inputs = tuple(torch.stack(t).unflatten(0, (number, depth, MIXED)) for t in zip(*draws, strict=True))
        noise = torch.Generator().manual_seed(self.seed * 1000 + depth)
        covectors = torch.randn(number, depth, MIXED, self.outputs, dtype=torch.float64, generator=noise)

        def one(covector: Tensor, *x: Tensor) -> Tensor:
            fields = [self._field(tuple(t[k] for t in x), covector[k]) for k in range(depth)]
            nested = fields[0]
            for field in fields[1:]:
                nested = _bracket(field, nested)
            return nested(self.theta)

        try:
            with plain_kernels():
                together = vmap(one, chunk_size=CHUNK, randomness="same")(covectors, *inputs).detach()
                alone = one(covectors[0], *(t[0] for t in inputs)).detach()
        except (RuntimeError, NotImplementedError) as error:
            raise Undecided(f"this network has no derivatives of order {depth} side by side: {str(error).splitlines()[0]}") from error
        if not _alike(together[0], alone):
            raise Undecided(f"derivatives of order {depth} side by side are not those of one field alone")
        found = together.numpy()
        found = found[np.isfinite(found).all(axis=1)]
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return found[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]

    def laws(self, cat: Any) -> tuple[np.ndarray, tuple[str, ...]]:
        """Gradients of all conserved quantities that are functions of the weights, [rows, D], and their formulas."""
        blocks, formulas = [np.zeros((0, self.network.size))], []
        for q in cat.charges:
            if q.status == "conserved" and q.form not in ("", "momentum") and set(q.parameters) <= set(self.point):
                blocks.append(self._gradient(q))
                formulas.append(str(q.latex()))
        return np.concatenate(blocks), tuple(formulas)

    def _gradient(self, q: Any) -> np.ndarray:
        def value(theta: Tensor) -> Tensor:
            parameters: Mapping[str, Tensor] = {**self.state, **self.network.unflatten(theta)}
            return torch.as_tensor(q.evaluate(parameters)).reshape(-1)

        return np.asarray(jacrev(value)(self.theta).detach().numpy())


def _alike(one: Tensor, other: Tensor) -> bool:
    """Up to rounding, which small entries inherit from large ones: brackets of three fields span nine decades."""
    known = other.isfinite()
    size = float(other[known].abs().max()) if bool(known.any()) else 0.0
    return torch.allclose(one, other, rtol=1e-6, atol=1e-9 * max(size, 1.0), equal_nan=True)


def _bracket(one: Field, other: Field) -> Field:
    """[X, Y] = DY X - DX Y."""
    def field(theta: Tensor) -> Tensor:
        x, y = one(theta), other(theta)
        return jvp(other, (theta,), (x,))[1] - jvp(one, (theta,), (y,))[1]

    return field
