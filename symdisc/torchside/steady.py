"""Directions that leave not only the outputs but also the inner decisions alone: routes, masks and codes have no derivative.

The Jacobian is blind to what moves a step, and it does not say which of the directions that it calls free are. So of every value that
a step reads, h, it is asked that it moves along h itself, dh = c h with one number c for all inputs: signs and orders of entries then
stay whatever the input. Of an order, what is added to all entries of an axis is not seen; of a whole number, h must stay. This is more
than a decision asks for (c might depend on the input): what is found is true, and a symmetry that moves h otherwise is not looked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from symdisc.errors import Undecided
from symdisc.torchside.decisions import Decider, deciders, inner_steps
from symdisc.torchside.derivatives import Parameters, jacobians
from symdisc.torchside.network import Network, plain_kernels

if TYPE_CHECKING:
    from symdisc.torchside.algebra import Algebra
    from symdisc.torchside.capture import Capture

__all__ = ["STEADY", "kept_rows", "keeping", "steady"]

STEADY = "network, its inner steps kept"  # the site of a remainder that does

MOST = 128  # entries of one decider that are looked at for one set of inputs; other ones for other inputs
NOISE = 1e-10  # of the derivative of an entry: what is left of it beside h is rounding


def steady(algebra: Algebra) -> tuple[Decider, ...]:
    """What decides the inner steps; nothing where something jumps beside them."""
    graph = algebra.capture.graph
    steps = inner_steps(graph)
    return deciders(graph) if steps and not algebra.jumps_beside(steps) else ()


def keeping(captured: Capture) -> Capture:
    """The capture, with its inner decisions to be kept."""
    return replace(captured, deciders=deciders(captured.graph))


def kept_rows(network: Network, decider: Decider, parameters: Parameters, draws: Sequence[tuple[Tensor, ...]]) -> np.ndarray:
    """[rows, D] that vanish on directions along which the decider moves as it may, at these inputs."""
    chosen = _chosen(network, decider, parameters, draws)

    def entries(p: Parameters, *x: Tensor) -> Tensor:
        return _slices(network, decider, p, x)[chosen].reshape(-1)

    with plain_kernels(), torch.no_grad():
        h = torch.stack([entries(parameters, *x) for x in draws])
    with plain_kernels():
        slopes = jacobians(entries, parameters, draws)
    if not bool(slopes.isfinite().all()):
        raise Undecided(f"what decides a step ({decider.value}) has no finite derivative")
    if decider.part == "all":
        return slopes.flatten(0, 1).numpy()
    count, size = len(draws), slopes.shape[-1]
    h = h.reshape(count, len(chosen), -1).transpose(0, 1).flatten(1)  # [slices, entries at all inputs]
    slopes = slopes.reshape(count, len(chosen), -1, size).transpose(0, 1).flatten(1, 2)
    along = torch.nn.functional.normalize(h, dim=1)[..., None]
    beside = slopes - along * (along * slopes).sum(1, keepdim=True)
    seen = beside.norm(dim=2, keepdim=True) > NOISE * slopes.norm(dim=2, keepdim=True).amax(1, keepdim=True)
    return torch.where(seen, beside, 0.0).flatten(0, 1).numpy()


def _chosen(network: Network, decider: Decider, parameters: Parameters, draws: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Numbers of the slices that are looked at; inputs decide which, so that many inputs see all of them."""
    with plain_kernels(), torch.no_grad():
        count, length = _slices(network, decider, parameters, draws[0]).shape
    wanted = max(MOST // max(length, 1), 1)
    if count <= wanted:
        return torch.arange(count)
    seed = zlib.crc32(b"".join(t.contiguous().numpy().tobytes() for t in draws[0]))
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted]


def _slices(network: Network, decider: Decider, parameters: Parameters, x: tuple[Tensor, ...]) -> Tensor:
    """h, [slices, entries]: an order is one of all entries along its axis, their mean taken off; signs are those of single entries."""
    first, *rest = network.values([decider.value, *([decider.less] if decider.less else [])])(parameters, *x)
    h = first.double() - (rest[0].double() if rest else decider.number)
    h = torch.where(h.isfinite(), h, 0.0)  # what is masked has no place in an order
    if decider.part != "order":
        return h.reshape(-1, 1)
    h = h.movedim(int(decider.axis or 0), -1).flatten(0, -2) if h.dim() > 1 else h[None]
    return h - h.mean(-1, keepdim=True)
