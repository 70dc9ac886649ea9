"""The studies of conserved quantities at small sizes: numbers against closed forms, and false twins that must be refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from symdisc.conserved import elementwise_law
from symdisc.studies import Run, valley
from symdisc.studies import q_convergence as convergence
from symdisc.studies import q_distribution as distribution
from symdisc.studies import q_dynamics as dynamics
from symdisc.studies import q_sharpness as sharpness
from symdisc.studies.orbits import Orbit
from symdisc.studies.seednet import ACTIVATIONS, descend, draw, hessian

NAMES = tuple(ACTIVATIONS)
# "mean theory" and "std theory", in the normalisation of the code published with arXiv:2210.17216: factor, offset per h n
PUBLISHED = {("linear", 100, 100, 100): (0.0, 2.0), ("relu", 100, 100, 100): (50.0, 1.803), ("tanh", 100, 100, 100): (-10001.007, 2.020),
             ("sigmoid", 100, 100, 100): (-10000.125, 20.08), ("linear", 100, 200, 100): (-100.0, 2.236),
             ("linear", 200, 100, 100): (100.0, 2.449)}
CODE = {"linear": (2, 0), "relu": (2, 0), "tanh": (2, -1), "sigmoid": (1, -1)}


# --- the network ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_potentials_are_those_that_sympy_derives(name: str) -> None:
    act = ACTIVATIONS[name]
    law = elementwise_law("x" if name == "linear" else name)
    _, u, v = draw(3, 4, 5, 6, [0.7])
    assert np.allclose(law.evaluate(u[0], v[0]), act.charges(u[0], v[0]), rtol=1e-12, atol=1e-12)
    step, x = 1e-6, v[0] + 1e-3
    ratio = lambda z: act.value(z) / np.where(act.slope(z) == 0, 1, act.slope(z))  # noqa: E731
    assert np.allclose((ratio(x + step) - ratio(x - step)) / (2 * step), act.spread(x), atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_hessian_is_that_of_the_loss(name: str) -> None:
    act = ACTIVATIONS[name]
    y, u, v = (a if a.ndim == 2 else a[0] for a in draw(1, 2, 3, 2, [0.8]))
    theta, step = np.concatenate([u.ravel(), v.ravel()]), 1e-4

    def loss(t: np.ndarray) -> float:
        return float(((t[:4].reshape(2, 2) @ act.value(t[4:].reshape(3, 2)).T - y) ** 2).sum())

    e = np.eye(10) * step
    slow = [[(loss(theta + a + b) - loss(theta + a - b) - loss(theta - a + b) + loss(theta - a - b)) / (4 * step**2) for b in e] for a in e]
    assert np.allclose(hessian(act, y, u, v), slow, atol=1e-5)


# --- distribution -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_closed_forms_are_the_published_ones(case: tuple[str, int, int, int]) -> None:
    name, _, h, n = case
    factor, offset = CODE[name]
    mean, std = distribution.closed_form(*case)
    assert factor * mean + offset * h * n == pytest.approx(PUBLISHED[case][0], abs=2e-3)
    assert factor * std == pytest.approx(PUBLISHED[case][1], abs=6e-3)


@pytest.mark.parametrize("name", NAMES)
def test_draws_follow_the_closed_forms(name: str) -> None:
    values = distribution.sample_charges(name, 20, 30, 10, 2000, 0)
    mean, std = distribution.closed_form(name, 20, 30, 10)
    assert abs(values.mean() - mean) < 4 * std / 2000**0.5 and abs(values.std() - std) < 4.5 * std / 4000**0.5
    false_mean, _ = distribution.closed_form(name, 20, 36, 10)  # the twin: another width
    assert abs(values.mean() - false_mean) > 4 * std / 2000**0.5


# --- dynamics ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_drift_is_of_first_order_and_predicted(name: str) -> None:
    f = dynamics.measure(name, 2000, 0)
    measured, predicted = np.array(f["drift"][-1]), np.array(f["predicted"][-1])
    assert np.allclose(predicted[1:] / measured[1:], 1, atol=0.02)
    if name == "linear":
        assert np.allclose(predicted, measured, rtol=1e-7)
    assert max(f["unit"][-1]) < 1e-2 and f["unit"][-1][2] < 1e-4


def test_a_charge_with_the_wrong_sign_is_not_kept() -> None:
    y, u, v = draw(0, 5, 10, 50, [0.1])
    t = descend(ACTIVATIONS["tanh"], y, u, v, [0.01], [0, 3000])
    true = abs(float((t.charges[-1] - t.charges[0]).sum()))
    false = [(a**2).sum() / 2 + (np.sinh(b) ** 2).sum() / 2 for a, b in ((u, v), (t.u, t.v))]
    assert true < 1e-3 < 1 < abs(false[1] - false[0])


# --- convergence ------------------------------------------------------------------------------------------------------
def test_radial_time_scales_as_q() -> None:
    f = convergence.radial(20_000, 0)
    assert np.ptp(f["losses"][0]) < 1e-15
    assert convergence.stretched(f) < 1e-3
    false = {**f, "losses": [[row[0], row[1], row[3], row[2]] for row in f["losses"]]}
    assert convergence.stretched(false) > 1e-2


@pytest.mark.parametrize("q", [0.5, 1.0])
def test_the_rate_follows_from_q_and_y(q: float) -> None:
    f = convergence.alone("linear", q, 4000, 0)
    sigma = np.linalg.svd(draw(0, 5, 10, 5, [0.1])[0], compute_uv=False)
    assert f["function_change"] < 1e-14
    assert f["drift"] < 0.02
    for key in ("local", "rate"):
        assert f[key] == pytest.approx(convergence.balanced_rate(sigma, q), rel=0.02)
    assert f["rate"] != pytest.approx(convergence.balanced_rate(sigma, -q), rel=0.2)  # the twin: it is not |Q| that counts


# --- sharpness --------------------------------------------------------------------------------------------------------
def test_linear_spectrum_and_fifty_of_seven_hundred_and_fifty() -> None:
    rows = sharpness.published("linear", 4000, 0)
    for r in rows:
        assert r["nonzero"] == 50 and r["loss"] < 1e-5
        assert np.allclose(r["spectrum"], r["closed"], rtol=1e-6)
    assert rows[0]["top"][0] == pytest.approx(rows[0]["floor"], rel=1e-4)
    assert rows[-1]["top"][0] > 5 * rows[0]["top"][0]


def test_sharpness_of_one_minimum_is_a_function_of_q() -> None:
    for rows, key in ((sharpness.toy(), "Q"), (sharpness.shifted(0), "q")):
        assert all(r["sharpness"] == pytest.approx(r["predicted"], rel=1e-10) for r in rows)
        assert min(rows, key=lambda r: r["sharpness"])[key] == 0
    assert all(r["loss"] < 1e-20 for r in sharpness.shifted(0))


def test_the_valley_is_flat_and_mostly_out_of_reach() -> None:
    found = valley.survey(5, 0)
    q = np.array(found["axis"])
    assert np.max(found["losses"]) < 1e-24
    assert np.allclose(found["sharpness"], 4 * np.sqrt(1 + np.maximum(q[:, None] ** 2, q**2)), rtol=1e-10)
    shares = [valley.reach(w, 0)["share"] for w in valley.WIDTHS]
    assert 0.01 < shares[1] < 0.05 and shares[0] > 5 * shares[1] > 25 * shares[2]


def test_an_orbit_keeps_the_function() -> None:
    _, u, v = draw(0, 4, 6, 3, [1.0])
    for name in ("linear", "relu"):
        a, b = Orbit(name, u[0], v[0]).at(0.7)
        act = ACTIVATIONS[name]
        assert np.abs(a @ act.value(b).T - u[0] @ act.value(v[0]).T).max() < 1e-13
        assert np.allclose(((a**2).sum(0) - (b**2).sum(0)) / 2, 0.7, atol=1e-12)


def test_a_whole_study_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamics, "QUICK", 300)
    run = Run(tmp_path, quick=True)
    dynamics.study(run)
    assert run.passed
    assert {f.name for f in run.files} == {"drift.csv", "curves.csv", "dynamics.png", "dynamics.svg", "README.md"}
    assert "**FAILS**" not in (tmp_path / "README.md").read_text()
