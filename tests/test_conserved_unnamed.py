"""Linear symmetries without a name under every flow: charges along flows of order eight, the constraint where there is none, and twins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

from symdisc.conserved import ConservedQuantity, Flow, conserved_quantities
from symdisc.conserved.linear import pairings
from symdisc.generators import Generator, Part
from symdisc.symmetry import Symmetry

State = dict[str, np.ndarray]
KEPT, BROKEN = 1e-10, 1e-5
SHAPES = {"w": (2, 3), "v": (1,)}
TURN = Generator((Part("w", 0, ((0, 1, 1.0), (1, 0, -1.0))),))
GROW = Generator((Part("w", 0, ((0, 0, 1.0), (1, 1, 1.0))), Part("v", -1, ((0, 0, -0.5),))))
BOTH = Symmetry("x", "G", "linear", "", ("w", "v"), 2, "witnessed", (2,), generators=(TURN, GROW))
RATES, LAM, TAU = {"w": 0.5, "v": 1.5}, 0.2, 0.4
CURVED = {"P": "1 + theta**2"}


def gradient(p: State) -> State:
    """Of 1/2 |G - T|^2 with G = e^(4v) w^T w, which neither a turn of the rows of w sees, nor w -> e^s w with v -> v - s/2."""
    target = np.array([[1.0, 0.2, 0.1], [0.2, 0.8, -0.3], [0.1, -0.3, 1.2]])
    gram = np.exp(4 * p["v"][0]) * p["w"].T @ p["w"]
    rest = gram - target
    return {"w": 2 * np.exp(4 * p["v"][0]) * p["w"] @ rest, "v": np.array([4 * (rest * gram).sum()])}


def unpacked(flat: np.ndarray) -> State:
    return {"w": flat[:6].reshape(2, 3), "v": flat[6:7]}


def start(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.3, 0.9, 7)


def solved(right: Callable[[float, np.ndarray], np.ndarray], begin: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    found = solve_ivp(right, span, begin, method="DOP853", rtol=1e-13, atol=1e-14)
    assert found.success
    return found.y[:, -1]


Metric = dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]]


def metric(flow: Flow) -> Metric:
    """P and rho of each parameter as functions of its values."""
    theta = sp.Symbol("theta", real=True)

    def compiled(e: sp.Expr) -> Callable[[np.ndarray], np.ndarray]:
        found = sp.lambdify(theta, e.subs({s: theta for s in e.free_symbols}), "numpy")
        return lambda x: found(x) + 0 * x  # constants, too, in the shape of x

    return {n: (compiled(flow.at(n).precondition), compiled(flow.at(n).rho)) for n in SHAPES}


def force(local: Metric, p: State) -> State:
    """P (grad + rho)."""
    slopes = gradient(p)
    return {n: local[n][0](x) * (slopes[n] + local[n][1](x)) for n, x in p.items()}


FIRST = {
    "gradient": Flow(),
    "rates": Flow("learning_rates", {"eta": RATES}),
    "decay": Flow("weight_decay", {"lam": LAM}),
    "decay of one": Flow("weight_decay", {"lam": {"w": LAM, "v": 0}}),
    "preconditioned": Flow("preconditioned", {**CURVED, "lam": 0}),
    "preconditioned, decay": Flow("preconditioned", {**CURVED, "lam": LAM}),
    "entropic": Flow("entropic_mirror"),
    "mixed mirror": Flow(others={"w": Flow("entropic_mirror")}),
}


@pytest.mark.parametrize("name", FIRST)
def test_charges_without_inertia(name: str) -> None:
    """Conserved to 1e-10, or changed by exactly the integral of -<rho, X>; a wrong sign is seen."""
    flow = FIRST[name]
    (q,) = conserved_quantities([BOTH], SHAPES, flow)
    assert q.form == "linear" and q.dimension == 1 and q.latex() and ConservedQuantity.from_dict(q.to_dict()) == q
    assert q.status == ("driven" if "decay" in name else "conserved")

    local = metric(flow)

    def right(_: float, flat: np.ndarray) -> np.ndarray:
        p = unpacked(flat)
        moved = force(local, p)
        push = float(pairings([GROW], p, {n: local[n][1](x) for n, x in p.items()})[0])
        return -np.concatenate([moved["w"].ravel(), moved["v"], [push]])

    begin = np.append(start(), 0.0)
    end = solved(right, begin, (0.0, 0.5))
    change = float((q.evaluate(unpacked(end)) - q.evaluate(unpacked(begin)))[0])
    assert abs(change - end[-1]) < KEPT
    parts = q.generators[0].parts
    wrong = replace(q, generators=(Generator((parts[0], replace(parts[1], entries=tuple((i, j, -v) for i, j, v in parts[1].entries)))),))
    assert abs(float((wrong.evaluate(unpacked(end)) - wrong.evaluate(unpacked(begin)))[0]) - end[-1]) > BROKEN


SECOND = {
    "momentum": Flow("momentum", {"tau": TAU, "lam": 0}),
    "momentum, decay": Flow("momentum", {"tau": TAU, "lam": LAM}),
    "momentum, rates": Flow("momentum", {"tau": TAU, "eta": RATES, "lam": 0}),
    "Nesterov": Flow("nesterov", {"lam": 0}),
}


@pytest.mark.parametrize("name", SECOND)
def test_charges_with_inertia(name: str) -> None:
    """f(t) <P^-1 theta', A theta> is kept; what grows obeys its driven equation; a matrix with one wrong sign does not keep."""
    flow = SECOND[name]
    kept, driven = conserved_quantities([BOTH], SHAPES, flow)
    assert (kept.form, kept.status, kept.dimension) == ("momentum", "conserved", 1)
    assert (driven.form, driven.status, driven.dimension) == ("linear", "driven", 1)
    assert kept.latex() and kept.expression is not None and ConservedQuantity.from_dict(kept.to_dict()) == kept

    local = metric(flow)

    def friction(t: float) -> float:
        return 3 / t if name == "Nesterov" else TAU

    def right(t: float, flat: np.ndarray) -> np.ndarray:
        p, v = unpacked(flat[:7]), flat[7:14]
        speed, pull = unpacked(v), np.concatenate([f.ravel() for f in force(local, p).values()])
        source = sum(float(pairings([Generator((part,))], speed, speed)[0]) for part in driven.generators[0].parts if part.axis >= 0)
        push = float(pairings(driven.generators, p, {n: local[n][0](x) * local[n][1](x) for n, x in p.items()})[0])
        return np.concatenate([v, -friction(t) * v - pull, [flat[15]], [-friction(t) * flat[15] - push + source]])

    rng = np.random.default_rng(3)
    begin = np.concatenate([start(), 0.3 * rng.standard_normal(7), [0.0, 0.0]])
    p, v = unpacked(begin[:7]), unpacked(begin[7:14])
    begin[14:] = driven.evaluate(p)[0], pairings(driven.generators, p, v)[0]
    span = (0.5, 1.5)
    end = solved(right, begin, span)
    then = (unpacked(end[:7]), unpacked(end[7:14]))
    before, after = kept.evaluate(p, v, span[0]), kept.evaluate(*then, span[1])
    assert abs(float((after - before)[0])) < KEPT < abs(float(before[0]))
    assert abs(float(driven.evaluate(then[0])[0]) - end[14]) < KEPT
    mirror = replace(kept, generators=(Generator((Part("w", 0, ((0, 1, 1.0), (1, 0, 1.0))),)),))
    assert abs(float((mirror.evaluate(*then, span[1]) - mirror.evaluate(p, v, span[0]))[0])) > BROKEN


