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


# --- Nesterov's flow: friction 3/t ----------------------------------------------------------------------------------------
def accelerated(lam: float, source: Callable[[State], np.ndarray], first: tuple[np.ndarray, np.ndarray],
                friction: float = 3.0) -> tuple[State, State, np.ndarray]:
    """theta'' + (3/t) theta' + grad + lam theta = 0 from t = 1 to 1.4; theta, theta', and Q by its own driven equation

    Q'' + (friction/t) Q' + 2 lam Q = source(theta') from Q, Q' = ``first``.
    """
    def unpack(flat: np.ndarray) -> State:
        return {NAMES[0]: flat[:6].reshape(SHAPES[0]), NAMES[1]: flat[6:12].reshape(SHAPES[1])}

    size = first[0].size

    def right(t: float, flat: np.ndarray) -> np.ndarray:
        theta, speed, q, rate = unpack(flat), unpack(flat[12:24]), flat[24:24 + size], flat[24 + size:]
        g = gradient(theta)
        force = np.concatenate([(-3 / t * speed[n] - g[n] - lam * theta[n]).ravel() for n in NAMES])
        return np.concatenate([flat[12:24], force, rate, source(speed).ravel() - friction / t * rate - 2 * lam * q])

    flat = np.concatenate([*(start()[n].ravel() for n in NAMES), *(VELOCITY[n].ravel() for n in NAMES), *(x.ravel() for x in first)])
    end = solve_ivp(right, (1.0, 1.4), flat, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return unpack(end), unpack(end[12:24]), end[24:24 + size].reshape(first[0].shape)


VELOCITY = {n: np.random.default_rng(k).standard_normal(s) for k, (n, s) in enumerate(zip(NAMES, SHAPES, strict=True))}


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_nesterov_keeps_the_antisymmetric_charge_and_drives_the_symmetric_one(lam: float) -> None:
    """t^3 <theta', A theta> is constant; Q'' + (3/t) Q' + 2 lam Q = <theta', S theta'>. A twin with another friction misses."""
    cat = catalog()
    found = conserved_quantities(cat.symmetries, cat.parameters, Flow("nesterov", {"eta": 1, "lam": lam}))
    (compact,) = [q for q in found if q.form == "momentum"]
    (driven,) = [q for q in found if q.status == "driven"]
    (plain,) = [q for q in cat.conserved if q.form]
    assert compact.factor == "t**3" and r"\frac{3}{t}" in driven.law and compact.dimension == 1 and driven.dimension == 3

    def source(speed: State) -> np.ndarray:
        return np.asarray(2 * plain.evaluate(speed))  # Q is 1/2 <theta, S theta>

    rate = np.asarray(plain.evaluate({n: start()[n] + VELOCITY[n] for n in NAMES})) - np.asarray(plain.evaluate(
        {n: start()[n] - VELOCITY[n] for n in NAMES}))
    first = (np.asarray(driven.evaluate(start())), rate / 2)
    theta, speed, predicted = accelerated(lam, source, first)
    kept = [np.asarray(compact.evaluate(p, v, t)) for p, v, t in ((start(), VELOCITY, 1.0), (theta, speed, 1.4))]
    assert abs(kept[1] - kept[0]).max() < 1e-10 < 1e-2 < abs(kept[0]).max()
    assert abs(kept[1] / 1.4**3 * 1.4**2 - kept[0]).max() > 1e-2  # t^2 is not the factor
    assert abs(predicted - np.asarray(driven.evaluate(theta))).max() < 1e-10
    assert abs(accelerated(lam, source, first, friction=2.0)[2] - np.asarray(driven.evaluate(theta))).max() > 1e-2
