"""What whole numbers an input may take: time steps, labels, pixels, indices computed before they are looked up, bits, masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from brute import InputMaker, generic_fibre
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import symdisc
from symdisc.torchside.capture import capture
from symdisc.torchside.domains import held, ranges
from symdisc.torchside.draws import draw

Second = Callable[["Beside", Tensor], Tensor]


class Beside(nn.Module):
    """tanh(A x + a + what is made of the second input), read by a linear map: the constant is there twice."""

    def __init__(self, second: Second, width: int) -> None:
        super().__init__()
        self.a, self.b, self.o, self.second = nn.Linear(3, 4), nn.Linear(width, 4), nn.Linear(4, 2), second
        self.e = nn.Embedding(6, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.o(torch.tanh(self.a(x) + self.b(self.second(self, y))))


def waves(_: Beside, t: Tensor) -> Tensor:
    w = t[:, None] * torch.tensor([1.0, 0.3], dtype=torch.float64)
    return torch.cat([w.sin(), w.cos()], -1)


def scattered(_: Beside, y: Tensor) -> Tensor:
    return torch.zeros(len(y), 5, dtype=torch.float64).scatter(1, y[:, None], 1.0)


# what is made of the second input, its width, the example, its range, the fibre dimension but for the four constants traded
CASES: dict[str, tuple[Second, int, Tensor, tuple[int, int], int]] = {
    "time step": (waves, 4, torch.tensor([3, 17]), (0, 34), 0),
    "time step cast": (lambda m, t: torch.stack([t.double().cos(), t.double() ** 2 / 50], -1), 2, torch.tensor([3, 17]), (0, 34), 0),
    "signed": (lambda m, t: t[:, None].double() * 0.1, 1, torch.tensor([-3, 4]), (-15, 15), 0),
    "label": (lambda m, y: F.one_hot(y, 5).double(), 5, torch.tensor([1, 3]), (0, 4), 4),  # columns that sum to one trade with the bias
    "label compared": (lambda m, y: (y[:, None] == torch.arange(5)).double(), 5, torch.tensor([1, 3]), (0, 4), 4),
    "label scattered": (scattered, 5, torch.tensor([1, 3]), (0, 4), 4),
    "index moved": (lambda m, y: m.e(y + 1), 2, torch.tensor([1, 3]), (-1, 4), 2 * 3),  # a change of basis, and a shift of the table
    "index doubled": (lambda m, y: m.e(2 * y), 2, torch.tensor([1, 2]), (0, 2), 2 * 3 + 2 * 3),  # three rows are never looked up
    "pixels": (lambda m, u: u.double() / 255, 5, torch.tensor([[0, 9, 255, 3, 7], [1, 8, 2, 77, 130]], dtype=torch.uint8), (0, 255), 0)}


def made(name: str) -> tuple[Beside, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    second, width, example, _, _ = CASES[name]
    return Beside(second, width).double(), (torch.randn(2, 3, dtype=torch.float64), example)


@pytest.mark.parametrize("name", CASES)
def test_whole_numbers_vary(name: str) -> None:
    model, (x, y) = made(name)
    low, high = CASES[name][3]
    graph = capture(model, (x, y)).graph
    assert ranges(graph, (x, y)) == {"y": (low, high)} and not held(graph, (x, y))
    drawn = torch.stack([draw(graph, (x, y), seed)[1] for seed in range(150)])
    assert (int(drawn.min()) < low + 3, int(drawn.max()) > high - 3) == (True, True)
    inputs: InputMaker = lambda seed: draw(graph, (x.repeat(4, 1), y.repeat(4, *[1] * (y.dim() - 1))), seed)  # noqa: E731
    cat = symdisc.discover(model, (x, y))
    unused = 0 if "index" in name else model.e.weight.numel()
    expected = 4 + CASES[name][4] + unused
    assert generic_fibre(model, inputs).dimension == expected
    certificate = symdisc.certify(cat)
    assert (certificate.found, certificate.fibre, cat.notes) == (expected, expected, ())
    moved = cat.apply(model.state_dict(), cat.sample(0, 0.3))
    for seed in range(20):
        given = inputs(1000 + seed)
        assert float((functional_call(model, moved, given) - model(*given)).detach().abs().max()) < 1e-10


def test_features_of_zeros_and_ones_are_no_mask() -> None:
    torch.manual_seed(0)
    model, x = Beside(lambda m, y: y, 5), (torch.randn(2, 3), torch.eye(5)[:2])
    cat = symdisc.discover(model, x)
    unused = model.e.weight.numel()
    assert (cat.orbit_dimension, symdisc.certify(cat).complete, cat.notes) == (4 + unused, True, ())
    given = torch.randn(2, 3), torch.randn(2, 5)
    moved = cat.apply(model.state_dict(), cat.sample(0, 0.3))
    assert float((functional_call(model, moved, given) - model(*given)).detach().abs().max()) < 1e-5


def test_pixels_alone_vary() -> None:
    """Where whole numbers are all that a network is given, they are no switches either."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, u: Tensor) -> Tensor:
            return self.net(u.double() / 255 - 0.5)  # type: ignore[no-any-return]

    cat = symdisc.discover(Pixels(), (torch.randint(0, 256, (2, 3, 2, 2), dtype=torch.uint8),))
    assert (cat.orbit_dimension, symdisc.certify(cat).fibre) == (0, 0) and cat.discrete


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p, self.a = nn.Parameter(torch.randn(3, 4)), nn.Linear(2, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.tanh(((self.a(x) + self.p) * mask[..., None]).sum(1))


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int64])
def test_masks_stay_and_the_catalog_says_so(kind: torch.dtype) -> None:
    x, mask = torch.randn(2, 3, 2), torch.tensor([[1, 1, 0]] * 2).to(kind)
    cat = symdisc.discover(Kept(), (x, mask))
    assert cat.notes == ("held as in the example: mask; at other values of this input less may hold",)
    assert "held as in the example: mask" in cat.to_markdown()
    assert not symdisc.discover(nn.Linear(2, 2), (x,)).notes


def test_an_adjacency_stays() -> None:
    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.b(edges @ torch.relu(edges @ self.a(x)))  # type: ignore[no-any-return]

    x, edges = torch.randn(3, 3), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    graph = capture(Convolved(), (x, edges)).graph
    assert not ranges(graph, (x, edges)) and list(held(graph, (x, edges))) == ["edges"]


def test_a_date_in_seconds_is_a_quantity() -> None:
    """All values between it and zero are too many to look at."""
    torch.manual_seed(0)
    model, x = Beside(lambda m, t: t[:, None].double() * 1e-9, 1).double(), torch.randn(2, 3, dtype=torch.float64)
    y = torch.tensor([1_700_000_000, 1_700_000_777])
    graph = capture(model, (x, y)).graph
    assert ranges(graph, (x, y)) == {"y": (0, 2 * 1_700_000_777)}
    looked = capture(Beside(lambda m, t: m.e(t % 6), 2).double(), (x, y)).graph
    assert ranges(looked, (x, y)) == {} and list(held(looked, (x, y))) == ["y"]
