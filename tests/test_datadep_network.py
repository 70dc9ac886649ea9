"""Pairs in captured networks of every kind; several layers in one go; counts, bounds, refusals; published defects caught."""

from __future__ import annotations

from functools import cache

import pytest
import sympy as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symdisc
from symdisc import zoo
from symdisc.errors import BadInput, NotExact
from symdisc.torchside.capture import Capture, capture
from symdisc.torchside.datadep.batch import MAX_CONDITION
from symdisc.torchside.datadep.bounds import _row, off_batch
from symdisc.torchside.datadep.count import count_on_data
from symdisc.torchside.datadep.lipschitz import lipschitz_global, lipschitz_observed, sigma_formula
from symdisc.torchside.datadep.network import DataDependent, act_layers, batch_of, sized
from symdisc.torchside.datadep.segments import find_pairs


def gated() -> tuple[nn.Module, tuple[Tensor, ...]]:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)
            self.gate, self.up, self.down = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 6)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (m(x).view(1, 4, 2, 4).transpose(1, 2) for m in (self.q, self.k, self.v))
            x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 4, 8))
            return x + self.down(F.silu(self.gate(x)) * self.up(x))

    return Block(), (torch.randn(1, 4, 6),)


def prelu() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return nn.Sequential(nn.Linear(5, 7), nn.PReLU(7, 0.3), nn.Linear(7, 3)), (torch.randn(4, 5),)


def conv() -> tuple[nn.Module, tuple[Tensor, ...]]:
    body = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(),
                         nn.Linear(72, 3))
    return body, (torch.randn(1, 2, 6, 6),)


@cache
def seeded(make: object) -> tuple[nn.Module, tuple[Tensor, ...], Capture]:
    torch.manual_seed(0)
    model, example = make()  # type: ignore[operator]
    model, example = model.double(), tuple(x.double() for x in example)
    return model, example, capture(model, example)


@pytest.mark.parametrize("make, pairs", [
    (gated, {"q.weight → o.weight", "k.weight → o.weight", "v.weight → o.weight", "gate.weight → down.weight", "up.weight → down.weight"}),
    (prelu, {"0.weight → 2.weight"}),
    (conv, {"0.weight → 2.weight", "2.weight → 5.weight"}),
])
def test_pairs_are_found_and_exact_on_the_batch(make: object, pairs: set[str]) -> None:
    model, example, captured = seeded(make)
    items = [DataDependent(p, captured) for p in find_pairs(captured.graph)]
    assert {i.name for i in items} == pairs
    for item in items:
        state = model.state_dict()
        moved = item.apply(state, item.sample(1, 1.0))
        assert moved.on_batch < 1e-10
        after = torch.func.functional_call(model, moved.state, example)
        assert (after - model(*example)).abs().max() < 1e-9  # the module itself, not its captured graph
        assert (moved.state[item.pair.writer.weight] - state[item.pair.writer.weight]).norm() > 0.1


def test_what_is_read_elsewhere_is_no_pair() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = torch.tanh(self.a(x))
            return self.b(z) + z

    assert find_pairs(capture(Leaky(), (torch.randn(2, 3),)).graph) == ()
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    tied[2].weight = tied[0].weight
    assert find_pairs(capture(tied, (torch.randn(2, 3),)).graph) == ()


def mlp() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 7), nn.Tanh(),
                         nn.Linear(7, 2)), (torch.randn(4, 4),)


def test_several_layers_in_one_go_and_back() -> None:
    model, _, captured = seeded(mlp)
    items = [DataDependent(p, captured) for p in find_pairs(captured.graph)]
    elements = [(i.pair, i.sample(k, 1.0)) for k, i in enumerate(items)]
    state = model.state_dict()
    there = act_layers(captured, elements, state)
    back = act_layers(captured, [(p, torch.linalg.inv(g)) for p, g in reversed(elements)], there.state)
    assert there.on_batch < 1e-12
    assert max(float((back.state[n] - t).abs().max()) for n, t in state.items()) < 1e-9


def test_it_is_an_action_on_weights() -> None:
    model, _, captured = seeded(mlp)
    item = DataDependent(find_pairs(captured.graph)[1], captured)
    g, f, state = item.sample(1, 1.0), item.sample(2, 1.0), model.state_dict()
    both = item.apply(item.apply(state, f).state, g).state
    once = item.apply(state, g @ f).state
    assert max(float((both[n] - once[n]).abs().max()) for n in state) < 1e-9


