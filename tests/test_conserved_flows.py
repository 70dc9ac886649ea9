"""The rows of rules/optimizer.toml: read, refused, and brought to their normal form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sympy as sp
import torch

import symdisc
from symdisc.conserved import ConservedQuantity, Flow, conserved_quantities, load_flows
from symdisc.conserved.flow import THETA, TIME, FlowRule, _normal_form, read_flows
from symdisc.errors import BadInput, RuleError

GOOD = '[[flow]]\nname = "a"\nequation = "D1 + eta*grad"\nsymbols = { eta = "number" }\ncites = []\n'


def test_every_row_has_a_normal_form() -> None:
    for name, rule in load_flows().items():
        values = {symbol: "1" for symbol, kind in rule.symbols if kind == "formula"}
        local = Flow(name, values).at("w")
        assert local.inertia == ("D2" in rule.equation) and not local.frozen, name
        assert local.kind in ("function", "shared", "history", "fisher")


@pytest.mark.parametrize("flow, precondition, rho", [
    (Flow(), "1", "0"),
    (Flow("learning_rates", {"eta": 0.5}), "1/2", "0"),
    (Flow("weight_decay", {"eta": 0.5, "lam": 0.2}), "1/2", "theta/5"),
    (Flow("decoupled_weight_decay", {"eta": 0.5, "lam": 0.2}), "1/2", "2*theta/5"),
    (Flow("entropic_mirror"), "theta", "0"),
    (Flow("preconditioned", {"P": "1 + theta**2", "lam": 0}), "theta**2 + 1", "0"),
    (Flow("momentum", {"tau": 1, "eta": 2, "lam": 3}), "2", "3*theta"),
], ids=lambda v: v.name if isinstance(v, Flow) else str(v))
def test_normal_forms(flow: Flow, precondition: str, rho: str) -> None:
    local = flow.at("w")
    names = {"theta": THETA}
    assert sp.simplify(local.precondition - sp.sympify(precondition, names)) == 0
    assert sp.simplify(local.rho - sp.sympify(rho, names)) == 0


def test_nesterov_has_friction_three_over_t() -> None:
    local = Flow("nesterov", {"lam": 0}).at("w")
    assert local.inertia and sp.simplify(local.friction - 3 / TIME) == 0


def test_values_per_parameter_and_flows_of_single_parameters() -> None:
    flow = Flow("learning_rates", {"eta": {"a": 2, "*": 3}}, {"c": Flow("entropic_mirror")})
    assert [flow.at(n).precondition for n in "abc"] == [2, 3, THETA]
    with pytest.raises(BadInput, match="has no value for b"):
        Flow("learning_rates", {"eta": {"a": 2}}).at("b")
    with pytest.raises(BadInput, match="made by the optimizer"):
        Flow("rmsprop", {"N": 2}).at("a")
    with pytest.raises(BadInput, match="needs a formula"):
        Flow("preconditioned").at("a")


@pytest.mark.parametrize("text, message", [
    (GOOD + GOOD, "there twice"),
    (GOOD.replace("cites", "conserves"), "'conserves' is unknown"),
    (GOOD.replace("cites = []", ""), "'cites' is missing"),
    (GOOD + 'note = "x"\n', "'note' is unknown"),
    (GOOD.replace('"number"', '"scalar"'), "kind 'scalar'"),
    (GOOD.replace("eta*grad", "zeta*grad"), "'zeta'"),
    (GOOD.replace("eta*grad", "__import__('os')"), "equation"),
    ("[[rule]]\nname = 1\n", r"only \[\[flow\]\] rows"),
    ("flow = [", "optimizer.toml"),
])  # fmt: skip
def test_malformed_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "optimizer.toml"
    path.write_text(text)
    with pytest.raises(RuleError, match=message) as raised:
        read_flows(path)
    assert "optimizer.toml" in str(raised.value)


def test_equations_that_are_not_linear_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "optimizer.toml"
    path.write_text(GOOD)
    assert list(read_flows(path)) == ["a"]
    for equation in ("D1**2 + grad", "grad", "D1 + grad*D1", "D1 + grad + average"):
        with pytest.raises(RuleError, match="linear"):
            _normal_form(FlowRule("bad", equation, ()), ())


class _Pair(torch.nn.Module):
    """Weight norm on both layers, an adapter of low rank, and a weight of three factors, which no family names."""

    def __init__(self) -> None:
        super().__init__()
        norm = torch.nn.utils.parametrizations.weight_norm
        self.one, self.two = norm(torch.nn.Linear(3, 4)), norm(torch.nn.Linear(4, 5))
        self.whole, self.down, self.up = torch.nn.Linear(5, 3), torch.nn.Linear(5, 1, bias=False), torch.nn.Linear(1, 3, bias=False)
        self.a, self.b, self.c = (torch.nn.Parameter(torch.randn(3)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.two(torch.relu(self.one(x))))
        return torch.tanh(torch.tanh(self.whole(y) + self.up(self.down(y))) @ (self.a * self.b * self.c))


def test_histories_of_gradients_keep_no_function_whatever_the_symmetry() -> None:
    """Adam and its kin: also for symmetries through charts, between factors and without a name. Decay and inertia are told."""
    torch.manual_seed(0)
    cat = symdisc.discover(_Pair().double(), (torch.randn(30, 3, dtype=torch.float64),))
    kinds = {m.kind for s in cat.symmetries for m in s.moves}
    assert {"charted", "product", "scale"} <= kinds and any(s.generators for s in cat.symmetries)

    def under(name: str, **values: float) -> list[ConservedQuantity]:
        return list(conserved_quantities(cat.symmetries, cat.parameters, Flow(name, values)))

    for name in ("adam", "adamw", "rmsprop"):
        assert {q.status for q in under(name, **({"lam": 1.0} if name == "adamw" else {}))} == {"none"}
    special = [q for q in under("weight_decay", eta=1, lam=1) if q.form == "linear"]
    assert len(special) == 2 and {(q.status, q.rate) for q in special} == {("decays", "2")}
    assert {q.status for q in under("momentum", tau=1, eta=1, lam=0) if q.form == "linear"} == {"driven"}
    assert cat.conserved_under("momentum", tau=1, eta=1, lam=0) == tuple(under("momentum", tau=1, eta=1, lam=0))
    assert cat.conserved_under(Flow()) == cat.conserved
    with pytest.raises(BadInput, match="no symbol 'mu'"):
        cat.conserved_under("momentum", mu=1)
    with pytest.raises(BadInput, match="carries its own"):
        cat.conserved_under(Flow("momentum"), tau=1)
    products = [q for q in under("momentum", tau=1, eta=1, lam=0) if any(m.kind == "product" for m in q.symmetry.moves)]
    assert products and all(r"\ddot \theta + \dot \theta, X_a" in q.constraint for q in products)  # not that of gradient flow


@pytest.mark.parametrize("flow", [Flow("entropic_mirror"), Flow("preconditioned", {"P": "theta**2", "lam": 0}),
                                  Flow("preconditioned", {"P": "1 + theta**2", "lam": 0})], ids=lambda f: str(f.values.get("P", f.name)))
def test_the_formula_of_a_charge_in_a_curved_metric_is_what_is_evaluated(flow: Flow) -> None:
    """Signs of both factors included: g on one side, its inverse on the other. Entries of either sign have a value."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(3, 5, bias=False)).double()
    (charge,) = symdisc.discover(model, (torch.randn(3, 4, dtype=torch.float64),)).conserved_under(flow)
    weights = {"0.weight": model.state_dict()["0.weight"], "1.weight[1]": model.state_dict()["1.weight"].T}
    assert (weights["0.weight"] < 0).any() and isinstance(charge.expression, sp.Expr)
    value = charge.evaluate(model.state_dict()).flatten()

    def by_formula(wrong: float = 1.0) -> list[float]:
        rows = []
        for u in range(3):
            summed = charge.expression.doit().subs(sp.Symbol("u", integer=True, positive=True), u + 1)
            entries = {a: float(weights[str(a.base.label)][u, int(a.indices[1]) - 1]) for a in summed.atoms(sp.Indexed)}
            rows.append(float(sum(t.subs(entries) * (wrong if t.atoms(sp.Indexed).pop().base.label.name != "0.weight" else 1)
                                  for t in sp.Add.make_args(summed))))
        return rows

    assert value.isfinite().all() and value.tolist() == pytest.approx(by_formula(), rel=1e-12, abs=1e-12)
    assert value.tolist() != pytest.approx(by_formula(-1.0), rel=1e-3, abs=1e-3)


