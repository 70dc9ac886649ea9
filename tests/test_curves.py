"""Parameters read through an invertible function: scalings in closed form, the elementwise law as their charge, and where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks.base import floats
from scipy import special
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import symdisc
from symdisc.curves import curve
from symdisc.errors import BadInput

Function = Callable[[Tensor], Tensor]
KEPT, BROKEN = 1e-10, 1e-5


@pytest.mark.parametrize("formula, side, odd", [
    ("tanh(x)", -1, True), ("sigmoid(x)", -1, False), ("softplus(x)", 0, False), ("1 + exp(x)", 1, False), ("3*asinh(x)/2", 0, True),
    ("erf(x)", -1, True), ("logsigmoid(x)", 0, False), ("1 - tanh(x)", -1, False), ("sqrt(1 + exp(x))", 1, False)])
def test_the_inverse_is_peeled_off_the_formula(formula: str, side: int, odd: bool) -> None:
    """sigma(back) = c sigma, back again to where it began, and the generator is the derivative in log c."""
    found = curve(formula)
    assert found is not None and (found.side, found.odd) == (side, odd)
    x, c = np.linspace(-2.0, 2.0, 13), 0.9 if side <= 0 else 1.1
    moved = found.scaled(x, c)
    assert found.scaled(moved, 1 / c) == pytest.approx(x, abs=1e-12)
    values = [curve_value(formula, v) for v in (x, moved)]
    assert values[1] == pytest.approx(c * values[0], abs=1e-14)
    step = 1e-6
    up, down = (found.scaled(x, np.exp(s * step)) for s in (1, -1))
    assert found.pushed(x) == pytest.approx((up - down) / (2 * step), rel=1e-7, abs=1e-9)
    assert found.scaled(torch.tensor(x), c).numpy() == pytest.approx(moved, abs=1e-14)


def curve_value(formula: str, x: np.ndarray) -> np.ndarray:
    """By numpy and scipy's own functions."""
    table = {"exp": np.exp, "tanh": np.tanh, "sqrt": np.sqrt, "asinh": np.arcsinh, "erf": special.erf, "sigmoid": special.expit,
             "softplus": lambda v: np.logaddexp(0.0, v), "logsigmoid": lambda v: -np.logaddexp(0.0, -v), "x": x}
    return np.asarray(eval(formula, {"__builtins__": {}}, table))


@pytest.mark.parametrize("formula", ["x**2", "silu(x)", "gelu(x)", "sin(x)", "relu(x)", "abs(x)", "1 + sigmoid(x)", "x - tanh(x)",
                                     "cosh(x)"])
def test_what_is_not_one_to_one_or_has_no_multiples_is_no_curve(formula: str) -> None:
    assert curve(formula) is None


@pytest.mark.parametrize("formula, c", [("atan(x)", 9.0), ("tanh(x)", 9.0), ("sigmoid(x)", 9.0), ("1 + exp(x)", 0.1), ("erf(x)", 9.0)])
def test_out_of_range_is_no_number(formula: str, c: float) -> None:
    """Also where the inverse goes on beyond the range, as the tangent does."""
    found = curve(formula)
    assert found is not None
    assert np.isnan(found.scaled(np.array([0.7]), c)).all() and bool(torch.isnan(found.scaled(torch.tensor([0.7]), c)).all())


class Gated(nn.Module):
    """W2 (f(a) tanh(W1 x)): a gate for each hidden unit; with ``twice`` another, f(b), in front of the tanh's own weights."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.a, self.l, self.u, self.f = nn.Parameter(torch.randn(4)), nn.Linear(3, 4), nn.Linear(4, 5), f

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.f(self.a) * torch.tanh(self.l(x)))


class Branch(nn.Module):
    """x + f(a) W x, one gate for a branch."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.a, self.l, self.f = nn.Parameter(torch.randn(1)), nn.Linear(3, 3), f

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x) + self.f(self.a) * torch.as_tensor(self.l(x))


class Positive(nn.Module):
    """W2 lrelu(f(A) x): a matrix of which every entry is read through f."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.a, self.u, self.f = nn.Parameter(torch.randn(4, 3)), nn.Linear(4, 5), f

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.u(F.leaky_relu(x @ self.f(self.a).T, 0.2)))


class Opposed(nn.Module):
    """f(a) before a ReLU and f(b) behind it: what one gains the other loses, and both ranges are bounded."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4)), f
        self.m = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.b) * torch.relu(self.f(self.a) * x)


