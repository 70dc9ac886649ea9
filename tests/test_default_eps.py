"""RMSNorm without an eps: torch takes that of the number format, while symdisc runs networks in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symdisc
from symdisc.report.features import features
from symdisc.symmetry import Element, Factor
from symdisc.torchside.capture import capture
from symdisc.torchside.checkpoint import Checkpoint, fit_names, transform
from symdisc.torchside.compare import change, compare
from symdisc.torchside.decompose import default_eps
from symdisc.torchside.interpret import evaluate
from symdisc.torchside.miniature import make_decidable
from symdisc.torchside.network import Wide
from symdisc.torchside.sources import Source
from symdisc.torchside.teleport_files import read_data
from symdisc.torchside.twins import twins


class Stream(nn.Module):
    """A residual stream that is read through norms only: with eps = 0 its scale is one more symmetry."""

    def __init__(self, eps: float | None, called: bool = False) -> None:
        super().__init__()
        self.first, self.up, self.down, self.last = (nn.Linear(n, m, bias=b) for n, m, b in
                                                    ((5, 4, True), (4, 6, False), (6, 4, False), (4, 3, True)))
        self.norms = nn.ModuleList(nn.RMSNorm(4, eps, elementwise_affine=not called) for _ in range(2))
        self.eps, self.called = eps, called

    def norm(self, k: int, x: Tensor) -> Tensor:
        return F.rms_norm(x, (4,), eps=self.eps) if self.called else torch.as_tensor(self.norms[k](x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.as_tensor(self.last(self.norm(1, x + self.down(F.relu(self.up(self.norm(0, x)))))))


class Curved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.cumsum(-1) + torch.sin(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [False, True])
def test_the_graph_says_what_torch_takes(dtype: torch.dtype, gain: bool) -> None:
    """Read off torch's own values at small numbers, where eps is a large part of what is divided by."""
    small = torch.full((2, 4), 1e-8 if dtype == torch.float64 else 1e-4, dtype=dtype)
    taken = (small.double() / torch.rms_norm(small, [4]).double()).square() - small.double().square()
    assert torch.allclose(taken, torch.full_like(taken, default_eps(dtype)), rtol=2.0 ** -6)
    captured = capture(nn.RMSNorm(4, elementwise_affine=gain).to(dtype), (small,))
    (core,) = [op for op in captured.graph.ops if op.packet == "aten.rms_norm"]
    assert core.args[3] == default_eps(dtype)


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(("eps", "scales"), [(None, 0), (1e-6, 0), (0.0, 1)])
@pytest.mark.parametrize("solve", [False, True])
def test_a_scale_that_eps_breaks_is_not_listed(eps: float | None, called: bool, scales: int, solve: bool) -> None:
    torch.manual_seed(0)
    model, x = Stream(eps, called), torch.randn(6, 5)
    cat = symdisc.discover(model, (x,), solve=solve)
    certificate = symdisc.certify(cat)
    expected = (12 if called else 20) + scales  # O(4), six units, two gains into what reads them; and the common scale
    assert certificate.found == certificate.fibre == cat.group_dimension == expected
    assert not [s for s in cat.symmetries if s.family == "linear"]


@pytest.mark.parametrize("called", [False, True])
def test_module_and_graph_are_one_function_in_float64(called: bool) -> None:
    torch.manual_seed(0)
    model, x = Stream(None, called), 1e-4 * torch.randn(6, 5)
    with torch.no_grad():
        model.first.bias.zero_()
    captured = capture(model, (x,))
    env = {n: captured.tensors[n].double() for n in captured.tensors} | {captured.graph.inputs[0]: x.double()}
    out = evaluate(captured.graph.ops, env, captured.graph.outputs, torch.float64)[captured.graph.outputs[0]]
    double, small = model.double(), x.double()
    with Wide():
        same = double(small)
    assert float((out - same).detach().abs().max()) < 1e-12 < 1e-6 < float((out - double(small)).detach().abs().max())


def test_it_can_be_raised_and_set_to_zero() -> None:
    model = Stream(None)
    ((what, twin), *_) = twins(model)
    assert what == "eps = 0 in the norms" and [n.eps for n in twin.modules() if isinstance(n, nn.RMSNorm)] == [0.0, 0.0]
    make_decidable(model)
    assert [n.eps for n in model.modules() if isinstance(n, nn.RMSNorm)] == [0.05, 0.05]


def test_files_are_compared_with_the_eps_they_were_trained_with() -> None:
    """A table behind the norm: its rows make up for a gain that moves, by that eps alone."""
    torch.manual_seed(0)
    model, ids = nn.Sequential(nn.Embedding(5, 3), nn.RMSNorm(3), Curved(), nn.Linear(3, 4)), torch.tensor([[0, 1, 2, 3, 4]])
    cat = symdisc.discover(model, (ids,))
    file = Checkpoint(Path("model.safetensors"), {n: t.clone() for n, t in model.state_dict().items()}, {})
    fit = fit_names(cat, file)
    (which,) = [k for k, s in enumerate(cat.symmetries) if s.family == "translation"]
    element = Element((Factor("continuous", which, 0.1 * np.ones(3)),))
    after = transform(cat, file, fit, element)
    assert compare(cat, Source("table", model, (ids,)), file, after, fit).max_relative_change < 1e-6
    states = [{n: t.double() for n, t in f.tensors.items()} for f in (file, after)]
    assert change(model.double(), states[0], states[1], [(ids,)]) > 1e-2  # with the eps of float64


def test_a_loss_read_from_files_keeps_it() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 4, bias=False), nn.RMSNorm(4), nn.Linear(4, 2)), 1e-4 * torch.randn(6, 5)
    stored = float(model(x).detach().square().mean()) / 2
    state = {n: p.detach().double() for n, p in model.named_parameters()}
    loss = read_data(Source("table", model, (x,)), None).loss
    assert float(loss.function(state)) == pytest.approx(stored, rel=1e-5)
    assert float(model(x.double()).detach().square().mean()) / 2 != pytest.approx(stored, rel=1e-3)  # with the eps of float64


NORMS = {"layer": (nn.LayerNorm(4), "1e-05"), "bare layer": (nn.LayerNorm(4, elementwise_affine=False), "1e-05"),
         "its own": (nn.LayerNorm(4, eps=1e-3), "0.001"), "bare group": (nn.GroupNorm(2, 4, affine=False), "1e-05"),
         "rms": (nn.RMSNorm(4), "1.19209e-07"), "rms at zero": (nn.RMSNorm(4, eps=0.0), "0")}


@pytest.mark.parametrize("name", NORMS)
def test_comparisons_tell_the_number(name: str) -> None:
    norm, told = NORMS[name]
    graph = capture(nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2)), (torch.randn(2, 3),)).graph
    (feature,) = [f for f in features(graph) if f.name == "eps of norms"]
    assert told in feature.value.split()
