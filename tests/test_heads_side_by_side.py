"""Query heads laid side by side along the rows of one product with keys that they share: heads share one change of basis."""

from __future__ import annotations

import warnings

import pytest
import torch
from brute import generic_fibre, keeps_function, randomise
from torch import Tensor, nn

import symdisc

HEADS, SIZE = 2, 2


class SharedKeys(nn.Module):
    """Multi-query attention, its contractions written as one product of matrices or with letters; ``peek`` reads the keys elsewhere."""

    def __init__(self, letters: bool, peek: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, HEADS * SIZE, bias=False), nn.Linear(4, SIZE, bias=False), nn.Linear(4, SIZE, bias=False)
        self.o, self.letters, self.peek = nn.Linear(HEADS * SIZE, 3, bias=False), letters, peek

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.q(x).view(b, t, HEADS, SIZE), self.k(x), self.v(x)
        if self.letters:
            weights = torch.einsum("bqhd,bkd->bhqk", q, k).softmax(-1)
            y = torch.einsum("bhqk,bkd->bqhd", weights, v).reshape(b, t, HEADS * SIZE)
        else:
            weights = (q.transpose(1, 2).reshape(b, HEADS * t, SIZE) @ k.mT).softmax(-1)
            y = (weights @ v).view(b, HEADS, t, SIZE).transpose(1, 2).reshape(b, t, HEADS * SIZE)
        return self.o(y) + (torch.tanh(k).sum(-1, keepdim=True) if self.peek else 0.0)


def inputs(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return (1.2 * torch.randn(3, 4, 4, generator=generator, dtype=torch.float64),)


@pytest.mark.parametrize("letters", [True, False])
@pytest.mark.parametrize("peek", [True, False])
def test_one_change_of_basis_for_all_heads(letters: bool, peek: bool) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SharedKeys(letters, peek)
    fibre = generic_fibre(network, inputs, range(1))
    model = randomise(network, fibre.seed)
    catalog = symdisc.discover(model, inputs(0))
    assert catalog.orbit_dimension == fibre.dimension
    named = sorted((s.name, s.dimension, s.parameters) for s in catalog.symmetries)
    values = ("change of basis", SIZE**2, ("v.weight", "o.weight"))
    keys = ("change of basis", SIZE**2, ("q.weight", "k.weight"))
    assert [(n, d, tuple(sorted(p))) for n, d, p in named] == sorted(
        (n, d, tuple(sorted(p))) for n, d, p in ([values] if peek else [values, keys])
    )
    moved = catalog.apply(dict(model.state_dict()), catalog.sample(seed=1, scale=1.0))
    assert keeps_function(model, moved, [inputs(k) for k in range(7, 10)]) < 1e-9
