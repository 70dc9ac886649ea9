"""Conserved quantities of real networks: exact against autograd and an integrated flow, their false twins refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from networks import ready
from scipy.integrate import solve_ivp
from torch import Tensor

import symdisc
from symdisc.catalog import Catalog
from symdisc.conserved import ConservedQuantity, Flow, conserved_quantities
from symdisc.errors import BadInput

State = dict[str, Tensor]
EXACT = 1e-10

NETWORKS = (
    "mlp_relu", "mlp_cube", "mlp_leaky_relu_deep", "linear_deep_no_bias", "linear_deep", "linear_scalar_chain",
    "attn_two_bias", "attn_grouped_bias", "attn_rotary_partial", "attn_rotary_grouped", "attn_qk_norm_gain",
    "attn_packed_per_head",
    "softmax_head", "bn_train_bias", "bn_eval_bias", "conv2d_relu_pool", "conv_grouped", "glu_swiglu", "glu_bilinear",
    "stream_layer", "stream_layer_narrow_out", "stream_rms", "stream_rms_plain", "ssm_dense", "ssm_diagonal",
    "moe_softmax_relu", "lora", "shared_twice_relu", "tied_autoencoder_relu", "word_average", "mini_gelu",
)  # fmt: skip


@cache
def subject(name: str) -> tuple[Any, Any, Catalog]:
    """(model, input maker, catalog) of a registered network, in float64 at its recorded parameters."""
    model, maker, _ = ready(name)
    return model, maker, symdisc.discover(model, maker(0), solve=False)


def outputs(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, Mapping) else value
    return [t for part in parts for t in outputs(part)]


def loss(values: Any, seed: int) -> Tensor:
    """A random quadratic function of all outputs."""
    gen = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for y in outputs(values):
        total = total + (torch.randn(y.shape, generator=gen, dtype=y.dtype) * y).sum()
        total = total + (torch.rand(y.shape, generator=gen, dtype=y.dtype) * y * y).sum()
    return total


def point(model: Any) -> State:
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def gradient_at(model: Any, inputs: tuple[Any, ...], cat: Catalog, state: State, seed: int = 0) -> State:
    """dL/d(parameter) by canonical name at ``state``."""
    leaves = {n: state[n].detach().clone().requires_grad_(True) for n in cat.parameters}
    aliases = {alias: leaves[n] for alias, n in cat.aliases.items() if n in leaves}
    values = torch.func.functional_call(model, {**state, **leaves, **aliases}, inputs)
    found = torch.autograd.grad(loss(values, seed), list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)}


@cache
def answers(name: str) -> tuple[ConservedQuantity, ...]:
    return subject(name)[2].conserved


@cache
def gradient(name: str) -> State:
    """Summed over several inputs, so that few units are dead."""
    model, maker, cat = subject(name)
    parts = [gradient_at(model, maker(seed), cat, point(model), seed) for seed in range(1, 6)]
    return {n: torch.stack([p[n] for p in parts]).sum(0) for n in cat.parameters}


def norm(state: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((t * t).sum()) for t in state.values()))


def slopes(q: ConservedQuantity, state: State, cat: Catalog) -> list[State]:
    """d Q_k / d theta for every entry of Q."""
    leaves = {n: state[n].detach().clone().requires_grad_(True) for n in cat.parameters}
    entries = q.evaluate({**state, **leaves}).reshape(-1)
    rows = []
    for entry in entries:
        found = torch.autograd.grad(entry, list(leaves.values()), retain_graph=True, allow_unused=True)
        rows.append({n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)})
    return rows


def overlap(rows: list[State], direction: Mapping[str, Tensor]) -> float:
    """The largest |<dQ, direction>| / (|dQ| |direction|) over the entries of Q."""
    size = norm(direction)
    return max(abs(sum(float((row[n] * direction[n]).sum()) for n in row)) / (norm(row) * size) for row in rows)


def conserved_of(name: str) -> list[ConservedQuantity]:
    return [q for q in answers(name) if q.form]


# --- every symmetry has an answer, and the answers are true -----------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_quantities_are_orthogonal_to_the_gradient_of_any_loss(name: str) -> None:
    model, _, cat = subject(name)
    state = point(model)
    assert [q.symmetry for q in cat.conserved] == list(cat.symmetries)
    for q in answers(name):
        assert not q.reason.startswith("undecided"), q.reason
        if q.form:
            assert q.status == "conserved" and q.dimension > 0
            assert overlap(slopes(q, state, cat), gradient(name)) < EXACT, q.name
        else:
            assert q.status == "none" and q.reason and q.dimension == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_one_wrong_sign_is_no_law(name: str) -> None:
    model, _, cat = subject(name)
    state = point(model)
    for q in conserved_of(name):
        if len(q.terms) > 1:
            twin = replace(q, terms=(replace(q.terms[0], weight=-q.terms[0].weight), *q.terms[1:]))
            assert overlap(slopes(twin, state, cat), gradient(name)) > 1e-6, q.name


@pytest.mark.parametrize("name", NETWORKS)
def test_generators_are_orthogonal_to_the_gradient(name: str) -> None:
    """Also where there is no quantity: unless the symmetry needs to move what is not trained."""
    state, grad = point(subject(name)[0]), gradient(name)
    for q in answers(name):
        if "does not train" not in q.reason:
            assert float(abs(q.residual(state, grad)).max()) < EXACT * norm(grad) * (1 + norm(state)), q.name


@pytest.mark.parametrize(
    "name", ["mlp_relu", "linear_deep_no_bias", "attn_two_bias", "attn_rotary_partial", "softmax_head", "lora"]
)
def test_one_gradient_step_changes_q_by_its_value_at_the_gradient(name: str) -> None:
    """Q(theta - eta g) - Q(theta) = eta^2 Q(g) for quadratic Q; nothing for linear Q. Exact at any step size."""
    state, grad, eta = point(subject(name)[0]), gradient(name), 0.37
    after = {**state, **{n: state[n] - eta * g for n, g in grad.items()}}
    for q in conserved_of(name):
        quadratic = all(t.move.kind in ("matmul", "scale") for t in q.terms)
        expected = eta**2 * q.evaluate({**state, **grad}) if quadratic else 0 * q.evaluate(state)
        change = q.evaluate(after) - q.evaluate(state)
        assert float(abs(change - expected).max()) < 1e-12 * (1 + float(abs(q.evaluate(after)).max()))
        if quadratic:
            assert float(abs(expected).max()) > 1e-6


def flow_of(name: str, field: Callable[[float, State, State], State], start: State, until: float) -> State:
    """The solution of theta' = field(t, theta, grad L) by an eighth-order method."""
    model, maker, cat = subject(name)
    names, base = list(cat.parameters), point(model)
    sizes = [base[n].numel() for n in names]

    def unpack(flat: np.ndarray) -> State:
        return {n: p.reshape(base[n].shape) for n, p in zip(names, torch.as_tensor(flat).split(sizes), strict=True)}

    def right(t: float, flat: np.ndarray) -> np.ndarray:
        state = {**base, **unpack(flat)}
        grad = gradient_at(model, maker(1), cat, state)
        out = field(t, state, grad)
        return torch.cat([out[n].reshape(-1) for n in names]).numpy()

    flat = torch.cat([start[n].reshape(-1) for n in names]).numpy()
    solved = solve_ivp(right, (0.0, until), flat, method="DOP853", rtol=1e-12, atol=1e-13)
    assert solved.success
    return {**base, **unpack(solved.y[:, -1])}


