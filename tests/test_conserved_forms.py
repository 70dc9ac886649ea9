"""Every closed form of a conserved quantity, on a small network that has it: constant along a flow of high order, its twins are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import symdisc
from symdisc.conserved import ConservedQuantity
from symdisc.generators import Generator

State = dict[str, Tensor]
KEPT, BROKEN = 1e-10, 1e-6


class Net(nn.Module):
    """Parameters of given shapes, frozen where the name ends with "_", and what is done with them."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], call: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape), requires_grad=not name.endswith("_")))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def recurrent(p: Net, x: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 3)
    for step in x.unbind(1):
        h = h @ p.A.T + step @ p.B.T
    return h @ p.C.T


def normalised(p: Net, x: Tensor) -> Tensor:
    """Batch statistics without eps: what is in front has a scale and a constant that do nothing."""
    x = x @ p.W.T + p.b
    x = x - x.mean(0)
    return torch.relu(p.gamma * x / (x * x).mean(0).sqrt() + p.beta) @ p.U.T


def attention(p: Net, x: Tensor, rotary: bool = True) -> Tensor:
    """Two query heads on one head of keys and values."""
    q, k, v = (F.linear(x, w, b) for w, b in ((p.Q, None), (p.K, None if rotary else p.c), (p.V, None)))
    q = q.unflatten(-1, (2, 4)).transpose(1, 2)
    if rotary:
        q, k = turned(q), turned(k)
    scores = torch.softmax(q @ k[:, None].transpose(-1, -2) / 2, -1)
    return (scores @ v[:, None]).transpose(1, 2).flatten(2) @ p.O.T


def turned(x: Tensor) -> Tensor:
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.3], dtype=x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def experts(p: Net, x: Tensor) -> Tensor:
    gate = torch.softmax(x @ p.R.T + p.r, -1)
    return torch.einsum("ne,nef,edf->nd", gate, torch.relu(torch.einsum("efd,nd->nef", p.up, x)), p.down)


def dense(*sizes: int, act: type[nn.Module] = nn.Identity, bias: bool = True, normed: tuple[int, ...] = ()) -> nn.Module:
    layers: list[nn.Module] = []
    for i, (n, m) in enumerate(pairwise(sizes)):
        layer: nn.Module = nn.Linear(n, m, bias=bias)
        layers += [parametrizations.weight_norm(layer) if i in normed else layer, act()]
    return nn.Sequential(*layers[:-1])


ATTENTION = {"Q": (8, 5), "K": (4, 5), "V": (3, 5), "O": (5, 6)}
LOW = {"A": (2, 5), "B": (4, 2)}
# name -> (network, shape of its input, number of conserved numbers)
FORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "symmetric matrix of linear layers": (lambda: dense(3, 2, 3, bias=False), (6, 3), 3),
    "with a bias": (lambda: dense(3, 2, 3), (6, 3), 3),
    "one per ReLU unit": (lambda: dense(3, 4, 2, act=nn.ReLU), (6, 3), 4),
    "degree three": (lambda: Net({"W": (4, 3), "U": (2, 4)}, lambda p, x: (x @ p.W.T) ** 3 @ p.U.T), (6, 3), 4),
    "channels": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 2)), (2, 1, 5, 5), 2),
    "gated units": (lambda: Net({"G": (4, 3), "W": (4, 3), "U": (2, 4)}, lambda p, x: (F.silu(x @ p.G.T) * (x @ p.W.T)) @ p.U.T),
                    (6, 3), 4),
    "tied embedding": (lambda: Net({"E": (6, 3), "W": (3, 3)}, lambda p, x: x @ p.E @ p.W.T @ p.E.T), (5, 6), 6),
    "rotary planes, a group of heads": (lambda: Net(ATTENTION, attention), (2, 4, 5), 2 + 6),
    "heads with a key bias": (lambda: Net({**ATTENTION, "c": (4,)}, lambda p, x: attention(p, x, False)), (2, 4, 5), 10 + 6 + 4),
    "gain and reader": (lambda: Net({"g": (4,), "U": (3, 4)}, lambda p, x: F.rms_norm(x, (4,), p.g, 1e-5) @ p.U.T), (6, 4), 4),
    "mean in front of a layer norm": (lambda: Net({"W": (4, 3), "U": (2, 4)}, lambda p, x: F.layer_norm(x @ p.W.T, (4,)) @ p.U.T),
                                      (6, 3), 3 + 2),
    "batch norm": (lambda: Net({"W": (4, 3), "b": (4,), "gamma": (4,), "beta": (4,), "U": (2, 4)}, normalised), (8, 3), 12),
    "batch norm, fixed statistics": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval(),
                                     (6, 3), 8),
    "softmax": (lambda: Net({"W": (3, 4), "b": (3,)}, lambda p, x: torch.softmax(x @ p.W.T + p.b, -1)), (6, 4), 5),
    "experts and router": (lambda: Net({"R": (2, 3), "r": (2,), "up": (2, 2, 3), "down": (2, 3, 2)}, experts), (6, 3), 4 + 4),
    "linear recurrence": (lambda: Net({"A": (3, 3), "B": (3, 2), "C": (2, 3)}, recurrent), (3, 4, 2), 6),
    "adapter": (lambda: Net({"W": (4, 5), **LOW}, lambda p, x: torch.tanh(x @ p.W.T + x @ p.A.T @ p.B.T)), (6, 5), 3),
    "adapter of a frozen weight": (lambda: Net({"W_": (4, 5), **LOW}, lambda p, x: torch.tanh(x @ p.W_.T + x @ p.A.T @ p.B.T)), (6, 5), 3),
    "weight norm": (lambda: dense(3, 4, 2, act=nn.ReLU, normed=(0,)), (6, 3), 8),
    "weight norm twice": (lambda: dense(3, 4, 2, act=nn.ReLU, normed=(0, 1)), (6, 3), 1 + 4 + 2),
}  # fmt: skip


