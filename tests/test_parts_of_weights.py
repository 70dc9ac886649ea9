"""One stored weight, its rows read by different operators: queries from one source, keys and values from another."""

from __future__ import annotations

import pytest
import torch
from claims import generic
from torch import Tensor, nn
from torch.nn import functional as F

import symdisc

WIDTH, HEADS = 4, 2


class Cross(nn.Module):
    """Attention from x to y by rows of one weight. ``mode``: "apart" rows for each; "shared" rows that both operators use."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.first, self.second = nn.Linear(5, WIDTH), nn.Linear(5, WIDTH)
        self.norm, self.other = nn.LayerNorm(WIDTH, eps=0.05), nn.LayerNorm(WIDTH, eps=0.05)
        self.weight, self.bias = nn.Parameter(torch.randn(3 * WIDTH, WIDTH)), nn.Parameter(torch.randn(3 * WIDTH))
        self.out, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.first(x), self.second(y)
        start = WIDTH if self.mode == "apart" else WIDTH - 1
        stop = start + 2 * WIDTH
        q = F.linear(self.norm(x), self.weight[:WIDTH], self.bias[:WIDTH])
        k, v = F.linear(self.other(y), self.weight[start:stop], self.bias[start:stop]).split(WIDTH, -1)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(F.silu(x))


@pytest.mark.parametrize("mode", ["apart", "shared"])
def test_rows_of_one_weight(mode: str) -> None:
    model = generic(Cross(mode))
    cat = symdisc.discover(model, (torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 6, 5, dtype=torch.float64)), solve=False)
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    trades = [s.name for s in cat.symmetries if s.moves[0].parameter == "bias" and s.name.startswith(("translation", "bias"))]
    if mode == "apart":
        certificate = symdisc.certify(cat)
        assert (certificate.found, certificate.complete, cat.broken) == (certificate.fibre, True, ())
        assert sum("bias" in s.parameters for s in cat.symmetries) >= 4
    else:
        assert trades == []