@pytest.mark.parametrize("defect", ["I - T for the inverse", "untransformed activations upstream"])
def test_published_defects_are_caught(defect: str) -> None:
    """The comparison on the batch, run on weights made as the published code makes them."""
    model, example, captured = seeded(mlp)
    state, pairs = dict(model.state_dict()), find_pairs(captured.graph)
    t = 0.05 * torch.randn(5, 5, dtype=torch.float64)
    if defect == "I - T for the inverse":
        state["2.weight"], state["2.bias"] = state["2.weight"] + t @ state["2.weight"], state["2.bias"] + t @ state["2.bias"]
        state["4.weight"] = state["4.weight"] @ (torch.eye(5) - t)
    else:
        first, second = (DataDependent(p, captured) for p in pairs[:2])
        moved = first.apply(state, first.sample(0, 0.1)).state
        alone = second.apply(state, second.sample(1, 0.1)).state  # saw the activations and weights of the old first layer
        state = {**moved, "2.weight": second.sample(1, 0.1) @ state["2.weight"], "4.weight": alone["4.weight"]}
    change = torch.func.functional_call(model, state, example) - model(*example)
    assert change.abs().max() > 1e-4


def test_refusals_carry_pair_and_reason() -> None:
    model, example, captured = seeded(mlp)
    item = DataDependent(find_pairs(captured.graph)[0], captured)
    with pytest.raises(BadInput, match="does not fit the captured"):
        item.apply(model.state_dict(), item.sample(), (torch.randn(9, 4),))
    same = (example[0][:1].repeat(4, 1),)
    with pytest.raises(NotExact, match=r"0\.weight → 2\.weight: .*rank 1, not 4"):
        item.apply(model.state_dict(), item.sample(), same)
    many = capture(model, sized(example, 9))
    with pytest.raises(NotExact, match="9 is larger than the width 6"):
        DataDependent(find_pairs(many.graph)[0], many).apply(model.state_dict(), item.sample())
    fitted = DataDependent(find_pairs(many.graph)[0], many).apply(model.state_dict(), item.sample(1, 0.5), form="least-squares")
    assert 1e-6 < fitted.on_batch < 1.0  # least squares is not exact, and says by how much
    with pytest.raises(BadInput, match=r"must be \[6, 6\]"):
        item.apply(model.state_dict(), torch.eye(3))


@pytest.mark.parametrize("name", ["mlp-tanh", "mlp"])
def test_generators_span_all_symmetry_on_the_data(name: str) -> None:
    """D - rank J on the batch is what pairs and unseen directions give: nothing is missing."""
    if name == "mlp":
        model, example, captured = seeded(mlp)
    else:
        model, example = zoo.build(name)
        model, example = model.double(), tuple(x.double() for x in example)
        captured = capture(model, example)
    found = count_on_data(captured, dict(model.state_dict()))
    D = sum(p.numel() for p in model.parameters())
    outputs = model(*example).numel()
    assert found.complete and found.fibre == D - outputs and found.outside < 1e-9 and not found.refused
    assert found.acting < found.fibre and found.blind < found.fibre  # neither alone


def test_catalog_gives_the_pairs_and_formulas() -> None:
    model, example, _ = seeded(prelu)
    cat = symdisc.discover(model, example)
    item = cat.data_dependent[0]
    assert item.width == 7 and item.apply(model.state_dict(), item.sample(0, 0.5)).on_batch < 1e-10
    assert r"\dot U=-U\,\dot R_Z R_Z^{-1}" in item.latex()
    with pytest.raises(BadInput, match="model in memory"):
        _ = type(cat).from_json(cat.to_json()).data_dependent


def test_bound_holds_beside_the_measured_error() -> None:
    model, _, captured = seeded(mlp)
    for pair in find_pairs(captured.graph):
        for row in off_batch(captured, dict(model.state_dict()), DataDependent(pair, captured), (0.01, 0.3, 1.0)):
            assert row.bound is not None and row.bound_global is not None and row.eta is not None and row.eta_global is not None
            assert 0 < row.measured <= row.bound and row.on_batch < 1e-10
            assert row.eta <= row.eta_global * (1 + 1e-4) and row.measured <= row.bound_global


