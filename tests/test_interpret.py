"""Running captured operators: what they make themselves has the wanted precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import symdisc
from symdisc.opgraph import Op
from symdisc.torchside.interpret import call
from symdisc.torchside.network import Wide


class _Masked(nn.Module):
    """A mask of the least float64, made in the forward pass, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        out: Tensor = self.last(h * (1.0 + torch.exp(torch.full((), torch.finfo(x.dtype).min))))
        return out


def test_made_tensors_are_as_wide_as_wanted() -> None:
    least = torch.finfo(torch.float64).min
    op = Op("full", "aten.full.default", ((), least), (), (), "float32", "")
    assert float(call(op, {}, torch.float64)) == least
    whole = Op("arange", "aten.arange.default", (3,), (), (3,), "int64", "")
    assert call(whole, {}, torch.float64).dtype == torch.int64


def test_a_float64_mask_does_not_stop_the_catalog() -> None:
    torch.manual_seed(0)
    model, x = _Masked().double(), torch.randn(4, 3, dtype=torch.float64)
    cat = symdisc.discover(model, (x,), solve=False)
    with Wide():  # the module itself cannot run in float64 without help
        assert cat.group_dimension == 4 and cat.verify(model, cat.sample(0, 0.3)).passed


def test_keyword_arguments_reach_the_module_of_a_certificate() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, mask: Tensor | None = None, gain: Tensor | None = None) -> Tensor:
            assert mask is None and gain is not None
            out: Tensor = self.b(torch.relu(self.a(x)) * gain)
            return out

    torch.manual_seed(0)
    model = Two().double()
    gain = torch.rand(4, 1, dtype=torch.float64) + 0.5
    cat = symdisc.discover(model, (torch.randn(4, 3, dtype=torch.float64), None), kwargs={"gain": gain})
    certificate = symdisc.certify(cat)
    assert certificate.fibre == certificate.found == 4 and cat.verify(model, cat.sample(0, 0.3)).passed
