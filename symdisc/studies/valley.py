"""Conserved quantities as coordinates on a minimum: two ReLU units, their (Q_1, Q_2), and what gradient flow reaches of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from symdisc.studies.orbits import Orbit
from symdisc.studies.plots import COLOURS, panels
from symdisc.studies.seednet import ACTIVATIONS, hessian

__all__ = ["DOUBLED", "figure", "reach", "survey"]

SIZE = 12  # inputs and outputs of the network whose valley is drawn
WIDTHS = (10, 100, 1000)
DOUBLED = 2.0  # the part of the valley that counts: sharpness up to this multiple of its least value
SPAN, DRAWS = 2.2, 4000  # half the side of the map in units of p; draws of (Q_1, Q_2) per width


def survey(points: int, seed: int) -> dict[str, Any]:
    """Loss and sharpness on a grid of (Q_1, Q_2) over one minimum: two units with |u_j| |v_j| = 1, moved by ``move_to``.

    At whitened input the two units are seen by disjoint halves of the inputs, so that each unit has its own curvature
    2 (|u|^2 + |v|^2) = 4 sqrt(Q_j^2 + p_j^2), with p_j = |u_j| |v_j|; this is the scalar toy once per unit.
    """
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((SIZE, 2)), np.abs(rng.standard_normal((SIZE, 2)))
    v[: SIZE // 2, 1] = v[SIZE // 2:, 0] = 0.0
    u, v = u / np.linalg.norm(u, axis=0), v / np.linalg.norm(v, axis=0)
    act, axis = ACTIVATIONS["relu"], np.linspace(-SPAN, SPAN, points)
    y, orbit = u @ act.value(v).T, Orbit("relu", u, v)
    losses, sharpness = np.zeros((points, points)), np.zeros((points, points))
    for i, q1 in enumerate(axis):
        for j, q2 in enumerate(axis):
            a, b = orbit.at([q1, q2])
            losses[i, j] = ((a @ act.value(b).T - y) ** 2).sum()
            sharpness[i, j] = np.linalg.eigvalsh(hessian(act, y, a, b))[-1]
    return {"axis": axis.tolist(), "losses": losses.tolist(), "sharpness": sharpness.tolist()}


def reach(width: int, seed: int) -> dict[str, Any]:
    """(Q_1, Q_2) / p of two units with ``width`` inputs and outputs at Xavier initialisation, and the share of the valley they fill.

    Gradient flow keeps both, so where it starts is where it ends. Share: the area of the ellipse that holds 99 % of the draws over that of
    the square |Q_j| < sqrt(3) p, where sharpness is below twice its least.
    """
    rng = np.random.default_rng([seed, width])
    u2, v2 = (rng.chisquare(width, (DRAWS, 2)) / width for _ in range(2))
    q = (u2 - v2) / 2 / np.sqrt(u2 * v2)
    radius = float(np.quantile(np.linalg.norm(q, axis=1), 0.99))
    return {"width": width, "radius": radius, "share": min(1.0, np.pi * radius**2 / (4 * (DOUBLED**2 - 1))), "points": q[:400].tolist()}


def figure(map_: dict[str, Any], reached: list[dict[str, Any]]):  # type: ignore[no-untyped-def]
    """Left the valley with sharpness as its height lines and loss zero everywhere; right how the reached part shrinks."""
    drawn, axes = panels(1, 2, 4.6, 4.0)
    axis, grid = axes[0, 0], np.array(map_["axis"])
    least = float(np.min(map_["sharpness"]))
    heights = np.array(map_["sharpness"]).T / least
    filled = axis.contourf(grid, grid, heights, levels=np.linspace(1, 2.5, 13), cmap="Greys", alpha=0.6, extend="max")
    axis.contour(grid, grid, heights, levels=[DOUBLED], colors="black", linewidths=1.2, linestyles="--")
    for r, colour in zip(reached[:2], COLOURS, strict=False):
        p = np.array(r["points"])
        axis.plot(p[:, 0], p[:, 1], ".", color=colour, markersize=2.2, label=f"width {r['width']}: {r['share']:.1%} of the dashed square")
    axis.set_xlim(-SPAN, SPAN)
    axis.set_ylim(-SPAN, SPAN)
    axis.set_aspect("equal")
    axis.set_xlabel("Q₁ / p")
    axis.set_ylabel("Q₂ / p")
    axis.set_title(f"one minimum: loss below {max(1e-28, float(np.max(map_['losses']))):.0e} everywhere", fontsize=9)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8, markerscale=4)
    bar = drawn.colorbar(filled, ax=axis, shrink=0.75, ticks=[1, 1.5, 2, 2.5])
    bar.set_label("sharpness / least", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    axis = axes[0, 1]
    widths = np.geomspace(8, 1300, 50)
    # deviation of Q/p is 1/sqrt(width) to leading order, and 99 % of a round Gaussian lie within sqrt(2 ln 100) deviations
    axis.loglog(widths, np.pi * 2 * np.log(100) / widths / (4 * (DOUBLED**2 - 1)), color="black", label="predicted, ∝ 1 / width")
    axis.loglog([r["width"] for r in reached], [r["share"] for r in reached], "o", color=COLOURS[1], markerfacecolor="white",
                label="measured")
    axis.set_xlabel("width")
    axis.set_ylabel("share of the valley that gradient flow reaches")
    axis.legend(fontsize=8)
    return drawn
