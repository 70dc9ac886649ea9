"""Weights that a network makes from its parameters before it reads them: named families alone against the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute import InputMaker, fibre, randomise
from networks import ready
from networks.base import floats
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import symdisc
from symdisc.conserved.pairing import pairing
from symdisc.moves import Chart, Index, Move

normed = parametrizations.weight_norm


class Made(nn.Module):
    """A layer whose weight is ``make(v, g)``; ``more`` lets something else see g or v."""

    def __init__(self, i: int, o: int, make: Callable[[Tensor, Tensor], Tensor], more: str = "") -> None:
        super().__init__()
        self.v, self.g, self.bias = nn.Parameter(torch.randn(o, i)), nn.Parameter(torch.randn(o, 1)), nn.Parameter(torch.randn(o))
        self.make, self.more = make, more

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.make(self.v, self.g), self.bias)
        return y + self.g[:, 0].square() if self.more == "size" else y * self.v.square().sum() if self.more == "length" else y


def rows(v: Tensor, g: Tensor) -> Tensor:
    return g * v / v.norm(dim=1, keepdim=True)


class Shared(nn.Module):
    """One normalised square layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mid, self.c = nn.Linear(3, 4), normed(nn.Linear(4, 4)), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.mid(torch.relu(self.mid(torch.relu(self.a(x)))))))


def conv(dim: int | None, groups: int = 1) -> nn.Module:
    inner = normed(nn.Conv1d(4, 4, 2, groups=groups), dim=dim)
    return nn.Sequential(nn.Conv1d(2, 4, 1), nn.LeakyReLU(0.2), inner, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8, 2))


def pair(make: Callable[[Tensor, Tensor], Tensor], act: Callable[[], nn.Module] = nn.ReLU, more: str = "") -> nn.Module:
    return nn.Sequential(Made(4, 5, make, more), act(), nn.Linear(5, 4))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    # model, input shape, discrete groups: fibre by the oracle
    "relu": (lambda: nn.Sequential(normed(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 4)), (4,), ("S_5", "(Z_2)^5")),
    "both": (lambda: nn.Sequential(normed(nn.Linear(4, 5)), nn.Tanh(), normed(nn.Linear(5, 3))), (4,),
             ("S_5", "(Z_2)^5", "(Z_2)^5", "(Z_2)^3")),
    "linear": (lambda: nn.Sequential(normed(nn.Linear(4, 3)), normed(nn.Linear(3, 5))), (4,), ("(Z_2)^3", "(Z_2)^5")),
    "norm": (lambda: nn.Sequential(normed(nn.Linear(3, 4)), nn.LayerNorm(4), normed(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)), (3,),
             ("S_5", "(Z_2)^5", "(Z_2)^4", "(Z_2)^5")),
    "whole": (lambda: nn.Sequential(normed(nn.Linear(4, 3), dim=None), nn.Linear(3, 5)), (4,), ("Z_2",)),
    "shared": (Shared, (3,), ("S_4", "(Z_2)^4")),
    "conv rows": (lambda: conv(0), (2, 3), ("S_4", "S_4", "(Z_2)^4")),
    "conv inputs": (lambda: conv(1), (2, 3), ("S_4", "S_4", "(Z_2)^4")),
    "by hand": (lambda: pair(rows), (4,), ("S_5", "(Z_2)^5")),
    "unit rows": (lambda: pair(lambda v, g: F.normalize(v, dim=1) * 1.5), (4,), ("S_5",)),
}


def discovered(model: nn.Module, shape: tuple[int, ...], seed: int = 3) -> tuple[nn.Module, InputMaker, symdisc.Catalog]:
    inputs = floats(*shape, spread=1.0)
    double = randomise(model, seed)
    return double, inputs, symdisc.discover(double, inputs(0), solve=False)


def far(model: nn.Module, cat: symdisc.Catalog) -> None:
    """The sampled element keeps the function, moves the weights, is undone by its inverse and survives JSON."""
    element, state = cat.sample(seed=1, scale=0.3), {k: v.clone() for k, v in model.state_dict().items()}
    assert cat.verify(model, element).max_relative_change < 1e-9
    moved = cat.apply(state, element)
    assert any(float((moved[k] - v).abs().max()) > 1e-2 for k, v in state.items())
    back = cat.apply(moved, cat.inverse(element))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


@pytest.mark.parametrize("name", CASES)
def test_families_on_normalised_weights(name: str) -> None:
    make, shape, groups = CASES[name]
    torch.manual_seed(3)
    model, inputs, cat = discovered(make(), shape)
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension and cat.broken == ()
    assert sorted(d.group for d in cat.discrete) == sorted(groups)
    assert all(s.status == "proved" for s in cat.symmetries)
    far(model, cat)