def drawn(name: str) -> tuple[nn.Module, Tensor, symdisc.Catalog]:
    make, shape, _ = FORMS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = make().double()
        for p in model.parameters():
            nn.init.normal_(p, std=0.6)
        for n, b in model.named_buffers():
            nn.init.uniform_(b, 0.5, 1.5) if b.is_floating_point() and "running" in n else None
        x = torch.randn(shape, dtype=torch.float64)
    return model, x, symdisc.discover(model, (x,), solve=False)


def flowed(model: nn.Module, x: Tensor, length: float) -> tuple[State, State]:
    """The state before and after about ``length`` of gradient flow on a random loss, by a method of order eight."""
    start = {n: t.detach().clone() for n, t in model.state_dict().items()}
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    sizes = [start[n].numel() for n in trained]
    weights = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)

    def unpacked(flat: np.ndarray) -> State:
        return {**start, **{n: t.view(start[n].shape) for n, t in zip(trained, torch.as_tensor(flat).split(sizes), strict=True)}}

    def field(_: float, flat: np.ndarray) -> np.ndarray:
        state = unpacked(flat)
        leaves = [state[n].clone().requires_grad_(True) for n in trained]
        out = torch.func.functional_call(model, {**state, **dict(zip(trained, leaves, strict=True))}, (x,))
        slopes = torch.autograd.grad((torch.cosh(0.5 * out - weights) + weights * out).sum(), leaves)
        return -torch.cat([s.reshape(-1) for s in slopes]).numpy()

    flat = torch.cat([start[n].reshape(-1) for n in trained]).numpy()
    until = length / float(np.linalg.norm(field(0.0, flat)))
    solved = solve_ivp(field, (0.0, until), flat, method="DOP853", rtol=1e-12, atol=1e-13)
    assert solved.success
    return start, unpacked(solved.y[:, -1])


def change(q: ConservedQuantity, start: State, end: State) -> float:
    return float(abs(q.evaluate(end) - q.evaluate(start)).max())


def twins(q: ConservedQuantity) -> list[tuple[ConservedQuantity, ConservedQuantity]]:
    """(one term alone, Q with its sign turned) for each term."""
    if q.generators:
        parts = q.generators[0].parts
        turned = [replace(p, entries=tuple((i, j, -v) for i, j, v in p.entries)) for p in parts]
        return [(replace(q, generators=(Generator((p,)),)), replace(q, generators=(Generator((*parts[:k], turned[k], *parts[k + 1:])),)))
                for k, p in enumerate(parts)]
    return [(replace(q, terms=(t,)), replace(q, terms=(*q.terms[:k], replace(t, weight=-t.weight), *q.terms[k + 1:])))
            for k, t in enumerate(q.terms)]


