"""Gains at the source of a stream between norms: they move along the roots of one polynomial, and the stream turns with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks import ready
from networks.base import floats
from torch import Tensor, nn

import symdisc
from symdisc.conserved.evaluate import residual
from symdisc.isospectral import generator, moved

NAME = "gains that keep their spectrum"


@pytest.mark.parametrize("n", [3, 4, 7, 60])
def test_the_spectrum_stays(n: int) -> None:
    gain = 1.0 + 0.4 * np.random.default_rng(n).standard_normal(n)
    centre = np.eye(n) - 1.0 / n
    new, turn = moved(gain, 0.7)
    assert np.abs(centre @ np.diag(new) @ centre - turn @ centre @ np.diag(gain) @ centre @ turn.T).max() < 1e-12 < np.abs(new - gain).max()
    assert np.abs(turn @ turn.T - np.eye(n)).max() < 1e-12 and np.abs(turn.sum(1) - 1.0).max() < 1e-12
    further, more = moved(new, -0.3)
    straight, whole = moved(gain, 0.4)
    assert np.abs(further - straight).max() < 1e-13 and np.abs(more @ turn - whole).max() < 1e-11  # a group acts
    (a, left), (b, right) = moved(gain, 1e-5), moved(gain, -1e-5)
    speed, turning = generator(gain)
    assert np.abs((a - b) / 2e-5 - speed).max() < 1e-6 * np.abs(speed).max()
    assert np.abs((left - right) / 2e-5 - turning).max() < 1e-6 * np.abs(turning).max()


def test_equal_gains_stay() -> None:
    """Torch's initial gains leave no room between the roots."""
    for gain in (np.ones(4), np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0])):
        new, turn = moved(gain, 0.5)
        assert np.array_equal(new, gain) and np.array_equal(turn, np.eye(len(gain)))


class Stream(nn.Module):
    """norm -> x, x + mlp(norm(x)), norm, head; ``mode``: the source "rms" normed, "bare" of a gain, or the stream "read" bare, too."""

    def __init__(self, mode: str = "", d: int = 5) -> None:
        super().__init__()
        self.enter, self.mode = nn.Linear(6, d), mode
        self.source = nn.RMSNorm(d, eps=0.05) if mode == "rms" else nn.LayerNorm(d, eps=0.05, elementwise_affine=mode != "bare")
        self.norm, self.last = nn.LayerNorm(d, eps=0.05), nn.LayerNorm(d, eps=0.05)
        self.up, self.down, self.head = nn.Linear(d, 4), nn.Linear(4, d), nn.Linear(d, 6)
        self.other = nn.Linear(d, 4) if mode == "read" else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.source(self.enter(x))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return torch.cat([self.head(x), F.gelu(self.other(self.last(x)))], -1) if self.mode == "read" else self.head(self.last(x))


@pytest.mark.parametrize("mode, found", [("", 1), ("rms", 0), ("bare", 0), ("read", 2)])
def test_streams(mode: str, found: int) -> None:
    torch.manual_seed(2)
    model, inputs = randomise(Stream(mode), 2), floats(6)
    cat = symdisc.discover(model, inputs(0), solve=False)
    mine = [s for s in cat.symmetries if s.name in (NAME, "shear along 1 by 1/gamma")]
    assert len(mine) == found and cat.broken == () and cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    if mode != "rms":
        assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    if found:
        state, element = {k: v.clone() for k, v in model.state_dict().items()}, cat.sample(seed=2, scale=0.5)
        back = cat.apply(cat.apply(state, element), cat.inverse(element))
        assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-9
        model(*inputs(5)).square().sum().backward()
        gradient = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
        values = {n: p.detach().numpy() for n, p in model.named_parameters()}
        for law in (q for q in cat.conserved if q.symmetry in mine):
            assert law.status == "none" and float(np.abs(residual(law, values, gradient)).max()) < 1e-10
        assert NAME in cat.to_latex() and cat.to_html() and cat.to_markdown()


def test_a_shear_that_every_reader_has_by_itself_is_not_counted() -> None:
    """In front of a post-norm layer all that reads the gain leans along 1/gamma: the shear is made of that and of translations."""
    model, inputs, record = ready("stream_post_layer_deep")
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert NAME in {s.name for s in cat.symmetries} and "shear along 1 by 1/gamma" not in {s.name for s in cat.symmetries}
    assert cat.group_dimension == record["fibre"] == 38


class Post(nn.Module):
    """One post-norm block behind a norm; the reader of the gain has a bias or none."""

    def __init__(self, bias: bool, d: int = 4) -> None:
        super().__init__()
        self.enter, self.one, self.up = nn.Linear(6, d), nn.LayerNorm(d, eps=0.05), nn.Linear(d, 5, bias=bias)
        self.down, self.two, self.head = nn.Linear(5, d), nn.LayerNorm(d, eps=0.05), nn.Linear(d, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.enter(x))
        return self.head(self.two(x + self.down(torch.tanh(self.up(x)))))


@pytest.mark.parametrize("bias", [True, False])
def test_a_lean_that_moves_with_the_shift_holds_the_shear_too(bias: bool) -> None:
    torch.manual_seed(3)
    model, inputs = randomise(Post(bias), 3), floats(6)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert NAME in {s.name for s in cat.symmetries} and cat.broken == ()
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension


class Merged(nn.Module):
    """As Stream on four places, of which a norm then reads two side by side: it sees what the places hold along 1, against each other."""

    def __init__(self, d: int = 5) -> None:
        super().__init__()
        self.enter, self.source, self.norm, self.joint = nn.Linear(6, d), nn.LayerNorm(d, eps=0.05), nn.LayerNorm(d), nn.LayerNorm(2 * d)
        self.up, self.down, self.head = nn.Linear(d, 4), nn.Linear(4, d), nn.Linear(2 * d, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.source(self.enter(x))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return torch.as_tensor(self.head(self.joint(x.flatten(-2))))


def test_a_norm_over_several_places_sees_what_the_gain_puts_along_1() -> None:
    """Nothing is claimed of the gain, so that nothing has to be refused: of wide streams the element is too small for a check to see."""
    model, inputs = randomise(Merged(), 5), floats(2, 6, spread=1.0)
    cat = symdisc.discover(model, inputs(0))
    assert NAME not in {s.name for s in cat.symmetries} and cat.broken == ()
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