OTHER: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {
    # what looks like it and is not: named dimension (0 where the weight could follow, but no name says how), permutations
    "sum of sizes": (lambda: pair(lambda v, g: g * v / v.abs().sum(1, keepdim=True)), 5, ()),
    "one added": (lambda: pair(lambda v, g: g * v / (1 + v.norm(dim=1, keepdim=True))), 0, ()),
    "size seen": (lambda: pair(rows, more="size"), 5, ()),
    "length seen": (lambda: pair(rows, nn.Tanh, more="length"), 0, ()),
    "positive": (lambda: pair(lambda v, g: F.softplus(v)), 5, ("S_5",)),
    "tables": (lambda: pair(lambda v, g: v * torch.linspace(0.5, 1.5, 5)[:, None].double().exp()), 0, ()),
    "spectral": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)).eval(), 1, ()),
    "standardised": (lambda: pair(lambda v, g: (v - v.mean(1, keepdim=True)) / v.std(1, keepdim=True), nn.Tanh), 5, ("S_5",)),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_maps_of_weights(name: str) -> None:
    """Nothing is claimed that does not hold, and nothing is refused after it was claimed."""
    make, dimension, groups = OTHER[name]
    torch.manual_seed(3)
    model, _, cat = discovered(make(), (4,))
    unused = sum(s.dimension for s in cat.symmetries if s.name == "unused parameter")
    assert (cat.group_dimension - unused, cat.broken) == (dimension, ())
    assert [d.group for d in cat.discrete] == list(groups)
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9


def test_moves_through_charts_in_json() -> None:
    chart = Chart("norm", "w", "v", "g", 0)
    inner = Move("scale", "w", 1, Index(1, 3, 1, 0, (0, 1, 0)))
    move = Move("charted", "v", -1, Index(1, 1, 1), inner=(inner,), charts=(chart,))
    assert Move.from_dict(move.to_dict()) == move


def test_reports_and_gradients_of_charted_families() -> None:
    """The generator is orthogonal to the gradient, its covector pulled back through g v/|v|; no law is claimed but on plain moves."""
    torch.manual_seed(3)
    make = lambda: nn.Sequential(normed(nn.Linear(4, 3)), nn.Linear(3, 3), nn.ReLU(), normed(nn.Linear(3, 2)))  # noqa: E731
    model, inputs, cat = discovered(make(), (4,))
    model(*inputs(5)).square().sum().backward()
    gradient = {n: p.grad for n, p in model.named_parameters()}
    state = {n: p.detach() for n, p in model.named_parameters()}
    charted = [s for s in cat.symmetries if any(m.charts for m in s.moves)]
    assert len(charted) == 2
    for s in charted:
        parts = [pairing(m, gradient[m.parameter], state[m.parameter], state, s.shape) for m in s.moves]
        assert float(sum(parts).abs().max()) < 1e-10 < float(max(p.abs().max() for p in parts))
    laws = {q.symmetry.name: q.status for q in cat.conserved}
    # only what multiplies whole slices: the diagonal of the change of basis, which scales rows of W, and all units of the last layer alike
    assert [(q.status, q.form, q.dimension) for q in cat.conserved if q.symmetry in charted] == [
        ("conserved", "linear", 3), ("conserved", "linear", 1)]
    count = symdisc.count_laws(cat)
    assert count.laws == count.found == 4 + 3 + 2 and "rVert" in cat.to_latex()
    assert laws["scale without effect"] == "conserved"
    for text in (cat.to_latex(), cat.to_markdown(), cat.to_html()):
        assert "original1" in text or "original" in text
    assert "sgn" in cat.to_latex()


def test_why_not_names_what_is_stored() -> None:
    """The tanh is what denies a normalised layer its scales, not the normalisation."""
    torch.manual_seed(3)
    _, _, cat = discovered(nn.Sequential(normed(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)), (4,))
    told = [b for b in cat.why_not if "tanh" in b.breaker]
    assert told and "0.parametrizations.weight.original1" in {p for b in told for p in b.parameters}
    assert not any("weight_norm" in b.breaker for b in cat.why_not)


@pytest.mark.parametrize("name, groups", [
    ("ssm_diagonal", ["S_4", "(Z_2)^4"]), ("ssm_dense", []), ("ssm_dense_start", []), ("ssm_relu", ["S_3"])])
def test_recurrences_written_as_a_loop(name: str, groups: list[str]) -> None:
    """A state that starts at zero is a constant; a decay sigmoid(a) lets scales pass and is permuted with its units."""
    model, maker, row = ready(name)
    cat = symdisc.discover(model, maker(0), solve=False)
    lacking = {"ssm_dense_start": 3}.get(name, 0)  # translations of a learned start
    assert (cat.group_dimension, cat.broken, [d.group for d in cat.discrete]) == (row["fibre"] - lacking, (), groups)
    far(model, cat)


def test_a_mask_is_no_factor_that_an_edit_may_keep() -> None:
    """x (x > 1): what stands in place of the product is x; the mask alone would be no input of a linear map."""
    model, maker, _ = ready("mlp_step_gate")
    told = symdisc.discover(model, maker(0), solve=False).why_not
    assert {b.remedy for b in told if b.breaker == "aten.mul"} == {""}
