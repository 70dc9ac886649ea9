"""Writers of vectors that are read through fewer rows than they have entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from claims import assert_holds, generic
from torch import Tensor, nn

import symdisc
from symdisc.conserved.pairing import pairing
from symdisc.torchside.apply import act

NAME = "direction that is never read"
WIDTH = 5


class Wide(nn.Module):
    """A stream of five behind a ReLU, one block that adds to it, and a head of two rows. ``mode`` says what is different: "two heads" of
    one and two rows, "pooled" over places, "mixed" over places by the data, "bent" before the head, "kept" among the outputs, a "wide"
    head, a "centred" source, "parallel" blocks, the block "again" behind itself, a "normed" head (weight norm), "scaled" channels."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.start, self.up, self.down = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)
        self.norm = nn.LayerNorm(4, eps=0.05) if mode == "centred" else nn.Identity()
        self.beside = nn.Linear(4, WIDTH, bias=False) if mode == "parallel" else None
        self.gain = nn.Parameter(torch.ones(WIDTH)) if mode == "scaled" else None
        self.head = nn.Linear(WIDTH, 6 if mode == "wide" else 2)
        if mode == "normed":
            self.head = nn.utils.parametrizations.weight_norm(self.head)
        self.other = nn.Linear(WIDTH, 1) if mode == "two heads" else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = torch.relu(self.start(x))
        z = self.norm(torch.tanh(self.up(h)))
        y = h + self.down(z) if self.beside is None else h + self.down(z) + self.beside(z)
        if self.mode == "again":
            y = y + self.down(torch.tanh(self.up(y)))
        if self.mode == "bent":
            y = torch.tanh(y)
        if self.mode == "mixed":
            y = (x @ x.mT).softmax(-1) @ y
        if self.gain is not None:
            y = y * self.gain
        y = y.mean(1) if self.mode == "pooled" else y
        more = (y,) if self.mode == "kept" else () if self.other is None else (self.other(y),)
        return self.head(y), *more


def made(mode: str) -> tuple[nn.Module, symdisc.Catalog]:
    model = generic(Wide(mode), 0.6)
    return model, symdisc.discover(model, (torch.randn(6, 4, 3, dtype=torch.float64),), solve=False)


@pytest.mark.parametrize("mode, expected", [
    ("plain", 12), ("two heads", 8), ("pooled", 12), ("mixed", 12), ("bent", 0), ("kept", 0), ("wide", 0), ("centred", 9), ("parallel", 12),
    ("again", 0), ("normed", 12), ("scaled", 0)])
def test_streams_before_narrow_heads(mode: str, expected: int) -> None:
    model, cat = made(mode)
    found = [s for s in cat.symmetries if s.name == NAME]
    assert sum(s.dimension for s in found) == expected
    assert_holds(cat, model)
    if expected:
        certificate = symdisc.certify(cat)
        assert (certificate.found, certificate.complete) == (certificate.fibre, True)
        assert all(s.status == "proved" for s in found)


def test_a_convolution_that_a_narrow_head_reads() -> None:
    torch.manual_seed(2)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.down, self.head = nn.Conv1d(2, 4, 1), nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.start(x))
            return self.head(h + self.down(torch.tanh(h)))

    model = Block().double()
    cat = symdisc.discover(model, (torch.randn(3, 2, 6, dtype=torch.float64),), solve=False)
    assert [s.dimension for s in cat.symmetries if s.name == NAME] == [4 * 3 * (4 - 2)]
    certificate = symdisc.certify(cat)
    assert certificate.complete and cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


def test_the_pairing_is_that_of_the_generator() -> None:
    model, cat = made("two heads")
    symmetry = next(s for s in cat.symmetries if s.name == NAME)
    state = {n: p.detach() for n, p in model.named_parameters()}
    rng, (move,) = np.random.default_rng(0), symmetry.moves
    a, x = rng.standard_normal(symmetry.shape), rng.standard_normal(tuple(state[move.parameter].shape))
    change = (act(symmetry, a, state)[move.parameter] - state[move.parameter]).numpy()
    arrays = {n: p.numpy() for n, p in state.items()}
    mu = pairing(move, x, arrays[move.parameter], arrays, symmetry.shape)
    assert float((mu * a).sum()) == pytest.approx(float((x * change).sum()))
