"""Kolmogorov-Arnold network: a spline on every edge."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes

__all__ = ["ENTRIES", "SplineLayer"]

END = 2.0  # of the grid, on both sides
FOURTH_DIFFERENCE = (1.0, -4.0, 6.0, -4.0, 1.0)  # of truncated cubes: a cubic B-spline is a sum of five of them, over 6


class SplineLayer(nn.Module):
    """y_o = sum_i w_oi silu(x_i) + s_oi sum_b c_oib B_b(x_i), with the g + 3 cubic B-splines of a uniform grid of g intervals."""

    def __init__(self, n: int, m: int, g: int) -> None:
        super().__init__()
        self.step = 2 * END / g
        self.register_buffer("knots", torch.arange(-3, g + 4) - g / 2)
        apart = torch.arange(g + 7)[:, None] - torch.arange(g + 3)
        self.register_buffer("differences", torch.stack([c * (apart == k) for k, c in enumerate(FOURTH_DIFFERENCE)]).sum(0))
        self.base, self.scale = nn.Parameter(torch.randn(m, n) / n), nn.Parameter(torch.ones(m, n))
        self.spline = nn.Parameter(0.1 * torch.randn(m, n, g + 3))

    def bumps(self, x: Tensor) -> Tensor:
        """B-splines at x [..., n] by truncated cubes, [..., n, g + 3]."""
        cubes = F.relu(x.unsqueeze(-1) / self.step - self.get_buffer("knots")).pow(3)
        return cubes @ self.get_buffer("differences") / 6

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.scale.unsqueeze(-1) * self.spline).flatten(1)
        return F.linear(F.silu(x), self.base) + F.linear(self.bumps(x).flatten(-2), weights)


def _kan(s: Sizes) -> Built:
    model = nn.Sequential(SplineLayer(s["n0"], s["n1"], s["g"]), SplineLayer(s["n1"], s["n2"], s["g"]))
    return model.eval(), (3 * torch.randn(6, s["n0"]),)


ENTRIES = (
    Architecture("kan", "Kolmogorov-Arnold network (cubic splines)",
                 {"n0": "inputs", "n1": "hidden units", "n2": "outputs", "g": "intervals of the grid"}, _kan,
                 ({"n0": 2, "n1": 3, "n2": 1, "g": 3}, {"n0": 2, "n1": 4, "n2": 2, "g": 4}, {"n0": 3, "n1": 4, "n2": 1, "g": 2}),
                 ("the [2, 5, 1] network of the paper's first example", {"n0": 2, "n1": 5, "n2": 1, "g": 5}),
                 (sources.defines("Liu et al., KAN: Kolmogorov-Arnold networks, ICLR 2025, arXiv:2404.19756"),),
                 ("the grid is fixed: re-gridding is only approximate", "inputs reach beyond the grid, where the splines vanish")),
)