class Table(nn.Module):
    """U f(E[i]): inputs are one-hot, so that the law at whitened input is a law of this network."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.e, self.u, self.f = nn.Embedding(6, 3), nn.Linear(3, 4, bias=False), f

    def forward(self, i: Tensor) -> Tensor:
        return torch.as_tensor(self.u(self.f(self.e(i))))


FUNCTIONS: dict[str, Function] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus,
                                  "one added": lambda v: 1 + v.exp(), "halved": lambda v: torch.tanh(0.5 * v) * 2}
NETWORKS = {"gated": Gated, "branch": Branch, "positive": Positive}


def discovered(make: Callable[[], nn.Module], example: tuple[Tensor, ...]) -> tuple[nn.Module, symdisc.Catalog]:
    torch.manual_seed(4)
    model = randomise(make(), 4)
    return model, symdisc.discover(model, example)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_scalings_through_a_function(network: str, function: str) -> None:
    """Named and proved, as many as the oracle counts; far elements keep the outputs, are undone, and survive JSON and type-setting."""
    inputs = floats(3, spread=1.0)
    model, cat = discovered(lambda: NETWORKS[network](FUNCTIONS[function]), inputs(0))
    assert cat.orbit_dimension == fibre(model, inputs, seed=None).dimension
    (s,) = [s for s in cat.symmetries if "a" in s.parameters]
    assert (s.family, s.status) == ("scale", "proved") and {m.kind for m in s.moves if m.parameter == "a"} == {"curved_scale"}
    state = model.state_dict()
    for seed in range(4):
        element = cat.sample(seed=seed, scale=0.7)
        assert cat.verify(model, element).max_relative_change < 1e-9
        moved = cat.apply(state, element)
        assert float((moved["a"] - state["a"]).abs().max()) > 1e-2
        back = cat.apply(moved, cat.inverse(element))
        assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10
    assert symdisc.Catalog.from_json(cat.to_json()) == cat and r"\sigma^{-1}" in cat.to_latex()


def test_signs_pass_through_odd_functions_alone() -> None:
    inputs = floats(3, spread=1.0)
    for function, flips in (("tanh", 8), ("sigmoid", 4)):
        model, cat = discovered(lambda f=function: Gated(FUNCTIONS[f]), inputs(0))  # type: ignore[misc]
        found = [d for d in cat.discrete if d.family == "sign"]
        assert sum(int(np.log2(d.order)) for d in found) == flips
        assert ("a" in {p for d in found for p in d.parameters}) == (function == "tanh")
        assert cat.verify(model, cat.sample(seed=2, scale=0.3)).max_relative_change < 1e-9


def test_bounded_functions_against_each_other_have_no_elements_of_their_own() -> None:
    """What shrinks one takes the other out of its range sooner or later: left to the remainder, which acts by its flow."""
    inputs = floats(4, spread=1.0)
    model, cat = discovered(lambda: Opposed(torch.sigmoid), inputs(0))
    assert not any(m.kind == "curved_scale" for s in cat.symmetries for m in s.moves)
    assert cat.orbit_dimension == fibre(model, inputs, seed=None).dimension
    model, cat = discovered(lambda: Opposed(F.softplus), inputs(0))
    assert [s.dimension for s in cat.symmetries if any(m.kind == "curved_scale" for m in s.moves)] == [4]
    assert cat.verify(model, cat.sample(seed=2, scale=0.7)).max_relative_change < 1e-9


def test_an_element_out_of_range_is_refused_in_one_line() -> None:
    model, cat = discovered(lambda: Gated(torch.sigmoid), floats(3, spread=1.0)(0))
    which = next(i for i, s in enumerate(cat.symmetries) if "a" in s.parameters)
    from symdisc.symmetry import Element, Factor

    power = next(m.power for m in cat.symmetries[which].moves if m.parameter == "a")
    far = Element((Factor("continuous", which, np.full(4, 1e3 ** power)),))
    with pytest.raises(BadInput, match="out of its range"):
        cat.apply(model.state_dict(), far)


@pytest.mark.parametrize("network, function", [("gated", "sigmoid"), ("gated", "tanh"), ("gated", "softplus"), ("branch", "one added"),
                                               ("positive", "softplus"), ("table", "tanh"), ("table", "sigmoid"), ("table", "softplus")])
def test_the_elementwise_law_is_the_charge(network: str, function: str) -> None:
    """I(a) against squares: kept to 1e-10 along a flow of order eight, not with a wrong sign; under decay changed as its law says."""
    torch.manual_seed(1)
    inputs = (torch.arange(6),) if network == "table" else floats(3, spread=1.0)(1)
    make = {**NETWORKS, "table": Table}[network]
    model, cat = discovered(lambda: make(FUNCTIONS[function]), inputs)
    (charge,) = [q for q in cat.conserved if any(t.move.kind == "curved_scale" for t in q.terms)]
    assert charge.status == "conserved" and charge.expression is not None and charge.latex()
    (driven,) = [q for q in cat.conserved_under("weight_decay", lam=0.3) if any(t.move.kind == "curved_scale" for t in q.terms)]
    assert driven.status == "driven"
    count = symdisc.count_laws(cat)
    assert count.laws == count.found
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    target = torch.randn(model(*inputs).shape, dtype=torch.float64)

    def values(flat: np.ndarray) -> dict[str, Tensor]:
        parts = np.split(flat, np.cumsum([s.numel() for s in shapes])[:-1])
        return {n: torch.tensor(p.reshape(s)) for n, p, s in zip(names, parts, shapes, strict=True)}

    def right(decay: float, flat: np.ndarray) -> np.ndarray:
        p = {n: v.requires_grad_() for n, v in values(flat).items()}
        loss = (torch.func.functional_call(model, p, inputs) - target).square().mean()
        slopes = torch.autograd.grad(loss, list(p.values()))
        return -np.concatenate([(g + decay * v).detach().numpy().ravel() for g, v in zip(slopes, p.values(), strict=True)])

    begin = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])

    def end(decay: float) -> np.ndarray:
        found = solve_ivp(lambda _, y: right(decay, y), (0.0, 1.0), begin, method="DOP853", rtol=1e-13, atol=1e-14)
        return np.asarray(found.y[:, -1])

    kept = end(0.0)
    before, after = (charge.evaluate(values(v)) for v in (begin, kept))
    assert float(abs(after - before).max()) < KEPT and abs(kept - begin).max() > 1e-2
    twin = replace(charge, terms=(replace(charge.terms[0], weight=-charge.terms[0].weight), *charge.terms[1:]))
    assert float(abs(twin.evaluate(values(kept)) - twin.evaluate(values(begin))).max()) > BROKEN
    assert float(abs(charge.evaluate(values(end(0.3))) - before).max()) > BROKEN


def test_the_charge_of_a_table_is_the_law_at_whitened_input() -> None:
    """Two ways: the catalog's charge, and the law of the seed paper for U sigma(V) with V the table."""
    model, cat = discovered(lambda: Table(torch.tanh), (torch.arange(6),))
    (charge,) = [q for q in cat.conserved if q.terms]
    state = model.state_dict()
    law = symdisc.conserved.elementwise_law("tanh").evaluate(state["u.weight"], state["e.weight"])
    assert -charge.evaluate(state).numpy() == pytest.approx(law.numpy(), rel=1e-12) or (
        charge.evaluate(state).numpy() == pytest.approx(law.numpy(), rel=1e-12))


