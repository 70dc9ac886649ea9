"""Moving along an orbit to a chosen value of conserved quantities: the value is met, the function stays, the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.conserved.reach import gl_element, scale_element
from symdisc.errors import BadInput, Undecided
from symdisc.zoo import build

RNG = np.random.default_rng


class Square(nn.Module):
    """Degree 2: a hidden unit scaled by s is undone by s^-2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) ** 2)


def _linear(*widths: int, bias: bool = False) -> nn.Module:
    return nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in pairwise(widths)))


def _relu() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 4))


def _case(make: Callable[[], nn.Module], inputs: int) -> tuple[nn.Module, symdisc.Catalog, Tensor]:
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(7, inputs, dtype=torch.float64)
    return model, symdisc.discover(model, (x,)), x


def _change(model: nn.Module, new: dict[str, Tensor], x: Tensor) -> float:
    with torch.no_grad():
        before, after = model(x), torch.func.functional_call(model, new, (x,))
    return float((after - before).abs().max() / before.abs().max())


CASES = {
    "narrow linear, balanced": (lambda: _linear(4, 3, 5), 4, "balanced"),
    "narrow linear, a multiple of one": (lambda: _linear(4, 3, 5), 4, {"change of basis": -2.5}),
    "linear with biases, a matrix": (lambda: _linear(4, 3, 5, bias=True), 4,
                                     {0: np.array([[1.0, 0.5, 0], [0.5, -2, 0], [0, 0, 0]])}),
    "three layers, balanced together": (lambda: _linear(4, 3, 3, 5), 4, "balanced"),
    "three layers, two matrices": (lambda: _linear(4, 3, 3, 5), 4, {0: 0.7, 1: np.diag([1.0, -1, 0.2])}),
    "relu, balanced": (_relu, 4, "balanced"),
    "relu, per unit": (_relu, 4, {0: np.array([1.0, -1, 0.0]), 1: 3.0}),
    "degree two": (Square, 4, {0: np.array([0.3, -0.4, 2.0])}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_value_is_met_and_the_function_kept(name: str) -> None:
    make, inputs, targets = CASES[name]
    model, cat, x = _case(make, inputs)
    state = model.state_dict()
    before = {n: t.clone() for n, t in state.items()}
    new = cat.move_to(state, Q=targets)
    assert _change(model, new, x) < 1e-10
    wanted = targets if isinstance(targets, dict) else {i: 0.0 for i, q in enumerate(cat.conserved) if q.form == "moment"}
    for key, target in wanted.items():
        for i, q in enumerate(cat.conserved):
            if key in (i, q.symmetry.name) and q.form:
                value = q.evaluate(new).numpy()
                goal = target * np.eye(value.shape[-1]) if np.ndim(target) == 0 and q.part == "symmetric" else target
                assert np.abs(value - goal).max() < 1e-9
                assert np.abs(q.evaluate(state).numpy() - goal).max() > 1e-3, "the case must ask for a movement"
    assert all(torch.equal(before[n], state[n]) for n in before)


@pytest.mark.parametrize("zoo", ["llama-tiny", "moe-tiny"])
def test_heads_planes_gates_and_translations_of_real_networks(zoo: str) -> None:
    """Every quantity with a moment is moved a little away from where it is, one at a time."""
    model, example = build(zoo)
    model = model.double()
    example = tuple(e.double() if e.is_floating_point() else e for e in example)
    cat = symdisc.discover(model, example)
    state = model.state_dict()
    moved = 0
    for i, q in enumerate(cat.conserved):
        if q.form != "moment" or len(cat.conserved) != len(cat.symmetries):
            continue
        here = q.evaluate(state).numpy()
        target = here + 0.1 * (np.eye(here.shape[-1]) if q.part == "symmetric" else 1 - q.zero_sum)
        new = cat.move_to(state, Q={i: target})
        assert np.abs(q.evaluate(new).numpy() - target).max() < 1e-8
        with torch.no_grad():
            change = torch.func.functional_call(model, new, example) - model(*example)
        assert float(change.abs().max()) < 1e-10
        moved += 1
    assert moved >= 3


@pytest.mark.parametrize("zoo", ["gpt2-tiny", "encoder-post"])
def test_whole_transformers_are_balanced(zoo: str) -> None:
    """Heads, gains, biases and the shear along 1, all at once; every Q vanishes, and no step along the orbit is shorter."""
    model, example = build(zoo)
    model = model.double()
    cat = symdisc.discover(model, example)
    state = model.state_dict()
    new = cat.move_to(state, Q="balanced")
    moved = [q for q in cat.conserved if q.form]
    assert len({q.symmetry.family for q in moved}) >= 3
    assert max(float(abs(q.evaluate(new)).max()) for q in moved) < 1e-9 < max(float(abs(q.evaluate(state)).max()) for q in moved)
    with torch.no_grad():
        change = torch.func.functional_call(model, new, example) - model(*example)
    assert float(change.abs().max()) < 1e-9

    def length(s: dict[str, Tensor]) -> float:
        return sum(float(s[n].square().sum()) for n in cat.parameters)

    assert length(new) < length(state)
    with_charge = {i for i, s in enumerate(cat.symmetries) if any(q.symmetry == s for q in moved)}
    for seed in range(3):
        g = cat.sample(seed=seed, scale=0.05, discrete=False)
        near = type(g)(tuple(f for f in g.factors if f.which in with_charge and f.kind == "continuous"))
        assert near.factors and length(cat.apply(new, near)) > length(new)


def test_a_bias_that_goes_to_zero_ends_there() -> None:
    """Its size shrinks with its Q: compared with itself it would never arrive."""
    key = nn.MultiheadAttention(4, 2, batch_first=True).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    cat = symdisc.discover(key, (x, x, x))
    index = next(i for i, q in enumerate(cat.conserved) if q.symmetry.name == "bias without effect")
    state = {n: t + 0.3 for n, t in key.state_dict().items()}
    new = cat.move_to(state, Q={index: "balanced"})
    assert float(new["in_proj_bias"][4:8].abs().max()) < 1e-12 and float(new["in_proj_bias"][:4].abs().min()) > 0.1


# --- the theorem on reachable values ----------------------------------------------------------------------------------
SHAPES = [(3, 4, 4, None, None), (50, 10, 5, None, None), (5, 3, 4, None, None), (5, 7, 2, None, None), (4, 6, 6, 2, 3), (6, 6, 6, 4, 4)]


def _pair(h: int, n: int, m: int, inner: int | None, outer: int | None) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(h + n)
    v = rng.normal(size=(h, n)) if inner is None else rng.normal(size=(h, inner)) @ rng.normal(size=(inner, n))
    u = rng.normal(size=(m, h)) if outer is None else rng.normal(size=(m, outer)) @ rng.normal(size=(outer, h))
    return v, u


def _charge(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    return (v @ v.T - u.T @ u) / 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("factor", [1.0, 0.01, 30.0])
def test_whatever_another_element_reaches_is_reached(shape: tuple[int, ...], factor: float) -> None:
    v, u = _pair(*shape)
    g0 = np.eye(shape[0]) + 0.3 * RNG(1).normal(size=(shape[0],) * 2) / shape[0] ** 0.5
    target = factor * _charge(g0 @ v, u @ np.linalg.inv(g0))
    g = gl_element(v, u.T, target)
    v1, u1 = g @ v, u @ np.linalg.inv(g)
    assert np.abs(_charge(v1, u1) - target).max() < 1e-10 * np.abs(target).max()
    assert np.abs(u1 @ v1 - u @ v).max() < 1e-11 * np.abs(u @ v).max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_outside_the_theorem_are_refused(shape: tuple[int, ...], sign: int) -> None:
    """One eigenvalue of one sign more than the rank of that side allows."""
    v, u = _pair(*shape)
    rank = np.linalg.matrix_rank(v if sign > 0 else u)
    if rank == shape[0]:
        v, u = v[:, :rank - 1], u[:rank - 1]  # leave room for one too many
        rank -= 1
    target = np.diag([float(sign)] * (rank + 1) + [0.0] * (shape[0] - rank - 1))
    with pytest.raises(BadInput, match="eigenvalues"):
        gl_element(v, u.T, target)


def test_a_wide_layer_has_no_balanced_point() -> None:
    model, cat, _ = _case(lambda: _linear(2, 5, 3), 2)
    with pytest.raises(BadInput, match="no change of basis leads to this value"):
        cat.move_to(model.state_dict(), Q="balanced")


def test_the_balanced_point_is_the_shortest() -> None:
    """Kempf-Ness: |theta|^2 on the orbit is least where Q = 0; in the closed form it is twice the nuclear norm of UV."""
    model, cat, _ = _case(lambda: _linear(4, 3, 5), 4)
    state = model.state_dict()
    new = cat.move_to(state, Q="balanced")
    nuclear = torch.linalg.svdvals(state["1.weight"] @ state["0.weight"]).sum()
    assert abs(sum(t.square().sum() for t in new.values()) - 2 * nuclear) < 1e-12


# --- scalings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("degrees", [(1.0, -1.0), (1.0, -2.0), (2.0, -0.5), (1.0, 2.0, -3.0)], ids=str)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_scales(degrees: tuple[float, ...], size: float) -> None:
    squares = {p: RNG(3).random(6) + 0.1 for p in degrees}
    target = size * np.array([1.0, -1, 0.3, -0.3, 1e-6, 0])
    s = scale_element(squares, target)
    value = sum(p / 2 * s ** (2 * p) * n for p, n in squares.items())
    assert np.abs(value - target).max() < 1e-12 * max(size, 1)


def test_a_scale_without_a_partner_cannot_reach_zero() -> None:
    with pytest.raises(BadInput, match="unit 1 cannot have the value 0"):
        scale_element({1.0: np.ones(2)}, np.array([1.0, 0.0]))


def test_a_dead_unit_stays_at_zero() -> None:
    zero = np.array([0.0, 1.0])
    assert scale_element({1.0: zero, -1.0: zero}, np.zeros(2))[0] == 1.0
    with pytest.raises(BadInput, match="only the value 0"):
        scale_element({1.0: zero, -1.0: zero}, np.ones(2))


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("targets, message", [
    ({"nothing": 0.0}, "no symmetry is called 'nothing'"),
    ({0: np.ones(4)}, "has shape"),
    ({0: np.array([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]])}, "symmetric matrix"),
    ({0: float("nan")}, "NaN"),
    ({0: "centred"}, "a target is a number"),
], ids=["name", "shape", "skew", "nan", "word"])
def test_bad_targets(targets: dict[object, object], message: str) -> None:
    model, cat, _ = _case(lambda: _linear(4, 3, 5), 4)
    with pytest.raises(BadInput, match=message):
        cat.move_to(model.state_dict(), Q=targets)


def test_a_symmetry_without_a_charge_is_refused_with_its_reason() -> None:
    model, cat, _ = _case(lambda: _linear(4, 3, 5, bias=True), 4)
    index = next(i for i, q in enumerate(cat.conserved) if not q.form)
    with pytest.raises(BadInput, match="cannot be moved to a value: the generator depends on"):
        cat.move_to(model.state_dict(), Q={index: 0.0})


def test_targets_that_contradict_each_other_are_refused() -> None:
    """The traces of both charges of three layers cannot both be far below zero and above what the middle layer allows."""
    model, cat, _ = _case(lambda: _linear(1, 1, 1, 1), 1)
    with pytest.raises((BadInput, Undecided)):
        cat.move_to({n: t * 0 for n, t in model.state_dict().items()}, Q={0: 1.0, 1: 1.0})
