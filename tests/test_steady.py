"""Networks that jump inside: routes, masks and codes have no derivative, and what moves them is no symmetry. Dimensions by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from claims import assert_undone, generic
from networks.base import floats
from networks.strangers import Of, parameter
from torch import Tensor, nn

import symdisc
from symdisc import archgraph
from symdisc.torchside.algebra import Algebra
from symdisc.torchside.capture import capture
from symdisc.torchside.decisions import Decider, deciders
from symdisc.torchside.remainder import float64_state
from symdisc.torchside.steady import steady

CASES: dict[str, tuple[Callable[[Of, Tensor], Tensor], dict[str, Callable[[], nn.Module | nn.Parameter]], int, str]] = {}


def case(dimension: int, why: str, **layers: Callable[[], nn.Module | nn.Parameter]) -> Callable:
    def add(forward: Callable[[Of, Tensor], Tensor]) -> Callable[[Of, Tensor], Tensor]:
        CASES[forward.__name__] = (forward, layers, dimension, why)
        return forward

    return add


def linear(*sizes: int, bias: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(*sizes, bias=bias)


@case(11, "relu units 4; of the space of codes: translations 3, rotations 3, the common scale 1",
      a=linear(3, 4), e=linear(4, 3), c=lambda: parameter(5, 3), d=linear(3, 2))
def vector_quantised(m: Of, x: Tensor) -> Tensor:
    z = m.e(F.relu(m.a(x)))
    return m.d(m.c[torch.cdist(z, m.c).argmin(-1)])


@case(1, "all units together: the two largest stay the largest", e=linear(3, 5), d=linear(5, 3, bias=False), p=lambda: parameter(3))
def largest_units(m: Of, x: Tensor) -> Tensor:
    h = m.e(x - m.p)
    values, places = h.topk(2, -1)
    return m.d(torch.zeros_like(h).scatter(-1, places, F.relu(values))) + m.p


@case(5, "each unit with its threshold exp(t)", e=linear(3, 5), d=linear(5, 3), t=lambda: parameter(5))
def thresholds_of_their_own(m: Of, x: Tensor) -> Tensor:
    h = m.e(x)
    return m.d(h * (h > m.t.exp()))


@case(14, "the common scale 1; two linear maps of product 2 x 4, 18 - 8, and a bias between them 3", a=linear(3, 4),
      s=lambda: parameter(1), b=linear(4, 3), o=linear(3, 2))
def rounded_to_a_step(m: Of, x: Tensor) -> Tensor:
    step = m.s.exp()
    return m.o(m.b((F.relu(m.a(x)) / step).round() * step))


@case(17, "a scale of each unit 4; two linear maps 10 and the bias between them 3", a=linear(3, 4), b=linear(4, 3), o=linear(3, 2))
def signs_of_units(m: Of, x: Tensor) -> Tensor:
    return m.o(m.b(torch.sign(m.a(x))))


@case(21, "a scale of each gate 4 and of each unit 4; two linear maps 10 and the bias between them 3",
      a=linear(3, 4), g=linear(3, 4), b=linear(4, 3), o=linear(3, 2))
def hard_gates(m: Of, x: Tensor) -> Tensor:
    return m.o(m.b(m.a(x) * (m.g(x) > 0)))


@case(10, "relu units 4; the score of those chosen against what they write 1; what the last layer does not read, 4 + 1",
      r=linear(3, 1), a=linear(3, 4), b=linear(4, 3), o=linear(3, 2))
def tokens_chosen(m: Of, x: Tensor) -> Tensor:
    scores = m.r(x)[..., 0]
    places = scores.topk(2, -1).indices
    there = places[..., None].expand(-1, -1, 3)
    written = m.b(F.relu(m.a(x.gather(1, there)))) * scores.gather(1, places)[..., None]
    return m.o(x.scatter_add(1, there, written))


@pytest.mark.parametrize("name", CASES)
def test_what_keeps_the_inner_steps_is_found_and_nothing_else(name: str) -> None:
    forward, layers, dimension, why = CASES[name]
    torch.manual_seed(0)
    model = generic(Of(forward, **{n: make() for n, make in layers.items()}))
    maker = floats(4, 3, batch=6) if name == "tokens_chosen" else floats(3, batch=6)
    cat = symdisc.discover(model, maker(0))
    assert cat.orbit_dimension == dimension, why
    certificate = symdisc.certify(cat)
    assert certificate.complete and certificate.fibre == dimension
    inputs = [maker(seed) for seed in range(1, 41)]  # few would not meet a step that moved a little
    for seed in range(3):
        g = cat.sample(seed=seed, scale=0.2)
        assert cat.verify(model, g, inputs=inputs).max_relative_change < 1e-9
    assert_undone(cat, model)
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


def test_a_jump_that_no_step_explains_is_claimed_by_nobody() -> None:
    """Hardshrink jumps by itself: its derivative leaves the size of the jump unseen."""
    torch.manual_seed(0)
    model = generic(nn.Sequential(nn.Linear(3, 4), nn.Hardshrink(), nn.Flatten(), nn.Linear(4, 2)))
    cat = symdisc.discover(model, floats(3)(0))
    captured = capture(model, floats(3)(0))
    assert steady(Algebra.of(captured, archgraph.build(captured.graph), float64_state(captured))) == ()
    assert cat.orbit_dimension == 0 and not any(s.family == "flow" for s in cat.symmetries)


def test_what_a_step_reads_is_told_by_the_operator() -> None:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = m.a(x)
        places = h.argmax(-1, keepdim=True)
        return h.gather(-1, places) * (h[..., :1] > 0.5) + h[..., :1].round() * torch.sign(h[..., 1:2]) * (h[..., :1] < h[..., 1:2])

    captured = capture(Of(forward, a=nn.Linear(3, 3)), (torch.randn(4, 3),))
    found = {dataclasses.replace(d, value="", less="with" if d.less else "") for d in deciders(captured.graph)}
    assert found == {Decider("", "order", 1), Decider("", "signs", number=0.5), Decider("", "all"), Decider("", "signs"),
                     Decider("", "signs", less="with")}