@pytest.mark.parametrize(
    "name, until",
    [
        ("linear_deep_no_bias", 0.05),
        ("mlp_cube", 0.001),
        ("attn_rotary_partial", 0.1),
        ("softmax_head", 0.5),
        ("glu_swiglu", 0.05),
    ],
)
def test_quantities_stay_along_an_integrated_gradient_flow(name: str, until: float) -> None:
    state = point(subject(name)[0])
    after = flow_of(name, lambda t, theta, g: {n: -v for n, v in g.items()}, state, until)
    assert norm({n: after[n] - state[n] for n in subject(name)[2].parameters}) > 1e-3, "the flow has moved"
    for q in conserved_of(name):
        drift = float(abs(q.evaluate(after) - q.evaluate(state)).max())
        assert drift < 1e-10 * max(1.0, float(abs(q.evaluate(state)).max())), q.name


# --- what the answers are ---------------------------------------------------------------------------------------------
def test_relu_units_balance_their_weights() -> None:
    """Q_u = 1/2 |in|^2 + 1/2 b^2 - 1/2 |out|^2: the paper's factor, zero at vanishing weights."""
    model, _, cat = subject("mlp_relu")
    (q,) = answers("mlp_relu")
    state = point(model)
    w1, b1, w2, _ = (state[n] for n in cat.parameters)
    by_hand = (w1**2).sum(1) / 2 + b1**2 / 2 - (w2**2).sum(0) / 2
    value = q.evaluate(state)
    assert torch.allclose(value, by_hand, rtol=1e-13) or torch.allclose(value, -by_hand, rtol=1e-13)
    assert float(abs(q.evaluate({n: 0 * t for n, t in state.items()})).max()) == 0


