"""Gains behind the writers of a stream (layer scale): rotations and the direction 1 go through them, conjugated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import symdisc

WIDTH, WIDE = 4, 6


class Scaled(nn.Module):
    """Two branches x + lambda * f(norm(x)) between linear maps. ``mode`` says what is different: "first" writer scaled too; "spied":
    another reader of f in front of the gain; "normed" f, whose entries no dense weight writes; "plain": no norms at all."""

    def __init__(self, norm: type[nn.Module], mode: str = "") -> None:
        super().__init__()
        self.mode = mode
        self.start, self.end = nn.Linear(WIDE, WIDTH), nn.Linear(WIDTH, WIDE)
        self.norms = nn.ModuleList(nn.Identity() if mode == "plain" else norm(WIDTH, eps=0.05) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(3, WIDTH) for _ in range(2))
        self.scales = nn.ParameterList(nn.Parameter(torch.rand(WIDTH) + 0.5) for _ in range(3))
        self.spy = nn.Linear(WIDTH, WIDE) if mode == "spied" else None
        self.inner = norm(WIDTH, eps=0.05) if mode == "normed" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x, seen = self.start(x), torch.zeros(())
        if self.mode == "first":
            x = x * self.scales[2]
        for k in range(2):
            f = self.inner(self.down[k](torch.tanh(self.up[k](self.norms[k](x)))))
            seen = seen + self.spy(f) if self.spy is not None else seen
            x = x + self.scales[k] * f
        return self.end(self.norms[2](x)) + seen


def _catalog(model: nn.Module) -> symdisc.Catalog:
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return symdisc.discover(model.double(), (torch.randn(9, WIDE, dtype=torch.float64),), solve=False)


@pytest.mark.parametrize("norm, mode, rotations, centred", [
    (nn.RMSNorm, "", 6, 0), (nn.LayerNorm, "", 3, 15), (nn.RMSNorm, "first", 6, 0), (nn.LayerNorm, "first", 3, 15)])
def test_streams_with_scaled_branches(norm: type[nn.Module], mode: str, rotations: int, centred: int) -> None:
    model = Scaled(norm, mode)
    cat = _catalog(model)
    assert sum(s.dimension for s in cat.symmetries if s.family in ("o", "o1")) == rotations
    assert sum(s.dimension for s in cat.symmetries if s.name == "direction that is centred away") == centred
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.certify(cat).complete
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


def test_a_stream_without_norms() -> None:
    """Any matrix mixes the stream, and each gain can be traded against its writer."""
    cat = _catalog(model := Scaled(nn.RMSNorm, "plain"))
    assert sorted((s.family, s.dimension) for s in cat.symmetries if s.family in ("gl", "scale")) == [
        ("gl", 16), ("scale", WIDTH), ("scale", WIDTH)]
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.certify(cat).complete


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("mode", ["spied", "normed"])
def test_what_else_sees_the_branch_forbids_it(norm: type[nn.Module], mode: str) -> None:
    cat = _catalog(model := Scaled(norm, mode))
    assert not [s for s in cat.symmetries if s.family in ("o", "o1")]
    assert not [m for s in cat.symmetries for m in s.moves if m.parameter.startswith("down") and (m.gain or "").startswith("scales")]
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


class Block(nn.Module):
    """Channels first: a convolution, a block of ConvNeXt with its scale [channels, 1, 1], and a norm over channels; with ``pooled``
    the mean over places before it."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.start, self.mix = nn.Conv2d(3, WIDTH, 2, 2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH, eps=0.05), nn.Linear(WIDTH, WIDE), nn.Linear(WIDE, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH, 1, 1))
        self.end, self.head = nn.LayerNorm(WIDTH, eps=0.05), nn.Linear(WIDTH, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.down(torch.tanh(self.up(y))).permute(0, 3, 1, 2)
        x = x.mean((2, 3), keepdim=True) if self.pooled else x
        return self.head(self.end(x.permute(0, 2, 3, 1)))


@pytest.mark.parametrize("pooled", [False, True])
def test_scales_of_channels_in_front(pooled: bool) -> None:
    torch.manual_seed(1)
    model = Block(pooled).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    cat = symdisc.discover(model, (torch.randn(2, 3, 8, 8, dtype=torch.float64),), solve=False)
    away = {s.parameters[0]: s.dimension for s in cat.symmetries if s.name == "direction that is centred away"}
    assert away == {"down.weight": WIDE, "down.bias": 1, "mix.bias": 1}  # the convolution of the block reads what "start" writes
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.certify(cat).complete
