"""Is a gradient orthogonal to a generator? <g, X_a> / |X_a| for the element a of the algebra that the gradient sees most."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from symdisc.conserved import ConservedQuantity
from symdisc.conserved.pairing import block_rows, gain_rows
from symdisc.moves import Move
from symdisc.torchside.pieces import Tensors, norm

__all__ = ["BROAD", "pull"]

BROAD = 128  # blocks beyond this are asked for one random column of the moment instead of all of it


def pull(q: ConservedQuantity, g: Tensors, state: Tensors, full: bool = False) -> float:
    """|<g, X_a>| / |X_a|; zero for a correct gradient, infinite for one that is not finite.

    a is the moment <g, X> itself. For blocks wider than BROAD it is, unless ``full``, the moment acting on a fixed random
    vector: also an element of the algebra, found without a product of matrices.
    """
    size, length = _broad(q, g, state) if not full and _is_broad(q) else _whole(q, g, state)
    found = size / length if length else 0.0
    return found if math.isfinite(found) else math.inf


def _is_broad(q: ConservedQuantity) -> bool:
    """Wide blocks, each parameter moved once and conjugated by the same gain in all copies."""
    s = q.symmetry
    once = len({m.parameter for m in s.moves}) == len(s.moves)
    plain = all(m.kind == "matmul" and (m.gain is None or m.index.copies == 1) for m in s.moves)
    return s.family in ("gl", "o", "o1") and s.shape[-1] > BROAD and once and plain and bool(s.moves)


def _whole(q: ConservedQuantity, g: Tensors, state: Tensors) -> tuple[float, float]:
    """The whole moment; X_a is its derivative in the gradient."""
    leaves = {n: t.detach().requires_grad_() for n, t in g.items()}
    with torch.enable_grad():
        seen = q.residual(state, leaves)
        a = seen.detach() / seen.detach().norm().clamp_min(torch.finfo(seen.dtype).tiny)
        total = (seen * a).sum()
        size = float(total.detach())
        if not size:
            return 0.0, 0.0
        field = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return size, float(norm([t for t in field if t is not None]))


def _broad(q: ConservedQuantity, g: Tensors, state: Tensors) -> tuple[float, float]:
    """With the moment S and a random w: r = S w, a = r w^T / |r| (its antisymmetric part for rotations), <g, X_a> = |r|."""
    s = q.symmetry
    turning, fixing = s.family in ("o", "o1"), s.family == "o1"
    w = _column(s.shape[-1], fixing).to(next(iter(g.values()))).expand(s.shape[0], -1)
    r, seen = torch.zeros_like(w), []
    for m in s.moves:
        left, right, d = block_rows(m, g[m.parameter]), block_rows(m, state[m.parameter]), _gain(m, state, w)
        e = _times(w / d, right)
        forward, back = d * _times(left, e), _times(right, _times(d * w, left)) / d
        r = r + ((forward - back) / 2 if turning else forward if m.rep == "g" else -back)
        seen.append((m, right, d, e))
    r = r - r.mean(-1, keepdim=True) if fixing else r
    size = float(r.norm())
    r = r / max(size, torch.finfo(r.dtype).tiny)
    squares = sum(float(_square(m, d * r, d * w, _times(r / d, right), e, turning)) for m, right, d, e in seen)
    return size, math.sqrt(max(squares, 0.0))


def _square(m: Move, r: Tensor, w: Tensor, c: Tensor, e: Tensor, turning: bool) -> Tensor:
    """|X_a|^2 on one parameter, from D r, D w and the columns c = (y/D)^T r, e = (y/D)^T w."""
    rr, ww, cc, ee = ((x * x).sum(-1) for x in (r, w, c, e))
    if turning:
        return (rr * ee - 2 * (r * w).sum(-1) * (c * e).sum(-1) + ww * cc).sum() / 4
    return (rr * ee if m.rep == "g" else ww * cc).sum()


def _gain(m: Move, state: Tensors, w: Tensor) -> Tensor:
    """The gain that conjugates, [blocks, size]; ones where there is none."""
    return torch.ones_like(w) if m.gain is None else gain_rows(m, state)[..., 0]


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Block by block: vector [blocks, n] times matrix [blocks, n, m], or matrix times vector."""
    return torch.bmm(a[:, None], b)[:, 0] if a.dim() == 2 else torch.bmm(a, b[..., None])[..., 0]


@lru_cache(maxsize=64)
def _column(size: int, fixing: bool) -> Tensor:
    """A fixed unit vector [size], with mean zero where the algebra fixes 1."""
    w = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(size + 1))
    w = w - w.mean() if fixing else w
    return w / w.norm()