@pytest.mark.parametrize("flow, constraint", [
    (Flow(), r"\langle \dot\theta, X_a(\theta) \rangle = 0"),
    (Flow("learning_rates", {"eta": RATES}), r"\langle \dot\theta, X_a"),
    (Flow("weight_decay", {"lam": LAM}), r"\langle \dot\theta + \rho(\theta), X_a"),
    (Flow("preconditioned", {**CURVED, "lam": LAM}), r"\langle P^{-1}\dot\theta + \rho(\theta), X_a"),
    (Flow("entropic_mirror"), r"\langle P^{-1}\dot\theta, X_a"),
    (Flow("natural_gradient"), r"\langle \dot\theta, X_a"),
], ids=lambda v: v.name if isinstance(v, Flow) else "")
def test_a_turn_gives_the_constraint_of_the_flow(flow: Flow, constraint: str) -> None:
    """What the words say, along the field itself: <P^-1 theta' + rho, A theta> = 0."""
    (q,) = conserved_quantities([replace(BOTH, generators=(TURN,))], SHAPES, flow)
    assert q.status == "none" and q.constraint.startswith(constraint)
    if flow.name != "natural_gradient":
        p, local = unpacked(start(2)), metric(flow)
        moved = force(local, p)
        covector = {n: -moved[n] / local[n][0](p[n]) + local[n][1](p[n]) for n in p}
        assert abs(float(pairings([TURN], p, covector)[0])) < 1e-12
        mirror = Generator((Part("w", 0, ((0, 1, 1.0), (1, 0, 1.0))),))
        assert abs(float(pairings([mirror], p, covector)[0])) > BROKEN


