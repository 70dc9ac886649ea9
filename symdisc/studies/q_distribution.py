"""Where conserved quantities lie at initialisation: their distribution over random draws beside the closed form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp, sqrt
from typing import Any

import numpy as np
import torch

from symdisc.studies.base import Run
from symdisc.studies.plots import COLOURS, panels
from symdisc.studies.seednet import ACTIVATIONS, normals

__all__ = ["closed_form", "published_charges", "sample_charges", "study"]

CASES = (("linear", 100, 100, 100), ("relu", 100, 100, 100), ("tanh", 100, 100, 100), ("sigmoid", 100, 100, 100),
         ("linear", 100, 200, 100), ("linear", 200, 100, 100))
ERRORS = 4.0  # standard errors that a measured mean or deviation may be away: one false alarm in 16,000 numbers
CHUNK = 50  # draws held in memory at a time


def closed_form(name: str, m: int, h: int, n: int) -> tuple[float, float]:
    """Mean and standard deviation of Q = 1/2 |U|^2 - sum I(V) for U [m, h] ~ N(0, 1/h), V [n, h] ~ N(0, 1/n).

    From the moments of a Gaussian v of variance t = 1/n: E e^(av) = e^(a^2 t/2), E v e^v = t e^(t/2).
    """
    t, half = 1 / n, m / (2 * h)  # |U|^2 / 2 has mean m/2 and variance m/(2h)
    mean, variance = {
        "linear": (t / 2, t**2 / 2),
        "relu": (t / 4, 5 * t**2 / 16),
        "tanh": ((exp(2 * t) - 1) / 4, ((1 + exp(8 * t)) / 2 - exp(4 * t)) / 16),
        "sigmoid": (exp(t / 2) - 1, t + exp(2 * t) - exp(t) + 2 * t * exp(t / 2)),
    }[name]
    return m / 2 - h * n * mean, sqrt(half + h * n * variance)


def sample_charges(name: str, m: int, h: int, n: int, draws: int, seed: int) -> np.ndarray:
    """Q of ``draws`` independent initialisations."""
    rng, out = np.random.default_rng([seed, m, h, n, sorted(ACTIVATIONS).index(name)]), []
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        u = rng.standard_normal((count, m, h)) / sqrt(h)
        v = rng.standard_normal((count, n, h)) / sqrt(n)
        out.append(ACTIVATIONS[name].charges(u, v).sum(-1))
    return np.concatenate(out)


def published_charges(name: str, m: int, h: int, n: int, draws: int) -> np.ndarray:
    """Q of the draws of the published code: U, then V, from the generator at seed i^2, the same list for every case."""
    out = []
    for i in range(draws):
        generator = torch.Generator().manual_seed(i**2)
        u, v = (normals(generator, rows, h, sqrt(1 / columns)) for rows, columns in ((m, h), (n, n)))
        out.append(float(ACTIVATIONS[name].charges(u, v).sum()))
    return np.array(out)


def _listed(sample: Callable[..., np.ndarray], *settings: Any) -> list[float]:
    return sample(*settings).tolist()


def study(run: Run) -> None:
    """Conserved quantities at initialisation: a thin slice of the minimum, predicted in closed form."""
    draws = 200 if run.quick else 1000
    rows: list[dict[str, Any]] = []
    figure_data = []
    for done, (name, m, h, n) in enumerate(CASES):
        run.progress("drawing", done, len(CASES))
        key = f"{name} m={m} h={h} n={n} draws={draws}"
        values = np.array(run.cached(f"{key} seed={run.seed}", partial(_listed, sample_charges, name, m, h, n, draws, run.seed)))
        theirs = np.array(run.cached(f"published {key}", partial(_listed, published_charges, name, m, h, n, draws)))
        mean, std = closed_form(name, m, h, n)
        found_mean, found_std = float(values.mean()), float(values.std(ddof=1))
        rows.append({"activation": name, "m": m, "h": h, "n": n, "draws": draws, "mean": found_mean, "mean_predicted": mean,
                     "std": found_std, "std_predicted": std, "mean_errors": (found_mean - mean) / (std / sqrt(draws)),
                     "std_errors": (found_std - std) / (std / sqrt(2 * draws)), "std_over_mean_square": std / ((m + h) / 2),
                     "published_mean": float(theirs.mean()), "published_std": float(theirs.std(ddof=1))})
        figure_data.append((f"{name}, m = {m}, h = {h}, n = {n}", values, mean, std))
    run.table("distribution", rows)
    worst = max(max(abs(r["mean_errors"]), abs(r["std_errors"])) for r in rows)
    run.check(f"means and deviations within {ERRORS:g} standard errors of the closed forms", worst < ERRORS,
              f"largest distance {worst:.2f} standard errors over {2 * len(rows)} numbers")
    run.figure("distribution", _figure(figure_data))
    run.page(_page(run, rows, draws))


def _figure(data: list[tuple[str, np.ndarray, float, float]]):  # type: ignore[no-untyped-def]
    figure, axes = panels(2, 3, 3.4, 2.6)
    for axis, (title, values, mean, std), colour in zip(axes.ravel(), data, COLOURS, strict=True):
        axis.hist(values, bins=30, density=True, color=colour, alpha=0.4, label="measured")
        x = np.linspace(mean - 4 * std, mean + 4 * std, 200)
        axis.plot(x, np.exp(-((x - mean) / std) ** 2 / 2) / (std * sqrt(2 * np.pi)), color="black", label="predicted")
        axis.set_title(title, fontsize=9)
        axis.set_yticks([])
        axis.set_xlabel("Q")
    axes[0, 0].legend(loc="upper left")
    return figure


def _page(run: Run, rows: list[dict[str, Any]], draws: int) -> str:
    table = ["| activation | m, h, n | mean | predicted | std | predicted | std / scale of the weights | mean and std, published draws |",
             "|---|---|---|---|---|---|---|---|"]
    table += [f"| {r['activation']} | {r['m']}, {r['h']}, {r['n']} | {r['mean']:.3f} | {r['mean_predicted']:.3f} | {r['std']:.4f} | "
              f"{r['std_predicted']:.4f} | {r['std_over_mean_square']:.2%} | {r['published_mean']:.3f}, {r['published_std']:.4f} |"
              for r in rows]
    return "\n".join([
        "# Conserved quantities at initialisation", "",
        f"Q = 1/2 |U|² − Σ ∫σ/σ' of {draws} draws of U ~ N(0, 1/h) and V ~ N(0, 1/n) (seed {run.seed}, independent",
        "between rows). The factor",
        "1/2 and Q = 0 at vanishing weights are those of the paper; its code's Q is twice this, and shifted, for all but sigmoid.", "",
        "![distribution](distribution.png)", "", *table, "",
        "The deviation is of the order of one percent of (m + h)/2, the mean of (|U|² + |V|²)/2: gradient flow from",
        "here reaches a thin slice of",
        "the minimum. What this does not say: the mean of Q moves with the shape (m − h), so networks of other shapes",
        "lie in other slices. The published draws take the same list of seeds in every row, so that those rows lean the same way.", "",
        run.checks_markdown()])
