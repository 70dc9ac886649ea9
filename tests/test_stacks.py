"""Networks of many equal layers: what a short one says of the long one is what the long one says itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from symdisc import session
from symdisc.stacks import NotPeriodic, Stack
from symdisc.torchside import layers
from symdisc.torchside.capture import Capture, capture

WIDTH, DEPTH = 8, 9


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Gated(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(WIDTH, 12, bias), nn.Linear(WIDTH, 12, bias), nn.Linear(12, WIDTH, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) * nn.functional.silu(self.gate(x)))


class Attention(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias), nn.Linear(WIDTH, WIDTH, bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(-2, -3) for t in self.qkv(x).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


class Frame(nn.Module):
    """An entrance, many layers, an exit."""

    def __init__(self, unit: Callable[[], nn.Module], depth: int = DEPTH) -> None:
        super().__init__()
        self.first, self.layers, self.last = nn.Linear(5, WIDTH), nn.ModuleList(unit() for _ in range(depth)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


PIECES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH), "plain": lambda: nn.Linear(WIDTH, WIDTH, bias=False), "relu": nn.ReLU, "tanh": nn.Tanh,
    "gelu": nn.GELU, "norm": lambda: nn.LayerNorm(WIDTH), "rms": lambda: nn.RMSNorm(WIDTH), "gated": Gated, "attention": Attention,
    "gated plain": lambda: Gated(False), "attention plain": lambda: Attention(False),
    "bare": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "narrow": lambda: nn.Sequential(nn.Linear(WIDTH, 2), nn.ReLU(), nn.Linear(2, WIDTH)),
    "weight norm": lambda: weight_norm(nn.Linear(WIDTH, WIDTH)), "prelu": nn.PReLU,
}


def grown(seed: int) -> Callable[[], nn.Module]:
    """A unit of random pieces, residual or not."""
    draw = random.Random(seed)
    made = [(draw.random() < 0.6, draw.choices(list(PIECES), k=draw.randint(1, 4))) for _ in range(draw.randint(1, 2))]

    def unit() -> nn.Module:
        parts = [[PIECES[name]() for name in names] for _, names in made]
        return nn.Sequential(*(Residual(*p) if around else nn.Sequential(*p) for (around, _), p in zip(made, parts, strict=True)))

    return unit


def traced(model: nn.Module, shape: tuple[int, ...] = (2, 3, 5)) -> Capture:
    torch.manual_seed(0)
    return capture(model.eval(), (torch.randn(shape),))


def told(captured: Capture) -> Iterator[tuple[object, object]]:
    """(said by the short network, said by the network itself)"""
    short, stack = layers.shortened(captured) or pytest.fail("nothing repeats")
    part, whole = (session._derived(c, session._Clock(None)) for c in (short, captured))
    for k in (0, 1, 3):
        yield stack.told(part[k]), list(whole[k])  # type: ignore[arg-type]
    yield stack.names(part[2].gained), whole[2].gained
    yield {*part[2].opaque}, {*whole[2].opaque}


@pytest.mark.parametrize("seed", [*range(20), 58, 78, 97])
def test_grown_units(seed: int) -> None:
    captured = traced(Frame(grown(seed)))
    try:
        pairs = list(told(captured))
    except NotPeriodic:  # the network is then looked at as a whole, which the last test sees
        return
    for said, own in pairs:
        assert said == own


PERIODIC: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "residual": (Frame(lambda: Residual(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.ReLU(), nn.Linear(12, WIDTH))), (2, 5), DEPTH - 1),
    "units scaled against the next layer": (nn.Sequential(
        nn.Linear(5, WIDTH), nn.ReLU(), *[m for _ in range(12) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())],
        nn.Linear(WIDTH, 3)), (2, 5), 12),
    "batch norm": (nn.Sequential(nn.Conv2d(3, 6, 1), *[
        m for _ in range(8) for m in (nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())],
        nn.Flatten(), nn.Linear(96, 2)), (2, 3, 4, 4), 7),
    "rotation of the stream": (Frame(lambda: nn.Sequential(Residual(nn.RMSNorm(WIDTH), Attention()), Residual(nn.RMSNorm(WIDTH), Gated()))),
                               (2, 3, 5), DEPTH - 1),
    "encoder": (nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True), 7), (2, 3, WIDTH), 6),
}


@pytest.mark.parametrize("name", PERIODIC)
def test_known_units(name: str) -> None:
    model, shape, count = PERIODIC[name]
    captured = traced(model, shape)
    short, stack = layers.shortened(captured) or pytest.fail("nothing repeats")
    assert stack.count == count and len(short.parameters) < len(captured.parameters)
    for said, own in told(captured):
        assert said == own


def test_two_stacks_in_turn() -> None:
    """Both are shortened, one after the other."""
    model = nn.Sequential(Frame(lambda: Residual(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh())), nn.Linear(3, 5),
                          Frame(lambda: Residual(nn.RMSNorm(WIDTH), Gated())))
    captured = traced(model)
    short, one = layers.shortened(captured) or pytest.fail("nothing repeats")
    shorter, other = layers.shortened(short) or pytest.fail("the second does not")
    assert {one.prefix, other.prefix} == {"0.layers", "2.layers"} and layers.shortened(shorter) is None
    part, whole = (session._derived(c, session._Clock(None)) for c in (shorter, captured))
    assert one.told(other.told(part[0])) == whole[0] and one.told(other.told(part[1])) == whole[1]


class Beside(nn.Module):
    """Layers that all read the same, their results summed: whole layers are exchanged, and constants traded between all of them."""

    def __init__(self, unit: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers, self.last = nn.ModuleList(unit() for _ in range(8)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for layer in self.layers:
            total = total + layer(x)
        return self.last(total)


@pytest.mark.parametrize("piece", ["linear", "plain", "narrow", "gated", "attention"])
def test_layers_side_by_side_are_looked_at_as_a_whole(piece: str) -> None:
    """What one of them admits depends on how many there are."""
    captured = traced(Beside(PIECES[piece]), (2, 3, WIDTH))
    assert layers.shortened(captured) is not None
    with pytest.raises(NotPeriodic):
        list(told(captured))


class Skipping(nn.Module):
    """Each layer reads what the last two wrote: only pairs of layers repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(16)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for layer in self.layers:
            before, x = x, layer(x).relu() + before
        return self.last(x)


