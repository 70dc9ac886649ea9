"""A forward that an author registers for export: used while the model is captured, only there, and only if it is the same function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.errors import BadInput, CaptureError
from symdisc.torchside.capture import capture

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Routed(nn.Module):
    """Each row goes through the expert that its router scores highest: a loop over the experts that are hit."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(4, 3), nn.ModuleList(
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        out = x.new_zeros(len(x), 2)
        for k in chosen.unique().tolist():
            out[chosen == k] = self.experts[k](x[chosen == k])
        return out


def dense(self: Any, x: Tensor) -> Tensor:
    weights = torch.nn.functional.one_hot(self.router(x).argmax(-1), 3).to(x.dtype)
    return torch.stack([e(x) for e in self.experts], -1).mul(weights.unsqueeze(1)).sum(-1)


def first_only(self: Any, x: Tensor) -> Tensor:
    return self.experts[0](x) + 0.0 * self.router(x).sum()


def _model(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(kind(), nn.Tanh()).double()


def test_without_a_hook_the_control_flow_is_refused_and_with_it_captured() -> None:
    class Mine(Routed):
        def forward(self, x: Tensor) -> Tensor:
            return Routed.forward(self, x)

    model = _model(Mine)
    with pytest.raises(CaptureError):
        capture(model, (X,))
    assert symdisc.exportable(Mine, dense) is dense
    found = capture(model, (X,))
    assert "aten.argmax" in {op.packet for op in found.graph.ops} and found.size == sum(p.numel() for p in model.parameters())
    assert "forward" not in vars(model[0])  # the model itself is left as it was


def test_scales_of_the_units_of_every_expert_are_found() -> None:
    class Mine(Routed):
        def forward(self, x: Tensor) -> Tensor:
            return Routed.forward(self, x)

    symdisc.exportable(Mine)(dense)
    model = _model(Mine)
    cat = symdisc.discover(model, (X,), solve=False)
    scales = [s for s in cat.symmetries if s.name == "scaling of hidden units"]
    assert sum(s.dimension for s in scales) == 15
    assert cat.verify(model, cat.sample(seed=1, scale=0.2)).passed


def test_a_forward_that_computes_something_else_is_refused() -> None:
    class Mine(Routed):
        def forward(self, x: Tensor) -> Tensor:
            return Routed.forward(self, x)

    symdisc.exportable(Mine, first_only)
    with pytest.raises(CaptureError, match=r"registered for Mine gives other outputs than the module '0' itself"):
        capture(_model(Mine), (X,))


def test_a_subclass_with_a_forward_of_its_own_keeps_it() -> None:
    class Mine(Routed):
        def forward(self, x: Tensor) -> Tensor:
            return Routed.forward(self, x)

    class Plain(Mine):
        def forward(self, x: Tensor) -> Tensor:
            return self.experts[0](x)

    symdisc.exportable(Mine, first_only)
    assert "aten.relu" in {op.packet for op in capture(_model(Plain), (X,)).graph.ops}


def test_only_classes_of_modules() -> None:
    with pytest.raises(BadInput, match="takes a class of modules"):
        symdisc.exportable(nn.ReLU(), dense)  # type: ignore[arg-type]