def test_degree_of_the_activation_weighs_the_outer_weights() -> None:
    cat = subject("mlp_cube")[2]
    (q,) = cat.conserved
    powers = {t.move.parameter: t.move.power * t.weight for t in q.terms}
    w1, b1, w2, _ = cat.parameters
    assert powers[w1] == powers[b1] and powers[w2] == pytest.approx(-3 * powers[w1])


def test_linear_layers_keep_the_whole_symmetric_matrix() -> None:
    """1/2 (W1 W1^T - W2^T W2), and the sympy expression gives the same numbers."""
    state = point(subject("linear_deep_no_bias")[0])
    for q in answers("linear_deep_no_bias"):
        inner, outer = (state[n] for n in q.parameters)
        by_hand = (inner @ inner.T - outer.T @ outer) / 2
        value = q.evaluate(state)[0]
        assert torch.allclose(value, by_hand, rtol=1e-12) or torch.allclose(value, -by_hand, rtol=1e-12)
        values = {s: sp.ImmutableMatrix(state[s.name].numpy()) for s in q.expression.atoms(sp.MatrixSymbol)}
        symbolic = np.array(q.expression.subs(values).doit(), dtype=float)
        assert np.allclose(symbolic, value.numpy(), rtol=1e-12)
        assert q.dimension == len(inner) * (len(inner) + 1) // 2