def test_the_bound_of_least_squares_counts_what_it_misses_on_the_batch() -> None:
    """At the samples themselves the distance is zero and the error is not: a bound without that term is false."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    captured = capture(model, (torch.randn(60, 3, dtype=torch.float64),))
    item = DataDependent(find_pairs(captured.graph)[0], captured)
    same = batch_of(captured, None)
    row = _row(captured, dict(model.state_dict()), item, 1.0, 0, same, [same], "least-squares", MAX_CONDITION)
    assert row.distance < 1e-6 and row.measured > 1e-3
    assert row.bound is not None and row.measured <= row.bound < 1.001 * row.measured


def slope_of(activation: nn.Module) -> tuple[float | None, float]:
    """The constant from the formula, and on a wide range from secants."""
    captured = capture(nn.Sequential(nn.Linear(2, 3), activation, nn.Linear(3, 2)).double(), (torch.randn(2, 2, dtype=torch.float64),))
    formula = sigma_formula(captured.graph, find_pairs(captured.graph)[0])
    return None if formula is None else lipschitz_global(formula), lipschitz_observed(activation, -20.0, 20.0)


@pytest.mark.parametrize("activation, known", [
    (nn.ReLU(), 1.0), (nn.LeakyReLU(2.0), 2.0), (nn.ELU(0.5), 1.0), (nn.GELU(), 1.128904145), (nn.SiLU(), 1.099839320),
    (nn.Softplus(2.0), 1.0), (nn.Hardswish(), 1.5), (nn.SELU(), 1.758099341), (nn.Softsign(), 1.0), (nn.Sigmoid(), 0.25),
], ids=str)
def test_the_constant_on_the_line_comes_from_the_formula_of_the_rule(activation: nn.Module, known: float) -> None:
    """It is the least one: what is seen on a wide range comes to within a thousandth of it (at a kink: the secants' own margin)."""
    found, seen = slope_of(activation)
    assert found == pytest.approx(known, abs=1e-8) and found == pytest.approx(seen, rel=4e-3)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


class Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.threshold(x, 0.1, 3.0)


class NoRule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("activation, found", [(Square(), float("inf")), (Step(), float("inf")), (NoRule(), None)], ids=type)
def test_no_constant_is_said_to_be_none(activation: nn.Module, found: float | None) -> None:
    assert slope_of(activation)[0] == found


def test_lipschitz_constants() -> None:
    x = sp.Symbol("x", real=True)
    assert lipschitz_global(sp.tanh(x), x) == 1.0
    assert abs(lipschitz_global(1 / (1 + sp.exp(-x)), x) - 0.25) < 1e-12
    silu = lipschitz_global(x / (1 + sp.exp(-x)), x)
    assert abs(silu - 1.0998) < 1e-4 and silu <= lipschitz_observed(F.silu, -6.0, 6.0) < silu + 1e-3
    assert 0.4199 < lipschitz_observed(torch.tanh, 1.0, 2.0) - 4e-5 < 0.42  # the largest slope stands at an end
    assert lipschitz_observed(lambda t: F.leaky_relu(t, 0.1), -3.0, 2.0) == pytest.approx(1.0)
    assert lipschitz_global(x**3, x) == float("inf")


@pytest.mark.parametrize("activation, at", [(nn.Tanh(), "x"), (nn.GELU(), "pole"), (nn.Softplus(), "x"), (nn.LeakyReLU(0.2), "x")], ids=str)
def test_the_law_at_whitened_input_belongs_to_the_first_pair(activation: nn.Module, at: str) -> None:
    """Its gradient is orthogonal to that of a loss at one-hot inputs, whatever follows; at other inputs, or with the sign of one half
    turned, it is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), activation, nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    first, second = symdisc.discover(model, (torch.eye(5, dtype=torch.float64),)).data_dependent
    law = first.whitened
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}

    def rates(x: Tensor, sign: float = 1.0) -> Tensor:
        loss = torch.cosh(torch.func.functional_call(model, weights, (x,)) - 1.0).sum()
        pulls = torch.autograd.grad(loss, list(weights.values()))
        forms = torch.autograd.grad(law.evaluate(weights).square().sum(), list(weights.values()), allow_unused=True)
        halves = [(p * f).sum() for p, f in zip(pulls, forms, strict=True) if f is not None]
        return abs(halves[0] + sign * halves[1]) / (abs(halves[0]) + abs(halves[1]))

    assert rates(torch.eye(5, dtype=torch.float64)) < 1e-12
    assert rates(torch.eye(5, dtype=torch.float64), -1.0) > 0.99
    if not isinstance(activation, nn.LeakyReLU):  # homogeneous: kept at every input
        assert rates(torch.randn(7, 5, dtype=torch.float64)) > 1e-4
    assert (r"v \notin" in law.latex()) == (at == "pole")
    with pytest.raises(BadInput, match="no dense map of the inputs"):
        _ = second.whitened


def test_a_bias_or_units_that_mix_have_no_law_at_whitened_input() -> None:
    for model, reason in ((nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), "the bias 0.bias enters"),
                          (nn.Sequential(nn.Linear(5, 4, bias=False), nn.Softmax(-1), nn.Linear(4, 2)), "not one function of each entry")):
        item = symdisc.discover(model.double(), (torch.eye(5, dtype=torch.float64),)).data_dependent[0]
        with pytest.raises(BadInput, match=reason):
            _ = item.whitened
