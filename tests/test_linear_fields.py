"""Linear fields found by one null space over many weights, where most weights tell little."""

from __future__ import annotations

import torch
from brute import keeps_function, randomise
from torch import Tensor, nn

import symdisc


class Dense(nn.Module):
    """Every layer reads all that came before; units behind BatchNorm rest at many weights and inputs."""

    def __init__(self, width: int, more: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, more, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


def test_resting_units_make_no_linear_symmetry():
    """Fields that fit the weights tried by chance, for lack of equations, moved the function by its own size."""
    torch.manual_seed(0)
    head = [nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)]
    model = randomise(nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), Dense(2, 2), Dense(4, 2), *head).eval(), 0)

    def inputs(seed: int) -> tuple[Tensor]:
        return (torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),)

    cat = symdisc.discover(model, inputs(0))
    # by hand: six gains behind ReLU before the head, two and four behind ReLU before a convolution, and the scales of the
    # three groups of channels, free because every reader is a BatchNorm
    assert cat.orbit_dimension == 6 + (2 + 4) + 3 * 2
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for seed in range(3):
        moved = cat.apply(state, cat.sample(seed=seed, scale=0.3))
        assert keeps_function(model, moved, [inputs(500 + k) for k in range(4)]) < 1e-10