def test_several_rates_show_the_metric_in_the_constraint() -> None:
    (q,) = conserved_quantities([BOTH], SHAPES, Flow("learning_rates", {"eta": RATES}))
    assert q.constraint.startswith(r"\langle P^{-1}\dot\theta, X_a")
    _, driven = conserved_quantities([BOTH], SHAPES, Flow("nesterov", {"lam": 0}))
    assert not driven.constraint and r"\ddot Q + \frac{3}{t}\,\dot Q" in driven.law
    (adam,) = conserved_quantities([BOTH], SHAPES, Flow("adam"))
    assert adam.status == "none" and not adam.constraint


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_formula_names_the_parameter_in_its_own_shape(axis: int) -> None:
    """A matrix is itself or its transpose, more axes are unfolded; in numbers the formula is what is evaluated, another axis is not."""
    shape = (3, 3, 3) if axis == 2 else (3, 3)
    entries = ((0, 0, 2.0), (1, 1, 0.5), (0, 1, 0.3), (1, 0, 0.3))
    generators = (Generator((Part("w", axis, entries),)), Generator((Part("w", axis, ((2, 2, 1.0),)),)))
    symmetry = Symmetry("x", "G", "linear", "", ("w",), 2, "witnessed", (2,), generators=generators)
    (q,) = conserved_quantities([symmetry], {"w": shape})
    w = np.random.default_rng(0).standard_normal(shape)
    expression = q.expression
    assert expression is not None
    (symbol,) = expression.atoms(sp.MatrixSymbol)
    assert symbol.name == ("w[2]" if axis == 2 else "w")

    def by_formula(values: np.ndarray) -> list[float]:
        return [float(v) for v in expression.subs(symbol, sp.Matrix(values.reshape(symbol.shape))).doit()]

    unfolded = np.moveaxis(w, 2, 0) if axis == 2 else w
    assert q.evaluate({"w": w}).tolist() == pytest.approx(by_formula(unfolded), rel=1e-12)
    assert q.evaluate({"w": w}).tolist() != pytest.approx(by_formula(unfolded.swapaxes(0, 1)), rel=1e-3)


def test_one_plane_keeps_its_angle_and_two_do_not() -> None:
    """omega / r^2 = d atan2 in a single plane; along a flow in two planes the angle of each moves. With inertia no angle is kept."""
    turn = ((0, 1, 1.0), (1, 0, -1.0))
    one, two = (Generator(tuple(Part(n, 0, turn) for n in names)) for names in (("a",), ("a", "b")))
    shapes = {"a": (3,), "b": (3,)}

    def answer(g: Generator, flow: Flow | None = None) -> ConservedQuantity:
        symmetry = Symmetry("x", "G", "linear", "", g.parameters, 1, "witnessed", (1,), generators=(g,))
        return conserved_quantities([symmetry], shapes, flow)[-1]

    angle, none = answer(one), answer(two)
    assert (angle.status, angle.form, angle.dimension) == ("conserved", "plane", 1) and "1/r^2" in angle.reason
    assert (none.status, none.form) == ("none", "") and "two or more planes" in none.reason
    assert ConservedQuantity.from_dict(angle.to_dict()) == angle and "atan" in angle.latex()

    def right(coupled: float, y: np.ndarray) -> np.ndarray:
        # down 1/2 (|a|^2 - 1)^2 + coupled a.b + ...: for 0 a alone may turn, for 1 only both
        a, b = y[:2], y[3:5]
        return -np.concatenate([2 * (a @ a - 1) * a + coupled * b, [y[2] - 0.3], coupled * a + b, [y[5]]])

    begin = np.array([0.9, 0.4, 0.1, -0.3, 0.8, 0.2])
    for coupled, kept in ((0.0, True), (1.0, False)):
        end = solved(partial(lambda c, _, y: right(c, y), coupled), begin, (0.0, 0.5))
        change = [float(angle.evaluate({"a": y[:3], "b": y[3:]}).item()) for y in (begin, end)]
        assert abs(end - begin).max() > 0.05 and (abs(change[1] - change[0]) < KEPT) == kept
    assert answer(one, Flow("momentum", {"tau": 1, "lam": 0})).form != "plane"