def test_its_charge_is_moved_to_a_value() -> None:
    model, cat = discovered(lambda: Gated(F.softplus), floats(3, spread=1.0)(0))
    (charge,) = [q for q in cat.conserved if any(t.move.kind == "curved_scale" for t in q.terms)]
    goal = charge.evaluate(model.state_dict()) + 0.3
    moved = cat.move_to(model.state_dict(), {charge.name: goal})
    assert charge.evaluate(moved).numpy() == pytest.approx(goal.numpy(), abs=1e-8)


def test_a_table_that_something_else_reads_is_left_alone() -> None:
    class Read(Table):
        def forward(self, i: Tensor) -> Tensor:
            return super().forward(i) + self.e.weight.sum()

    model, cat = discovered(lambda: Read(torch.tanh), (torch.arange(6),))
    assert not any(m.kind == "curved_scale" for s in cat.symmetries for m in s.moves)
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9


@pytest.mark.parametrize("function, kind, name", [("tanh", "sign", "sign flips of units"), ("sigmoid", "sign", "reflections of units")])
def test_tables_keep_their_signs_and_reflections(function: str, kind: str, name: str) -> None:
    """What the function behind a lookup lets pass is found though the table is scaled through it: an odd one signs, sigmoid reflections."""
    class Biased(Table):
        def __init__(self) -> None:
            super().__init__(FUNCTIONS[function])
            self.u = nn.Linear(3, 4)

    model, cat = discovered(Biased, (torch.arange(6),))
    (found,) = [d for d in cat.discrete if d.family == kind]
    assert (found.name, found.order) == (name, 8) and "e.weight" in found.parameters
    assert any(m.kind == "curved_scale" for s in cat.symmetries for m in s.moves)
    for seed in range(3):
        assert cat.verify(model, cat.sample(seed=seed, scale=0.4)).max_relative_change < 1e-9
