"""Decomposition call by call gives the graph that decomposing the whole program gives; where it cannot, it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symdisc.torchside import spliced
from symdisc.torchside.capture import capture


class Function(nn.Module):
    """A linear map, and a function of what it gives and of its weight."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.function = nn.Linear(5, 6), function
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x: Tensor) -> Any:
        return self.function(self.inner(x), self.table)


def _add_on_the_way(h: Tensor, t: Tensor) -> Tensor:
    h = h + t
    h += 1.0
    return h.relu_() * h


def _unread(h: Tensor, t: Tensor) -> Tensor:
    torch.arange(7) + t.sum()
    return h.sin()


def _halves(h: Tensor, t: Tensor) -> Tensor:
    a, b = h.chunk(2, -1)
    return torch.cat([b, a, t[:3].expand_as(a)], -1).flatten(1)


def _power(h: Tensor, t: Tensor) -> Tensor:
    return h.exp().pow_(-0.5) * t


FIT: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "perceptron": (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), (2, 5)),
    "in place": (nn.Sequential(nn.Linear(5, 8), nn.ReLU(True), nn.Linear(8, 8), nn.LeakyReLU(0.1, True), nn.Linear(8, 3)), (2, 5)),
    "in place, then read twice": (Function(_add_on_the_way), (2, 5)),
    "power in place": (Function(_power), (2, 5)),
    "what nobody reads": (Function(_unread), (2, 5)),
    "pieces": (Function(_halves), (2, 5)),
    "dropout": (nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 3)).train(), (2, 5)),
    "batch norm": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(),
                                 nn.Linear(16, 2)).eval(), (2, 2, 4, 4)),
    "norms of two shapes": (nn.Sequential(nn.LayerNorm((3, 5)), nn.Linear(5, 4), nn.LayerNorm(4), nn.LayerNorm(4), nn.GroupNorm(1, 3)),
                            (2, 3, 5)),
    "lstm": (nn.LSTM(5, 4, num_layers=2), (2, 3, 5)),
    "prelu": (nn.Sequential(nn.Linear(5, 4), nn.PReLU(), nn.PReLU()), (2, 5)),
    "encoder": (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval(), (2, 3, 8)),
}


class Turned(nn.Module):
    """What a recurrent layer gives is a view of its steps or a copy, by how it is taken apart; a reshape sees which."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0].transpose(0, 1).reshape(-1, 4)


def _view(h: Tensor, t: Tensor) -> Tensor:
    h[:, 0].add_(1.0)
    return h * t


def _behind_a_view(h: Tensor, t: Tensor) -> Tensor:
    first = h[:, :3]
    h.relu_()
    return first * t[:3]


def _buffer(h: Tensor, t: Tensor) -> Tensor:
    t.add_(1.0)
    return h * t


def _cast(h: Tensor, t: Tensor) -> Tensor:
    return (h + 1.0).mul_(t.double())


def _constant(h: Tensor, t: Tensor) -> Tensor:
    return h * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) + t


UNFIT: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "writes through a view": (Function(_view), (2, 5)),
    "is written behind a view": (Function(_behind_a_view), (2, 5)),
    "writes into a buffer": (Function(_buffer), (2, 5)),
    "casts what it writes": (Function(_cast), (2, 5)),
    "makes a constant": (Function(_constant), (2, 5)),
    "counts its batches": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).train(), (3, 5)),
    "drops in place": (nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.2, True), nn.Linear(4, 4)).eval(), (2, 5)),
    "in place by other operators": (nn.Sequential(nn.Linear(5, 4), nn.SELU(True), nn.Linear(4, 4)), (2, 5)),
    "laid out otherwise": (Turned(), (2, 3, 5)),
    "complex": (Function(lambda h, t: torch.fft.fft(h * t).real), (2, 5)),
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each capture whether its calls were taken one by one."""
    found: list[bool] = []
    honest = spliced.spliced

    def spied(program: Any, table: spliced.Table, copies: Any) -> Any:
        graph = honest(program, table, copies)
        found.append(graph is not None)
        return graph

    monkeypatch.setattr(spliced, "spliced", spied)
    return found


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("name", FIT)
def test_as_the_whole_program(name: str, cold: bool, seen: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last name, whether the calls were seen before or not."""
    model, shape = FIT[name]
    if cold:
        monkeypatch.setattr(spliced, "_kept", {})
    example = (torch.randn(shape),)
    fast = capture(model, example)
    monkeypatch.setattr(spliced, "spliced", lambda *_: None)
    whole = capture(model, example)
    assert seen == [True]
    assert fast.graph.to_json() == whole.graph.to_json()
    assert fast.tensors.keys() == whole.tensors.keys() and fast.unsaved == whole.unsaved


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_not_taken_call_by_call(name: str, seen: list[bool]) -> None:
    model, shape = UNFIT[name]
    assert capture(model, (torch.randn(shape),)).graph.ops and seen == [False]


def test_a_call_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thirty equal layers one, and none of a network whose calls were all seen."""
    monkeypatch.setattr(spliced, "_kept", {})
    traced: list[int] = []
    honest = spliced.templates

    def counted(calls: list[spliced.Call], table: spliced.Table) -> list[spliced.Template]:
        traced.append(len(calls))
        return honest(calls, table)

    monkeypatch.setattr(spliced, "templates", counted)

    def net(depth: int) -> nn.Module:
        return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU())))

    for depth in (30, 3):
        assert len(capture(net(depth), (torch.randn(2, 6),)).graph.ops) == 5 * depth
    assert traced == [1]  # layer_norm; linear and GELU stay as they are


def test_numbers_of_other_kinds_are_other_calls() -> None:
    """1, 1.0 and True are equal in Python, but not as arguments."""
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(2)
    calls = [spliced._call(graph.call_function(torch.ops.aten.add.Tensor, (x, x), {"alpha": n})) for n in (1, 1.0, True, 1)]
    assert len({c.kind for c in calls}) == 3 and calls[0].kind == calls[3].kind