class Collecting(nn.Module):
    """The exit reads what every layer wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(9)), nn.Linear(9 * WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for layer in self.layers:
            x = layer(x).relu()
            seen.append(x)
        return self.last(torch.cat(seen, -1))


class Indexed(nn.Module):
    """Layers with a number of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(9))

    def forward(self, x: Tensor) -> Tensor:
        for k, layer in enumerate(self.layers):
            x = layer(x).relu() * (1.0 + k)
        return x


class Masked(nn.Module):
    """Layers with a mask each, no two alike or all alike."""

    def __init__(self, alike: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(9))
        for k, layer in enumerate(self.layers):
            layer.register_buffer("mask", torch.arange(WIDTH) != (0 if alike else k % WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu() * layer.mask
        return x


def tied() -> nn.Module:
    """The exit is the matrix of one layer."""
    model = Frame(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()))
    model.last = nn.Linear(WIDTH, WIDTH)
    model.last.weight = model.layers[4][0].weight
    return model


@pytest.mark.parametrize(("model", "shape"), [
    (Collecting(), (2, WIDTH)), (Indexed(), (2, WIDTH)), (Masked(False), (2, WIDTH)), (tied(), (2, 5))])
def test_layers_that_are_not_equal_are_not_cut_out(model: nn.Module, shape: tuple[int, ...]) -> None:
    found = layers.shortened(traced(model, shape))
    assert found is None or found[1].count < 5 + 1  # of the tied ones those behind the tied layer


def test_equal_masks_are_equal() -> None:
    _, stack = layers.shortened(traced(Masked(True), (2, WIDTH))) or pytest.fail("nothing repeats")
    assert stack.count == 8


def test_pairs_of_layers_that_reach_back_two() -> None:
    _, stack = layers.shortened(traced(Skipping(), (2, WIDTH))) or pytest.fail("nothing repeats")
    assert stack.period == 2


def test_what_reaches_too_far_is_not_told() -> None:
    """A family of the first and the last unit, and one that moves neighbours in different ways, say nothing about those between."""
    captured = traced(PERIODIC["residual"][0], (2, 5))
    short, stack = layers.shortened(captured) or pytest.fail("nothing repeats")
    families = session._derived(short, session._Clock(None))[0]
    one = next(f for f in families if stack.units(f.site) == {0})
    far = replace(one, parameters=("layers.1.inner.0.weight", "layers.8.inner.0.weight"))
    all_three = replace(one, note="layers.1 and layers.2 and layers.8")
    for wrong in ([*families, far], [f for f in families if f != one], [*families, all_three]):
        with pytest.raises(NotPeriodic):
            stack.told(wrong)


def test_a_wrong_tale_is_caught_on_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is told fails on the network itself, the network is derived as a whole."""
    captured = traced(PERIODIC["residual"][0], (2, 5))
    right = session.discover_captured(captured, "", session._Clock(None), False)
    honest = Stack.told

    def wrong(self: Stack, found: list) -> list:  # type: ignore[type-arg]
        return [replace(f, moves=f.moves[:1]) if hasattr(f, "moves") and "layers.5" in f.site else f for f in honest(self, found)]

    monkeypatch.setattr(Stack, "told", wrong)
    assert session.discover_captured(captured, "", session._Clock(None), False).symmetries == right.symmetries


@pytest.mark.parametrize("name", PERIODIC)
def test_discover_says_the_same_with_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape, _ = PERIODIC[name]
    captured = traced(model, shape)
    short = session.discover_captured(captured, "", session._Clock(None), False)
    monkeypatch.setattr(layers, "shortened", lambda _: None)
    whole = session.discover_captured(captured, "", session._Clock(None), False)
    assert short.symmetries == whole.symmetries and short.discrete == whole.discrete and short.broken == whole.broken
    assert short.orbit_dimension == whole.orbit_dimension
