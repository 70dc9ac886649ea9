"""Diagonal recurrences with complex states, written in real numbers: a phase for each state, and near twins that have none."""

from __future__ import annotations

import pytest
import torch
from brute import fibre, randomise
from networks import ready
from networks.base import floats
from torch import Tensor, nn

import symdisc
from symdisc.conserved.pairing import pairing

STATES, LENGTH = 3, 5


class Complex(nn.Module):
    """h_t = (p + iq) h_(t-1) + g B x_t, y_t = Re(C h_t); the last state is read once more by what a twin adds.

    Twins change one edge: "gain" scales the real part alone, "bent" puts a tanh behind it, "readers" bends what C_re reads, "hyperbolic"
    has p re + q im in place of p re - q im, "unlike" another factor for the imaginary part, "seen" reads B_re once more, "late" gives the
    imaginary part the inputs in the opposite order, "squared" has a common factor twice in the real part, "elsewhere" uses C_re once more.
    """

    def __init__(self, twin: str = "") -> None:
        super().__init__()
        self.twin = twin
        self.p, self.q, self.r = (nn.Parameter(torch.randn(STATES)) for _ in range(3))
        self.b_re, self.b_im = (nn.Linear(2, STATES, bias=False) for _ in range(2))
        self.c_re, self.c_im = (nn.Linear(STATES, 4, bias=False) for _ in range(2))

    def step(self, re: Tensor, im: Tensor, x: Tensor, late: Tensor) -> tuple[Tensor, Tensor]:
        p, q, twin = torch.sigmoid(self.p), torch.sigmoid(self.q), self.twin
        u, w = self.b_re(x), self.b_im(late if twin == "late" else x)
        if twin == "squared":
            u, w = u * self.r * self.r, w * self.r
        new = p * re + q * im if twin == "hyperbolic" else p * re - q * im
        im = q * re + (torch.sigmoid(self.r) if twin == "unlike" else p) * im + w
        return (torch.tanh(new) if twin == "bent" else new * self.r if twin == "gain" else new) + u, im

    def forward(self, x: Tensor) -> Tensor:
        re, im, out = x.new_zeros(len(x), STATES), x.new_zeros(len(x), STATES), []
        for t in range(x.shape[1]):
            re, im = self.step(re, im, x[:, t], x[:, -1 - t])
            one, two = self.c_re(re), self.c_im(im)
            out.append((torch.tanh(one) if self.twin == "readers" else one) - two)
        y = torch.stack(out, 1)
        if self.twin == "elsewhere":
            y = y + self.c_re(torch.cat([x, x[..., :1]], -1))
        return y + self.b_re(x).sum(-1, keepdim=True) if self.twin == "seen" else y


def _found(twin: str) -> tuple[nn.Module, symdisc.Catalog, int]:
    torch.manual_seed(5)
    model, inputs = randomise(Complex(twin), 5), floats(LENGTH, 2, spread=0.5)
    if not twin:
        model.r.requires_grad_(True)
    return model, symdisc.discover(model, inputs(0), solve=False), fibre(model, inputs, seed=None).dimension


def _phases(cat: symdisc.Catalog) -> list[symdisc.Symmetry]:
    return [s for s in cat.symmetries if s.name == "phases of complex states"]


def test_a_phase_and_a_scale_for_each_state() -> None:
    model, cat, whole = _found("")
    (phases,) = _phases(cat)
    assert (phases.group, phases.dimension, phases.status) == ("SO(2)^3", STATES, "proved")
    assert phases.parameters == ("b_re.weight", "b_im.weight", "c_re.weight", "c_im.weight") and cat.broken == ()
    assert cat.group_dimension == whole  # the parameter that only a twin uses counts on both sides
    element, state = cat.sample(seed=1, scale=0.7), {k: v.clone() for k, v in model.state_dict().items()}
    assert cat.verify(model, element).max_relative_change < 1e-9
    back = cat.apply(cat.apply(state, element), cat.inverse(element))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10
    assert symdisc.Catalog.from_json(cat.to_json()) == cat and "g_{12}" in cat.to_latex()


def test_its_generator_meets_no_gradient_and_has_no_charge() -> None:
    model, cat, _ = _found("")
    (phases,) = _phases(cat)
    model(*floats(LENGTH, 2, spread=0.5)(3)).square().sum().backward()
    gradient, state = ({n: getattr(p, a) for n, p in model.named_parameters()} for a in ("grad", "data"))
    parts = [pairing(m, gradient[m.parameter], state[m.parameter], state, phases.shape) for m in phases.moves]
    total = sum(parts)
    skew = total - total.swapaxes(-1, -2)
    assert float(skew.abs().max()) < 1e-10 < 1e-3 < float((parts[0] - parts[0].swapaxes(-1, -2)).abs().max())
    (charge,) = [q for q in cat.conserved if q.symmetry == phases]
    assert charge.status == "none" and charge.constraint


@pytest.mark.parametrize("twin", ["gain", "bent", "readers", "hyperbolic", "unlike", "seen", "late", "squared", "elsewhere"])
def test_near_twins_have_no_phase(twin: str) -> None:
    model, cat, whole = _found(twin)
    assert not _phases(cat) and cat.group_dimension <= whole and not [b for b in cat.broken if "phases" in b.family]
    assert cat.verify(model, cat.sample(seed=1, scale=0.4)).max_relative_change < 1e-9


def test_both_parts_side_by_side_in_one_tensor() -> None:
    model, maker, row = ready("ssm_complex")
    cat = symdisc.discover(model, maker(0), solve=False)
    assert [s.parameters for s in _phases(cat)] == [("B.weight", "C.weight")]
    assert (cat.group_dimension, cat.broken) == (row["fibre"], ())
    assert cat.verify(model, cat.sample(seed=1, scale=0.7)).max_relative_change < 1e-9