@pytest.mark.parametrize("name, heads, key, value, first", [
    ("attn_two", 2, 4, 3, 2 * 10), ("attn_grouped", 2, 4, 3, 2 * 10), ("attn_rotary_grouped", 2, 4, 3, 2 * 2),
])
def test_numbers_of_attention_laws(name: str, heads: int, key: int, value: int, first: int) -> None:
    """Per head d_k(d_k+1)/2 + d_v(d_v+1)/2; with rotary positions d_k/2 in place of the first (arXiv:2506.06194)."""
    assert first in (heads * key * (key + 1) // 2, heads * key // 2)
    assert sorted(q.dimension for q in conserved_of(name)) == sorted([first, heads * value * (value + 1) // 2])


def test_rotations_give_a_constraint_and_no_function() -> None:
    rotations = [q for name in ("stream_rms_plain", "stream_rms", "stream_layer") for q in answers(name)
                 if q.symmetry.family in ("o", "o1")]
    assert len(rotations) == 3
    for q in rotations:
        assert not q.form and q.constraint and "none:" in q.latex()
        with pytest.raises(BadInput, match="no conserved quantity"):
            q.evaluate({})
    assert "antisymmetric" in rotations[0].reason and "depends on the trained parameters" in rotations[1].reason


def test_latex_of_every_answer_balances() -> None:
    for name in NETWORKS:
        for q in answers(name):
            text = q.latex()
            assert text and text.count("{") == text.count("}") and "$" not in text
            assert text.count(r"\left") == text.count(r"\right")
            assert (r"\dot Q = 0" in text) == bool(q.form)


# --- other flows ------------------------------------------------------------------------------------------------------
def under(name: str, flow: Flow) -> tuple[ConservedQuantity, ...]:
    cat = subject(name)[2]
    return conserved_quantities(cat.symmetries, cat.parameters, flow)


@pytest.mark.parametrize("name", ["mlp_cube", "linear_deep_no_bias", "attn_two_bias", "softmax_head"])
def test_learning_rates_per_parameter_change_q_and_not_the_symmetry(name: str) -> None:
    model, _, cat = subject(name)
    rates = {n: 0.5 + 0.25 * k for k, n in enumerate(cat.parameters)}
    velocity = {n: rates[n] * g for n, g in gradient(name).items()}
    found = [q for q in under(name, Flow("learning_rates", {"eta": rates})) if q.form]
    assert found
    for q, plain in zip(found, conserved_of(name), strict=True):
        assert overlap(slopes(q, point(model), cat), velocity) < EXACT
        if len({rates[n] for n in q.parameters}) > 1:
            assert overlap(slopes(plain, point(model), cat), velocity) > 1e-6, "the plain law is broken"


@pytest.mark.parametrize("name, flow, factor", [
    ("mlp_relu", Flow("weight_decay", {"lam": 0.3}), lambda w: 1 + 0 * w),
    ("attn_two_bias", Flow("weight_decay", {"lam": 0.3}), lambda w: 1 + 0 * w),
    ("mlp_relu", Flow("preconditioned", {"P": "1 + theta**2", "lam": 0}), lambda w: 1 + w**2),
    ("linear_deep_no_bias", Flow("preconditioned", {"P": "exp(theta)", "lam": 0}), torch.exp),
    ("mlp_relu", Flow("entropic_mirror"), lambda w: w),
    ("softmax_head", Flow("entropic_mirror"), lambda w: w),
])
def test_rates_of_change_are_as_the_law_says(name: str, flow: Flow, factor: Callable[[Tensor], Tensor]) -> None:
    """dQ/dt along theta' = -P (grad + lam theta), from autograd, is -rate Q."""
    model, _, cat = subject(name)
    state = {n: (t.abs() + 0.1 if n in cat.parameters else t) for n, t in point(model).items()}
    grad = gradient_at(*(subject(name)[0], subject(name)[1](1)), cat, state)
    lam = float(flow.values.get("lam", 0))
    velocity = {n: -factor(state[n]) * (g + lam * state[n]) for n, g in grad.items()}
    found = [q for q in under(name, flow) if q.form]
    assert found
    for q in found:
        value = q.evaluate(state).reshape(-1)
        for k, row in enumerate(slopes(q, state, cat)):
            moved = sum(float((row[n] * velocity[n]).sum()) for n in row)
            assert abs(moved + float(sp.sympify(q.rate)) * float(value[k])) < EXACT * (
                norm(row) * norm(velocity) + 1
            ), q.name
    assert any(q.status == "decays" for q in found) == (lam != 0)


def test_momentum_keeps_the_antisymmetric_charge() -> None:
    """theta'' + tau theta' + grad = 0 keeps e^(tau t) <theta', A theta> for antisymmetric A (arXiv:2405.12888)."""
    name, tau = "linear_deep_no_bias", 0.7
    model, maker, cat = subject(name)
    charges = [q for q in under(name, Flow("momentum", {"tau": tau, "lam": 0})) if q.form == "momentum"]
    assert charges and all(q.status == "conserved" and q.part == "skew" for q in charges)
    base, names = point(model), list(cat.parameters)
    speed = {n: 0.1 * torch.randn(base[n].shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
             for k, n in enumerate(names)}
    sizes = [base[n].numel() for n in names]

    def unpack(flat: np.ndarray) -> State:
        return {n: p.reshape(base[n].shape) for n, p in zip(names, torch.as_tensor(flat).split(sizes), strict=True)}

    def right(t: float, flat: np.ndarray) -> np.ndarray:
        theta, velocity = np.split(flat, 2)
        grad = gradient_at(model, maker(1), cat, {**base, **unpack(theta)})
        return np.concatenate([velocity, -tau * velocity - torch.cat([grad[n].reshape(-1) for n in names]).numpy()])

    start = torch.cat([d[n].reshape(-1) for d in (base, speed) for n in names]).numpy()
    end, time = None, 0.3
    end = solve_ivp(right, (0.0, time), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    theta, velocity = (unpack(part) for part in np.split(end, 2))
    for q in charges:
        before, after = q.evaluate(base, speed, 0.0), q.evaluate({**base, **theta}, velocity, time)
        assert float(abs(after - before).max()) < 1e-10 and float(abs(before).max()) > 1e-3
        stale = q.evaluate({**base, **theta}, velocity, 0.0)
        assert float(abs(stale - before).max()) > 1e-4, "without the factor it is no law"


@pytest.mark.parametrize("lam", [0.0, 0.4])
def test_symmetric_charges_are_driven_under_momentum(lam: float) -> None:
    """Q'' + tau Q' + 2 lam Q = <theta', S theta'>, linear Q with lam Q and no source: from second differences of the flow."""
    for name in ("linear_deep_no_bias", "softmax_head"):
        cat, state, tau = subject(name)[2], point(subject(name)[0]), 0.7
        grad = gradient(name)
        speed = {n: 0.3 * torch.cos(state[n] * 3) for n in cat.parameters}
        push = {n: -tau * speed[n] - grad[n] - lam * state[n] for n in cat.parameters}
        for q in under(name, Flow("momentum", {"tau": tau, "lam": lam})):
            if q.form != "moment":
                continue
            quadratic = all(t.move.kind in ("matmul", "scale") for t in q.terms)
            rows = slopes(q, state, cat)
            first = torch.stack([sum((row[n] * speed[n]).sum() for n in row) for row in rows])
            bent = torch.stack([sum((row[n] * push[n]).sum() for n in row) for row in rows])
            source = 2 * q.evaluate({**state, **speed}).reshape(-1) if quadratic else 0 * first
            value = q.evaluate(state).reshape(-1)
            left = (bent + source) + tau * first + (2 if quadratic else 1) * lam * value
            assert float(abs(left - source).max()) < 1e-9 * norm(grad) * norm(state)
            assert q.status == ("driven" if quadratic else "decays")


def test_frozen_parameters_and_adam_leave_no_law() -> None:
    first = next(iter(subject("mlp_relu")[2].parameters))
    (frozen,) = under("mlp_relu", Flow("learning_rates", {"eta": {first: 0, "*": 1}}))
    assert not frozen.form and first in frozen.reason
    for rule in ("adam", "adamw", "rmsprop"):
        (q,) = under("mlp_relu", Flow(rule))
        assert not q.form and "second moment" in q.reason
    (shared,) = under("mlp_relu", Flow("shared_second_moment", {"lam": 0}))
    assert shared.form and shared.status == "conserved"


def test_flows_that_do_not_exist_are_refused() -> None:
    with pytest.raises(BadInput, match="no flow is called"):
        under("mlp_relu", Flow("sophia"))
    with pytest.raises(BadInput, match="has no symbol"):
        Flow("weight_decay", {"lambda_": 1})
    for a, b in itertools.pairwise(("gradient_flow", "weight_decay", "momentum")):
        assert Flow(a) != Flow(b)
