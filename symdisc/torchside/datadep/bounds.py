"""Off the batch: the Lipschitz bound of the change beside the measured one.

For F(x) = U sigma(V x + b), sigma elementwise and eta-Lipschitz, new weights (U', gV, gb) that agree at x give, at any x',

    |F_g(x') - F(x')| <= eta (|U'| |gV| + |U| |V|) |x' - x|        (spectral norms).

Proof: F_g(x') - F_g(x) and F(x) - F(x') are bounded by the Lipschitz constants of both pairs, and F_g(x) = F(x). Least squares does not
keep F at x: there the largest |F_g(x) - F(x)| on the batch is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from symdisc.errors import Undecided
from symdisc.torchside.capture import Capture
from symdisc.torchside.datadep.batch import MAX_CONDITION
from symdisc.torchside.datadep.lipschitz import elementwise, lipschitz_global, lipschitz_observed, sigma_formula
from symdisc.torchside.datadep.network import DataDependent, State, act_layers, batch_of, run
from symdisc.torchside.network import Network
from symdisc.torchside.witness import varied

__all__ = ["OffBatch", "off_batch"]


@dataclass(frozen=True)
class OffBatch:
    """One line of the table: largest error at new samples, largest bound over the same samples, and on the batch itself.

    ``scale`` is that of g, ``distance`` the mean distance of a new sample to the nearest of the batch, ``eta`` the Lipschitz constant
    of sigma on the observed range, ``bound`` None where sigma is not elementwise or a map is a convolution, ``relative`` the error
    over |F|. ``eta_global`` and ``bound_global`` take the constant on the whole line, derived from the formulas of the rules: they
    hold for any sample at that distance, are infinite where sigma has no such constant, and None where some rule is missing.
    """

    pair: str
    scale: float
    on_batch: float
    distance: float
    eta: float | None
    bound: float | None
    eta_global: float | None
    bound_global: float | None
    measured: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which knows no infinity: it is written as "unbounded"."""
        return {k: "unbounded" if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self).items()}


def off_batch(captured: Capture, state: dict[str, Tensor], item: DataDependent, scales: Sequence[float], *, seed: int = 0,
              tests: int = 3, inputs: Sequence[Any] | None = None, form: str = "batch",
              max_condition: float = MAX_CONDITION) -> list[OffBatch]:
    """The table for one pair: random g of each scale, exact on the batch, measured at ``tests`` redrawn batches.

    Raises as ``act_layers``.
    """
    batch = batch_of(captured, inputs)
    others = [batch_of(captured, varied(batch, 100 + seed + t)) for t in range(tests)]
    return [_row(captured, state, item, scale, seed, batch, others, form, max_condition) for scale in scales]


def _row(captured: Capture, state: dict[str, Tensor], item: DataDependent, scale: float, seed: int, batch: Sequence[Any],
         others: Sequence[Sequence[Any]], form: str, max_condition: float) -> OffBatch:
    pair, g = item.pair, item.sample(seed, scale)
    moved = act_layers(captured, [(pair, g)], {n: t.double() if t.is_floating_point() else t for n, t in state.items()}, batch, form,
                       max_condition)
    network = Network(captured, state)
    old, new = network.parameters, {n: moved.state[n] for n in network.parameters}
    reader, writer = pair.readers[0], pair.writer
    x = writer.columns(run(network, old, [writer.reads], batch)[writer.reads])
    kept = float((_outputs(network, item, new, batch) - _outputs(network, item, old, batch)).norm(dim=0).max())
    error = factor = distance = size = 0.0
    eta = _eta(network, item, [old, new], [batch, *others])
    for other in others:
        before, after = (_outputs(network, item, p, other) for p in (old, new))
        error = max(error, float((after - before).norm(dim=0).max()))
        size = max(size, float(before.norm(dim=0).max()))
        far = torch.cdist(writer.columns(run(network, old, [writer.reads], other)[writer.reads]).T, x.T).min(1).values
        distance = max(distance, float(far.mean()))
        norms = [torch.linalg.matrix_norm(reader.matrix(p[reader.weight]), 2) * torch.linalg.matrix_norm(
            writer.matrix(p[writer.weight]), 2) for p in (old, new)]
        factor = max(factor, float(norms[0] + norms[1]) * float(far.max()))
    everywhere = None if eta is None else _eta_global(network, item)
    bounds = [None if e is None else e * factor + kept for e in (eta, everywhere)]
    return OffBatch(pair.name, scale, moved.on_batch, distance, eta, bounds[0], everywhere, bounds[1], error, error / max(size, 1e-300))


def _outputs(network: Network, item: DataDependent, parameters: State, batch: Sequence[Any]) -> Tensor:
    """U sigma(V x + b) of the pair, one column per sample and position."""
    reader = item.pair.readers[0]
    activations = run(network, parameters, [item.pair.a], batch)[item.pair.a]
    return reader.matrix(parameters[reader.weight]) @ reader.columns(activations)


def _eta(network: Network, item: DataDependent, states: Sequence[dict[str, Tensor]], batches: Sequence[Sequence[Any]]) -> float | None:
    """The Lipschitz constant of sigma on the range of its arguments seen, or None when it is not one function of each entry."""
    pair = item.pair
    function = elementwise(network, item)
    if function is None:
        return None
    z = [run(network, p, [pair.z], b)[pair.z] for p in states for b in batches]
    return lipschitz_observed(function, min(float(v.min()) for v in z), max(float(v.max()) for v in z))


def _eta_global(network: Network, item: DataDependent) -> float | None:
    formula = sigma_formula(network.graph, item.pair)
    try:
        return None if formula is None else lipschitz_global(formula)
    except Undecided:
        return None
