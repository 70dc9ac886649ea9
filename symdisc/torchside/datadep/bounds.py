"""Off the batch: the Lipschitz bound of the change beside the measured one.

For F(x) = U sigma(V x + b), sigma elementwise and eta-Lipschitz, new weights (U', gV, gb) that agree at x give, at any x',

    |F_g(x') - F(x')| <= eta (|U'| |gV| + |U| |V|) |x' - x|        (spectral norms).

Proof: F_g(x') - F_g(x) and F(x) - F(x') are bounded by the Lipschitz constants of both pairs, and F_g(x) = F(x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from symdisc.torchside.capture import Capture
from symdisc.torchside.datadep.batch import MAX_CONDITION
from symdisc.torchside.datadep.network import DataDependent, act_layers, batch_of, run
from symdisc.torchside.interpret import evaluate
from symdisc.torchside.network import Network
from symdisc.torchside.witness import varied

__all__ = ["OffBatch", "lipschitz_global", "lipschitz_observed", "off_batch"]

POINTS = 20_001


@dataclass(frozen=True)
class OffBatch:
    """One line of the table: largest error at new samples, largest bound over the same samples, and on the batch itself.

    ``scale`` is that of g, ``distance`` the mean distance of a new sample to the nearest of the batch, ``eta`` the Lipschitz constant
    of sigma on the observed range, ``bound`` None where sigma is not elementwise or a map is a convolution, ``relative`` the error
    over |F|.
    """

    pair: str
    scale: float
    on_batch: float
    distance: float
    eta: float | None
    bound: float | None
    measured: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def lipschitz_global(sigma: sp.Expr, x: sp.Symbol) -> float:
    """sup |sigma'| over the real line for a smooth formula: at the zeros of sigma'' and at both ends (sympy limits)."""
    first = sp.diff(sigma, x)
    ends = [abs(sp.limit(first, x, e)) for e in (sp.oo, -sp.oo)]
    if any(e.is_infinite for e in ends):
        return float("inf")
    slope, bend = (sp.lambdify(x, e, ["numpy", "scipy"]) for e in (first, sp.diff(first, x)))
    grid = np.linspace(-30.0, 30.0, 6001)
    with np.errstate(all="ignore"):
        values = np.broadcast_to(bend(grid), grid.shape)
    from scipy.optimize import brentq

    roots = [brentq(bend, a, b) for a, b, u, v in zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True) if u * v < 0]
    at = [abs(float(slope(r))) for r in [*roots, *(g for g, v in zip(grid, values, strict=True) if v == 0 and abs(g) < 5)]]
    return max([float(e) for e in ends if e.is_number] + at)


def lipschitz_observed(sigma: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """sup of the slopes of sigma on [low, high]: the largest secant on a fine grid, plus the third smallest amount by which the five
    secants around it differ from it.

    At a smooth maximum of the slope, inside or at an end, that amount is at least three times what the secant misses; at a kink
    it is zero, as it should be. The bound supposes a third derivative that changes little over five cells.
    """
    t = torch.linspace(low, max(high, low + 1e-6), POINTS, dtype=torch.float64)
    secants = (sigma(t).diff() / t.diff()).abs()
    at = int(secants.argmax())
    gaps = (secants[at] - secants[max(0, at - 2):at + 3]).sort().values
    return float(secants[at] + gaps[2])


def off_batch(captured: Capture, state: dict[str, Tensor], item: DataDependent, scales: Sequence[float], *, seed: int = 0,
              tests: int = 3, inputs: Sequence[Any] | None = None, max_condition: float = MAX_CONDITION) -> list[OffBatch]:
    """The table for one pair: random g of each scale, exact on the batch, measured at ``tests`` redrawn batches."""
    batch = batch_of(captured, inputs)
    others = [batch_of(captured, varied(batch, 100 + seed + t)) for t in range(tests)]
    return [_row(captured, state, item, scale, seed, batch, others, max_condition) for scale in scales]


def _row(captured: Capture, state: dict[str, Tensor], item: DataDependent, scale: float, seed: int, batch: Sequence[Any],
         others: Sequence[Sequence[Any]], max_condition: float) -> OffBatch:
    pair, g = item.pair, item.sample(seed, scale)
    moved = act_layers(captured, [(pair, g)], {n: t.double() if t.is_floating_point() else t for n, t in state.items()}, batch,
                       max_condition=max_condition)
    network = Network(captured, state)
    old, new = network.parameters, {n: moved.state[n] for n in network.parameters}
    reader, writer = pair.readers[0], pair.writer
    x = writer.columns(run(network, old, [writer.reads], batch)[writer.reads])
    error = bound = distance = size = 0.0
    eta = _eta(network, item, [old, new], [batch, *others])
    for other in others:
        values = [run(network, p, [pair.a, writer.reads], other) for p in (old, new)]
        change = [reader.matrix(p[reader.weight]) @ reader.columns(v[pair.a]) for p, v in zip((old, new), values, strict=True)]
        error = max(error, float((change[1] - change[0]).norm(dim=0).max()))
        size = max(size, float(change[0].norm(dim=0).max()))
        far = torch.cdist(writer.columns(values[0][writer.reads]).T, x.T).min(1).values
        distance = max(distance, float(far.mean()))
        if eta is not None:
            norms = [torch.linalg.matrix_norm(reader.matrix(p[reader.weight]), 2) * torch.linalg.matrix_norm(
                writer.matrix(p[writer.weight]), 2) for p in (old, new)]
            bound = max(bound, eta * float(norms[0] + norms[1]) * float(far.max()))
    return OffBatch(pair.name, scale, moved.on_batch, distance, eta, None if eta is None else bound, error, error / max(size, 1e-300))


def _eta(network: Network, item: DataDependent, states: Sequence[dict[str, Tensor]], batches: Sequence[Sequence[Any]]) -> float | None:
    """The Lipschitz constant of sigma on the range of its arguments seen, or None when it is not one function of each entry."""
    pair = item.pair
    function = elementwise(network, item)
    if function is None:
        return None
    z = [run(network, p, [pair.z], b)[pair.z] for p in states for b in batches]
    return lipschitz_observed(function, min(float(v.min()) for v in z), max(float(v.max()) for v in z))


def elementwise(network: Network, item: DataDependent) -> Callable[[Tensor], Tensor] | None:
    """sigma as a function of one entry, when it reads nothing but z and treats all entries alike (tried, not looked up)."""
    pair, graph = item.pair, network.graph
    inside = {pair.z, *pair.ops}
    ops = [graph.by_name[n] for n in pair.ops]
    shape = graph.shape(pair.z)
    if any(set(op.inputs) - inside for op in ops) or graph.shape(pair.a) != shape or "conv" in (pair.writer.layout, pair.readers[0].layout):
        return None

    def sigma(t: Tensor) -> Tensor:
        return evaluate(ops, {pair.z: t}, [pair.a], torch.float64)[pair.a]

    probe = torch.linspace(-2.0, 2.0, int(np.prod(shape or ())), dtype=torch.float64)
    order = torch.randperm(len(probe), generator=torch.Generator().manual_seed(0))
    whole = sigma(probe.reshape(shape or ())).reshape(-1)
    shuffled = sigma(probe[order].reshape(shape or ())).reshape(-1)
    other = torch.where(torch.arange(len(probe)) == 0, 9.0, probe)
    alone = sigma(other.reshape(shape or ())).reshape(-1)[1:]
    same = torch.allclose(whole[order], shuffled, atol=1e-12) and torch.allclose(alone, whole[1:], atol=1e-12)
    return sigma if same else None