def test_a_decay_without_a_number_is_the_letter_lambda() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(3, 5, bias=False)).double()
    cat = symdisc.discover(model, (torch.randn(3, 4, dtype=torch.float64),))
    for flow in ("weight_decay", "decoupled_weight_decay", "momentum", "nesterov", "shared_second_moment"):
        told = [q.latex() for q in cat.conserved_under(flow)]
        assert any(r"\lambda" in t for t in told) and not any(re.search(r"(?<![a-z\\])lam(?!bda)", t) for t in told), flow


def test_sums_and_centres_stand_with_their_indices() -> None:
    """The named axis first, as in the parameter itself: a sum of rows is no sum of columns; each unit has its own running mean."""
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.Softmax(-1)).double()
    (charge,) = symdisc.discover(head, (torch.randn(3, 4, dtype=torch.float64),)).conserved
    weight, u = head.state_dict()["0.weight"], sp.Symbol("u", integer=True, positive=True)
    assert charge.expression is not None
    summed = [charge.expression.doit().subs(u, j + 1) for j in range(4)]
    value = [sum(float(weight[int(i) - 1, int(j) - 1]) for i, j in (a.indices for a in s.atoms(sp.Indexed))) for s in summed]
    assert charge.evaluate(head.state_dict()).flatten().tolist() == pytest.approx(value, rel=1e-12)
    normed = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)).double().eval()
    charges = symdisc.discover(normed, (torch.randn(5, 4, dtype=torch.float64),)).conserved
    scale = next(q.expression for q in charges if "traded through BatchNorm" in q.name)
    assert scale is not None
    assert "0.bias[u]*1.running_mean[u]" in str(scale)
