"""Copies in rows and columns: hidden units in two groups, and every turn of the first with every turn of the second.

Where sigma treats hidden units one by one, g = g_1 (+) g_2 moves two groups of them apart, and the copy in row i and column j computes
U_1i sigma(g_1i z_1) + U_2j sigma(g_2j z_2) + bias. So 2 n small pairs make n n copies, and what a copy adds to a pass is one sum of its
logits. The price: a group of h/2 units keeps h/2 samples exactly, not h, and all copies keep the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from symdisc.errors import BadInput
from symdisc.torchside.datadep.batch import transport
from symdisc.torchside.datadep.segments import Pair
from symdisc.torchside.datadep.site import Sigma, Site, between
from symdisc.torchside.ensemble import PREFIX, WHOLE, Ensemble, random_elements
from symdisc.torchside.recorded import Recorded

__all__ = ["CROSSED", "Crossed", "build_crossed"]

CROSSED = (f"{PREFIX}crossed.g", f"{PREFIX}crossed.U")  # names in the file
SMALL = 1e-30  # of sums of exponentials: further from 1, float32 comes near its end
APART = 1e-12  # of the largest activation: what a hidden unit of one group may change in the other


class Crossed(Ensemble):
    """An ensemble of n n copies: ``turns`` [2, n, a, a] of the two groups of hidden units, and ``readers`` [2, n, k, a] of k rows.

    a is h/2, rounded up; of an odd h the second group has one unit that is always zero. Copy number i n + j takes turn i of the first
    group and turn j of the second. Raises BadInput when shapes do not fit.
    """

    turns: Tensor
    readers: Tensor

    def __init__(self, model: nn.Module, pair: Pair, turns: Tensor, readers: Tensor, sigma: Sigma | None = None) -> None:
        nn.Module.__init__(self)
        k, a = self._share(model, pair, sigma, turns.dtype), (pair.width + 1) // 2
        n = turns.shape[1] if turns.ndim == 4 else 0
        if not n or turns.shape != (2, n, a, a) or readers.shape != (2, n, k, a) or pair.features != pair.width:
            raise BadInput(f"g {list(turns.shape)} and U {list(readers.shape)} must be [2, n, {a}, {a}] and [2, n, {k}, {a}]")
        self.register_buffer("turns", turns.contiguous())
        self.register_buffer("readers", readers.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3))  # so that all side by side are a view
        self._run_halves = Recorded(self._halves)
        self._spare = (torch.empty(0),) * 3

    def __len__(self) -> int:
        return self.turns.shape[1] ** 2

    def pairs(self) -> dict[str, Tensor]:
        return dict(zip(CROSSED, (self.turns, self.readers), strict=True))

    @property
    def g(self) -> Tensor:  # type: ignore[override]
        """[n n, h, h]"""
        return self._elements(self.turns)

    @property
    def U(self) -> Tensor:  # type: ignore[override]
        """[n n, k, h]"""
        return self._members(self.readers)

    def _elements(self, turns: Tensor) -> Tensor:
        """g_1i (+) g_2j for every i and j."""
        _, n, a, _ = turns.shape
        whole = turns.new_zeros(n, n, 2 * a, 2 * a)
        whole[:, :, :a, :a] = turns[0][:, None]
        whole[:, :, a:, a:] = turns[1]
        return whole.flatten(0, 1)[:, : self.pair.width, : self.pair.width]

    def _members(self, readers: Tensor) -> Tensor:
        """[U_1i | U_2j] for every i and j."""
        n = readers.shape[1]
        both = torch.cat([readers[0][:, None].expand(-1, n, -1, -1), readers[1].expand(n, -1, -1, -1)], -1)
        return both.flatten(0, 1)[..., : self.pair.width]

    # --- predicting -------------------------------------------------------------------------------------------------------
    def mean(self, *inputs: Any) -> Tensor:
        """Of exponentials, a sum in the exponent being a product: e^a e^b / sum over classes, and no exponential for each copy."""
        halves = self._summands(inputs)
        if halves is None:
            return super().mean(*inputs)
        products = self._combined(halves.exp(), torch.mul)
        totals = products.sum(0)
        least, most = torch.aminmax(totals)
        if not (float(least) > SMALL and float(most) < 1 / SMALL):  # logits too large, or two halves that agree on no class
            return super().mean(*inputs)
        return torch.div(products, totals, out=products).mean(1).T

    def vote(self, *inputs: Any) -> Tensor:
        halves = self._summands(inputs)
        if halves is not None:
            sums = self._combined(halves, torch.add)
            classes, copies, batch = sums.shape
            smaller, most = torch.lt(sums, sums.amax(0), out=sums).sum(1), copies * batch * (classes - 1)  # copies that name another class
            if most < WHOLE and float(smaller.sum()) == most:
                return smaller.min(0).indices
        return super().vote(*inputs)  # a copy has several largest, or one that is not a number: each is asked

    def _summands(self, inputs: Sequence[Any]) -> Tensor | None:
        """[2 n, classes, batch], the logits of a copy being sums of two; None where they are not, or gradients are asked for."""
        own = self._tensors()
        return self._run_halves(own, inputs) if self._run.takes_other_way(own, inputs) else None

    def _combined(self, halves: Tensor, by: Callable[..., Tensor]) -> Tensor:
        """Sums or products for all copies, [classes, copies, batch], in memory that the next call uses again: fresh memory would take as
        long as they do."""
        both, classes, batch = halves.shape
        n = both // 2
        like, whole, flat = self._spare
        if like.shape != halves.shape or like.dtype != halves.dtype or like.device != halves.device:
            whole = halves.new_empty(classes, n, n, batch)
            flat = whole.flatten(1, 2)
            self._spare = halves, whole, flat
        halves = halves.transpose(0, 1)
        by(halves.narrow(1, 0, n).unsqueeze(2), halves.narrow(1, n, n).unsqueeze(1), out=whole)
        return flat

    def _all(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        return self._side_by_side(self._elements(own[0]), self._members(own[1]), self._state(own), inputs)

    def _wide(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        first, second = self._halves(own, inputs).chunk(2)
        return (first[:, None] + second).flatten(0, 1).transpose(1, 2)

    def _halves(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        """What each turn adds to the logits, half of the bias in each, [2 n, classes, batch]."""
        (_, n, k, a), bias = own[1].shape, self._bias(own)
        hidden, readers = self._hidden(own, inputs).reshape(2 * n, a, -1), own[1].reshape(2 * n, k, a)
        return torch.bmm(readers, hidden) if bias is None else torch.baddbmm(bias[None, :, None], readers, hidden, beta=0.5)

    def _folded(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        """The mean of all sums is the sum of the means: one product with all readers side by side."""
        side, bias = own[1].permute(2, 0, 1, 3).flatten(1), self._bias(own)
        start = side.new_zeros(len(side)) if bias is None else bias
        return torch.addmm(start[:, None], side, self._hidden(own, inputs).flatten(0, 1), alpha=1 / own[1].shape[1]).T

    def _hidden(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        """sigma(g z) of both groups, [2, n a, batch]."""
        assert self.sigma is not None
        (_, n, a, _), z = own[0].shape, self._reached(self._state(own), inputs)
        z = pad(z, (0, 1)) if z.shape[1] < 2 * a else z
        return self.sigma(torch.bmm(own[0].reshape(2, n * a, a), z.T.reshape(2, a, -1)))


def build_crossed(site: Site, copies: int, scale: float, seed: int, samples: int | None, completion: str) -> Crossed:
    """As ``ensemble.build``; ``copies`` must be a square n n, n > 1.

    Raises BadInput where it is none, or where sigma mixes hidden units; NotExact as ``batch.transport``.
    """
    n, h, pair = isqrt(copies), site.pair.width, site.pair
    if n < 2 or n * n != copies:
        raise BadInput(f"{copies} copies make no square of rows and columns: take {max(n, 2) ** 2} or {max(n + 1, 3) ** 2}")
    if pair.features != h or h < 2:
        raise BadInput(f"{pair.name} has {h} hidden units read as {pair.features} features: crossed copies need a dense pair of 2 or more")
    count, a = samples or (len(site.x) if completion == "lstsq" else min(h // 2, len(site.x))), (h + 1) // 2
    chosen = torch.randperm(len(site.x), generator=torch.Generator().manual_seed(seed + 1))[:count]
    at = site if count >= len(site.x) else Site(site.model, site.x[:count], pair)
    values = at.values(site.x if count >= len(site.x) else site.x[chosen])
    before = at.activations(values)
    turns = torch.eye(a, dtype=torch.float64).repeat(2, n, 1, 1)
    readers = torch.zeros(2, n, len(at.U), a, dtype=torch.float64)
    for k, group in enumerate((slice(0, a), slice(a, h))):
        size = group.stop - group.start
        for i, one in enumerate(random_elements(n, size, scale, seed + 2 * k)):
            whole = torch.eye(h, dtype=torch.float64)
            whole[group, group] = one
            after = at.activations(values, whole)
            apart = (after - before).index_fill(0, torch.arange(group.start, group.stop), 0.0)
            if float(apart.abs().max()) > APART * float(before.abs().max()):
                raise BadInput(f"what stands between the maps of {pair.name} mixes hidden units: its copies cannot be crossed")
            turns[k, i, :size, :size] = one
            readers[k, i, :, :size] = at.U[:, group] @ transport(after[group], before[group], completion)
    dtype = site.model.get_parameter(pair.readers[0].weight).dtype
    return Crossed(site.model, pair, turns.to(dtype), readers.to(dtype), between(site.graph, pair))