def without_one_entry(q: ConservedQuantity, start: State, end: State) -> float:
    """How Q changes when the entry that moved most, of those that it reads, is left out at both ends."""
    leaves = {n: end[n].clone().requires_grad_(True) for n in q.parameters}
    q.evaluate({**end, **leaves}).square().sum().backward()
    moved = {n: (abs(end[n] - start[n]) * (leaves[n].grad != 0)) for n in q.parameters}
    name = max(moved, key=lambda n: float(moved[n].max()))
    hole = torch.ones_like(end[name]).flatten().index_fill(0, moved[name].argmax(), 0.0).view(end[name].shape)
    return change(q, {**start, name: start[name] * hole}, {**end, name: end[name] * hole})


@pytest.mark.parametrize("name", FORMS)
def test_constant_along_the_flow_and_twins_are_not(name: str) -> None:
    """A twin has one wrong sign, of a term that is not constant by itself; where there is none, one entry is missing."""
    model, x, cat = drawn(name)
    start, end = flowed(model, x, 0.05)
    found = [q for q in cat.conserved if q.form and q.status == "conserved"]
    assert sum(q.dimension for q in found) == FORMS[name][2]
    for q in found:
        assert change(q, start, end) < KEPT * max(1.0, float(abs(q.evaluate(start)).max())), q.name
        wrong = [twin for alone, twin in twins(q) if change(alone, start, end) > BROKEN]
        assert all(change(twin, start, end) > BROKEN for twin in wrong), q.name
        if not wrong and any(float(abs(end[n] - start[n]).max()) > BROKEN for n in q.parameters):
            assert without_one_entry(q, start, end) > BROKEN, q.name


# --- torch's BatchNorm in train mode ------------------------------------------------------------------------------------------
TINY, PLAIN = 1e-40, 0.1  # torch refuses eps = 0; the first is nothing beside a variance in float64
NORMED: dict[str, tuple[Callable[[float], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda eps: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=eps), nn.ReLU(), nn.Linear(4, 2)), (8, 3)),
    "convolution": (lambda eps: nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3, eps=eps), nn.Tanh(), nn.Flatten(),
                                              nn.Linear(12, 2)), (6, 1, 3, 3)),
}


def trained(name: str, eps: float) -> tuple[nn.Module, Tensor, symdisc.Catalog]:
    make, shape = NORMED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, x = make(eps).double().train(), torch.randn(shape, dtype=torch.float64)
        return model, x, symdisc.discover(model, (x,))


def lengths(state: State) -> Tensor:
    return state["0.weight"].flatten(1).square().sum(1)


@pytest.mark.parametrize("name", NORMED)
def test_weights_in_front_of_batch_norm_keep_their_length_in_training(name: str) -> None:
    model, x, cat = trained(name, TINY)
    found = [q for q in cat.conserved if q.status == "conserved" and q.parameters == ("0.weight",)]
    units = len(model.get_parameter("0.weight"))
    assert sum(q.dimension for q in found) == units
    count = symdisc.count_laws(cat)
    assert count.laws == count.found == symdisc.certify(cat).fibre
    start, end = flowed(model, x, 0.3)
    assert float((end["0.weight"] - start["0.weight"]).abs().max()) > 1e-2
    assert float((lengths(end) - lengths(start)).abs().max()) < KEPT and all(change(q, start, end) < KEPT for q in found)
    draws = [{**start, "0.weight": torch.randn_like(start["0.weight"])} for _ in range(3 * units)]
    values = torch.stack([torch.cat([q.evaluate(s).reshape(-1) for q in found]) for s in draws])
    squares = torch.stack([lengths(s) for s in draws])
    assert torch.allclose(squares @ torch.linalg.lstsq(squares, values).solution, values, atol=1e-9)  # nothing but the squared lengths


@pytest.mark.parametrize("name", NORMED)
def test_with_an_eps_that_counts_their_length_is_not_kept(name: str) -> None:
    model, x, cat = trained(name, PLAIN)
    assert not [q for q in cat.conserved if q.form and "0.weight" in q.parameters]
    start, end = flowed(model, x, 0.3)
    assert float((lengths(end) - lengths(start)).abs().min()) > BROKEN
