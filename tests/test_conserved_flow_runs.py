"""Each training flow integrated by an eighth-order method: its law holds to 1e-10, and one wrong sign does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp
from sympy.core.function import AppliedUndef

import symdisc
from symdisc.conserved import ConservedQuantity, Flow, conserved_quantities

State = dict[str, np.ndarray]
NAMES, SHAPES = ("0.weight", "1.weight"), ((2, 3), (3, 2))
DATA = np.random.default_rng(7)
X, Y = DATA.standard_normal((3, 5)), DATA.standard_normal((3, 5))
LAM, RATES = 0.3, {"0.weight": 0.5, "1.weight": 1.5}


@cache
def catalog() -> symdisc.Catalog:
    net = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 3, bias=False)).double()
    return symdisc.discover(net, (torch.randn(4, 3, dtype=torch.float64),), solve=False)


def start() -> State:
    rng = np.random.default_rng(1)
    return {n: rng.uniform(0.2, 0.9, s) for n, s in zip(NAMES, SHAPES, strict=True)}


def gradient(p: State) -> State:
    """Of 1/2 |W1 W0 X - Y|^2."""
    rest = p["1.weight"] @ p["0.weight"] @ X - Y
    return {"0.weight": p["1.weight"].T @ rest @ X.T, "1.weight": rest @ (p["0.weight"] @ X).T}


def natural(p: State) -> State:
    """The gradient preconditioned by the pseudo-inverse of J^T J."""
    columns = []
    for n, s in zip(NAMES, SHAPES, strict=True):
        for k in range(int(np.prod(s))):
            d = np.zeros(s)
            d.flat[k] = 1
            w0, w1 = (d, p["1.weight"]) if n == NAMES[0] else (p["0.weight"], d)
            columns.append((w1 @ w0 @ X).ravel())
    j = np.array(columns).T
    g = np.concatenate([gradient(p)[n].ravel() for n in NAMES])
    flat = np.linalg.pinv(j.T @ j, rcond=1e-9) @ g
    return {NAMES[0]: flat[:6].reshape(SHAPES[0]), NAMES[1]: flat[6:].reshape(SHAPES[1])}


def each(f: Callable[[str, np.ndarray, np.ndarray], np.ndarray]) -> Callable[[State], State]:
    return lambda p: {n: f(n, p[n], g) for n, g in gradient(p).items()}


FLOWS: dict[str, tuple[Flow, Callable[[State], State]]] = {
    "gradient": (Flow(), each(lambda n, w, g: -g)),
    "rates": (Flow("learning_rates", {"eta": RATES}), each(lambda n, w, g: -RATES[n] * g)),
    "decay": (Flow("weight_decay", {"lam": LAM}), each(lambda n, w, g: -g - LAM * w)),
    "decay and rates": (Flow("decoupled_weight_decay", {"eta": RATES, "lam": LAM}), each(lambda n, w, g: -RATES[n] * g - LAM * w)),
    "preconditioned": (Flow("preconditioned", {"P": "1 + theta**2", "lam": 0}), each(lambda n, w, g: -(1 + w**2) * g)),
    "entropic": (Flow("entropic_mirror"), each(lambda n, w, g: -w * g)),
    "mixed mirror": (Flow(others={"0.weight": Flow("entropic_mirror")}), each(lambda n, w, g: -(w if n == "0.weight" else 1) * g)),
    "shared moment": (Flow("shared_second_moment", {"lam": LAM}), each(lambda n, w, g: -0.7 * (g + LAM * w))),
    "natural": (Flow("natural_gradient"), lambda p: {n: -g for n, g in natural(p).items()}),
}


def run(field: Callable[[State], State], until: float) -> State:
    def unpack(flat: np.ndarray) -> State:
        return {NAMES[0]: flat[:6].reshape(SHAPES[0]), NAMES[1]: flat[6:].reshape(SHAPES[1])}

    def right(_: float, flat: np.ndarray) -> np.ndarray:
        moved = field(unpack(flat))
        return np.concatenate([moved[n].ravel() for n in NAMES])

    flat = np.concatenate([start()[n].ravel() for n in NAMES])
    return unpack(solve_ivp(right, (0, until), flat, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1])


def miss(q: ConservedQuantity, end: State, until: float) -> float:
    """|Q(t) - Q(0) e^(-k t)|; the shared second moment n(t) in a rate is 0.7 here."""
    rate = float(sp.sympify(q.rate).replace(lambda e: isinstance(e, AppliedUndef), lambda e: sp.Float(0.7)))
    return float(abs(q.evaluate(end) - q.evaluate(start()) * np.exp(-rate * until)).max())


@pytest.mark.parametrize("name", FLOWS)
def test_laws_of_each_flow(name: str) -> None:
    (flow, field), until = FLOWS[name], 0.1
    cat = catalog()
    found = [q for q in conserved_quantities(cat.symmetries, cat.parameters, flow) if q.form]
    assert found and all(q.status in ("conserved", "decays") for q in found)
    end = run(field, until)
    assert max(abs(end[n] - start()[n]).max() for n in NAMES) > 1e-2
    for q in found:
        assert miss(q, end, until) < 1e-10
        twin = replace(q, terms=(replace(q.terms[0], weight=-q.terms[0].weight), *q.terms[1:]))
        assert miss(twin, end, until) > 1e-4
    if name != "gradient" and name != "natural":  # the law of plain gradient flow is another one
        (plain,) = [q for q in cat.conserved if q.form]
        assert float(abs(plain.evaluate(end) - plain.evaluate(start())).max()) > 1e-5


@pytest.mark.parametrize("rule", ["adam", "adamw", "rmsprop"])
def test_what_adam_loses_is_said(rule: str) -> None:
    cat = catalog()
    for q in conserved_quantities(cat.symmetries, cat.parameters, Flow(rule)):
        assert not q.form and "second moment shared" in q.reason and r"\dot Q = -" in q.law
