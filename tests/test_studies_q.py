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


# SEED_RESULTS section 2, "mean measured" and "std measured", of the published list of seeds
@pytest.mark.parametrize(("case", "mean", "std"), [(("linear", 100, 100, 100), 0.064, 1.939),
                                                  (("sigmoid", 100, 100, 100), -10000.22, 20.82)], ids=["linear", "sigmoid"])
def test_published_draws_give_the_published_table(case: tuple[str, int, int, int], mean: float, std: float) -> None:
    values = distribution.published_charges(*case, 1000)
    factor, offset = CODE[case[0]]
    assert factor * values.mean() + offset * case[2] * case[3] == pytest.approx(mean, abs=6e-3)
    assert factor * values.std(ddof=1) == pytest.approx(std, abs=6e-3)


# --- dynamics ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_drift_is_of_first_order_and_predicted(name: str) -> None:
    f = dynamics.measure(name, 2000, 0)
    measured, predicted = np.array(f["drift"][-1]), np.array(f["predicted"][-1])
    assert np.allclose(predicted[1:] / measured[1:], 1, atol=0.02)
    if name == "linear":
        assert np.allclose(predicted, measured, rtol=1e-7)
    assert max(f["unit"][-1]) < 1e-2 and f["unit"][-1][2] < 1e-4


# name: the drift of Q, that of the unit that drifts most, and |Y - F| after 40,000 steps at rates 0.1, 0.01, 0.001
DRIFTS = {"linear": ((-2.499e-3, -2.490e-4, -2.488e-5), (7.3e-4, 7.3e-5, 7.3e-6), (4.7e-15, 1.4e-13, 0.0843)),
          "relu": ((8.45e-4, 8.37e-5, 7.75e-6), (6.4e-4, 6.4e-5, 6.4e-6), (1.4e-14, 2.1e-6, 0.570)),
          "tanh": ((-3.73e-3, -3.72e-4, -3.72e-5), (6.7e-4, 6.7e-5, 6.7e-6), (5.4e-15, 1.8e-13, 0.109)),
          "sigmoid": ((1.068e-2, 7.78e-4, 8.54e-5), (5.5e-4, 4.9e-5, 3.9e-6), (3.8e-14, 2.0e-3, 5.25))}
STARTS = {"linear": -1.926, "relu": 0.309, "tanh": -501.965, "sigmoid": -501.690}  # normalised as the published code does


@pytest.mark.parametrize("name", NAMES)
def test_drifts_are_those_of_the_published_weights(name: str) -> None:
    f = dynamics.measure(name, 40_000, 0)
    drift, unit, loss = DRIFTS[name]
    factor, offset = CODE[name]
    assert factor * f["start"][0] + offset * 500 == pytest.approx(STARTS[name], abs=6e-4)
    assert np.allclose(f["drift"][-1], drift, rtol=1.4e-3)  # half a unit of the last of three digits
    assert np.allclose(f["unit"][-1], unit, rtol=0.015)
    assert np.allclose(f["losses"][-1][-1:], loss[-1:], rtol=3e-3)
    assert np.allclose(f["losses"][-1][:-1], loss[:-1], rtol=0.03, atol=1e-14)  # the floor of rounding


def test_a_charge_with_the_wrong_sign_is_not_kept() -> None:
    y, u, v = draw(0, 5, 10, 50, [0.1])
    t = descend(ACTIVATIONS["tanh"], y, u, v, [0.01], [0, 3000])
    true = abs(float((t.charges[-1] - t.charges[0]).sum()))
    false = [(a**2).sum() / 2 + (np.sinh(b) ** 2).sum() / 2 for a, b in ((u, v), (t.u, t.v))]
    assert true < 1e-3 < 1 < abs(false[1] - false[0])


# --- convergence ------------------------------------------------------------------------------------------------------
def test_radial_time_scales_as_q() -> None:
    f = convergence.radial(20_000, 0)
    assert np.ptp(f["losses"][0]) < 1e-7  # the published draws are rounded to float32
    assert convergence.stretched(f) < 1e-3
    false = {**f, "losses": [[row[0], row[1], row[3], row[2]] for row in f["losses"]]}
    assert convergence.stretched(false) > 1e-2
    assert convergence.stretched(convergence.radial(700_000, 0)) < 1e-3  # through the steep falls, too


def test_radial_runs_are_the_published_ones() -> None:
    f = convergence.radial(5_000, 0)
    assert np.allclose(f["start"], [0.002056, 0.2056, 20.56, 2055.8], rtol=3e-4)
    told = {0: [0.1349] * 4, 1_000: [5.9e-8, 0.1008, 0.1303, 0.1349], 5_000: [0.0, 0.0551, 0.1217, 0.1347]}
    for step, losses in told.items():
        assert np.allclose(f["losses"][f["steps"].index(step)], losses, rtol=0.01, atol=6e-5 if step != 1_000 else 6e-10), step


# |Y - F| at the start and after 10,000 steps, for deviations 0.01, 0.1, 1
@pytest.mark.parametrize(("name", "start", "later"), [("linear", (7.286, 7.297, 45.08), (7.172, 3.144, 1.6e-7)),
                                                      ("relu", (7.287, 7.333, 33.61), (7.255, 5.307, 4.1e-3)),
                                                      ("tanh", (7.286, 7.296, 32.21), (7.173, 3.294, 1.4e-3)),
                                                      ("sigmoid", (7.314, 7.723, 22.94), (7.090, 6.911, 2.090))])
def test_losses_are_those_of_the_published_weights(name: str, start: tuple[float, ...], later: tuple[float, ...]) -> None:
    f = convergence.published(name, 10_000, 0)
    assert np.allclose(f["losses"][0], start, rtol=2e-4) and np.allclose(f["losses"][-1], later, rtol=0.03)


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
# top three eigenvalues and trace of the Hessian, for deviations 0.001, 0.3, 0.6, 0.9
SPECTRA = {
    "linear": ((17.73, 16.4, 16.4, 471.8), (30.01, 28.95, 27.81, 997.2),
               (107.48, 103.21, 95.94, 3341.3), (239.51, 229.37, 213.4, 7398.1)),
    "relu": ((17.18, 16.33, 15.4, 394.4), (22.25, 21.76, 20.57, 611.4),
             (66.45, 62.34, 59.2, 1559.5), (146.72, 136.54, 128.72, 3308.6)),
    "tanh": ((16.02, 15.42, 15.28, 437.4), (25.15, 24.17, 23.36, 842.0),
             (69.69, 65.16, 60.09, 2141.4), (117.78, 109.93, 101.99, 3518.9)),
    "sigmoid": ((127.09, 126.6, 126.4, 1338.3), (127.71, 127.24, 127.12, 1364.0),
                (129.72, 129.6, 129.08, 1459.8), (133.58, 133.33, 132.5, 1614.7))}


@pytest.mark.parametrize("name", NAMES)
def test_spectra_are_the_published_ones_and_fifty_of_seven_hundred_and_fifty(name: str) -> None:
    rows = sharpness.published(name, sharpness.STEPS[name], 0)
    for r, told in zip(rows, SPECTRA[name], strict=True):
        assert r["nonzero"] == 50 and r["loss"] < 1e-5
        assert np.allclose(r["top"], told[:3], atol=6e-3) and r["trace"] == pytest.approx(told[3], abs=0.06)
        if name == "linear":
            assert np.allclose(r["spectrum"], r["closed"], rtol=1e-6)
    if name == "linear":
        assert rows[0]["top"][0] == pytest.approx(rows[0]["floor"], rel=1e-4)


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
