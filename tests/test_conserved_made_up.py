"""Quantities of small made-up symmetries, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_conserved import loss, norm

from symdisc.conserved import conserved_quantities
from symdisc.moves import Index, Move, Through
from symdisc.symmetry import Symmetry


# --- small made-up symmetries -----------------------------------------------------------------------------------------
def made_up(family: str, shape: tuple[int, ...], *moves: Move) -> Symmetry:
    names = tuple(dict.fromkeys(m.parameter for m in moves))
    return Symmetry("made up", "G", family, "", names, 1, "witnessed", shape, moves)


def entries(n: int) -> Index:
    return Index.of(np.arange(n).reshape(1, 1, n))


def test_an_integrating_factor_in_two_variables() -> None:
    """X = (1, x) has the form dx + x dy = x d(log x + y)."""
    s = made_up("translation", (1,), Move("add", "x", 0, entries(1)),
                Move("add", "y", 0, entries(1), through=(Through("gain", "x", index=entries(1)),)))
    (q,) = conserved_quantities([s], {"x": (1,), "y": (1,)})
    assert q.form == "plane" and "integrating factor" in q.reason
    values = {"x": np.array([0.7]), "y": np.array([0.3])}
    step = 1e-6
    dx, dy = (
        float((q.evaluate({**values, n: values[n] + step}) - q.evaluate({**values, n: values[n] - step}))[0])
        / (2 * step)
        for n in ("x", "y")
    )
    assert dx * 0.7 == pytest.approx(dy, rel=1e-8), "the gradient is along (1, x)"


def test_a_third_variable_makes_the_form_a_contact_form() -> None:
    """X = (1, -w) on (x, y) with w trained: dx - w dy has no integrating factor."""
    s = made_up("translation", (1,), Move("add", "x", 0, entries(1)),
                Move("add", "y", 0, entries(1), power=-1.0, through=(Through("gain", "w", index=entries(1)),)))
    (q,) = conserved_quantities([s], {"x": (1,), "y": (1,), "w": (1,)})
    assert not q.form and "has no integrating factor" in q.reason
    (fixed,) = conserved_quantities([s], {"x": (1,), "y": (1,)})
    assert fixed.form == "moment" and fixed.status == "conserved", "with w constant it is a plain translation"


def test_conjugation_by_constant_gains_is_not_taken_for_a_symmetric_matrix() -> None:
    """D a D^-1 is symmetric for diagonal a: d laws, not d (d + 1)/2; rotations have no diagonal element."""
    moves = Move("matmul", "W", 0, entries(3), gain="d"), Move("matmul", "V", 1, entries(3), rep="g^-T")
    (q,) = conserved_quantities([made_up("gl", (1, 3, 3), *moves)], {"W": (3, 2), "V": (2, 3)})
    assert q.form and q.part == "diagonal" and q.dimension == 3
    rng = np.random.default_rng(0)
    w, v, d = rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), np.array([0.5, 1.0, 2.0])
    assert np.allclose(q.evaluate({"W": w, "V": v, "d": d})[0], ((w**2).sum(1) - (v**2).sum(0)) / 2)
    (none,) = conserved_quantities([made_up("o", (1, 3, 3), *moves)], {"W": (3, 2), "V": (2, 3)})
    assert not none.form and "conjugated" in none.reason


def test_linear_recurrence() -> None:
    """h' = A h + B x, y = C h: A A^T - A^T A + B B^T - C^T C in one symmetric matrix."""
    moves = (Move("matmul", "A", 0, entries(3)), Move("matmul", "A", 1, entries(3), rep="g^-T"),
             Move("matmul", "B", 0, entries(3)), Move("matmul", "C", 1, entries(3), rep="g^-T"))
    shapes = {"A": (3, 3), "B": (3, 2), "C": (2, 3)}
    (q,) = conserved_quantities([made_up("gl", (1, 3, 3), *moves)], shapes)
    gen = torch.Generator().manual_seed(0)
    p = {n: torch.randn(s, generator=gen, dtype=torch.float64).requires_grad_(True) for n, s in shapes.items()}
    by_hand = (p["A"] @ p["A"].T - p["A"].T @ p["A"] + p["B"] @ p["B"].T - p["C"].T @ p["C"]) / 2
    assert torch.allclose(q.evaluate(p)[0], by_hand) and q.dimension == 6
    x, h, y = torch.randn(4, 2, generator=gen, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), []
    for step in x:
        h = p["A"] @ h + p["B"] @ step
        y.append(p["C"] @ h)
    grads = dict(zip(p, torch.autograd.grad(loss(y, 1), list(p.values())), strict=True))
    at = {n: t.detach() for n, t in p.items()}
    assert float(abs(q.residual(at, grads)).max()) < 1e-12 * norm(grads)


def test_a_single_plane_keeps_its_angle_and_two_do_not() -> None:
    one = made_up("o", (1, 2, 2), Move("matmul", "v", 0, entries(2)))
    (q,) = conserved_quantities([one], {"v": (2,)})
    assert q.form == "plane" and q.evaluate({"v": np.array([1.0, 1.0])}) == pytest.approx(math.pi / 4)
    (two,) = conserved_quantities([one], {"v": (2, 3)})
    assert not two.form and two.constraint


def test_few_columns_keep_their_span() -> None:
    """Gradients of functions of w^T w lie in the span of w: the projector on it stays."""
    s = made_up("o", (1, 5, 5), Move("matmul", "w", 0, entries(5)))
    (q,) = conserved_quantities([s], {"w": (5, 2)})
    assert q.form == "span" and q.dimension == 2 * 3
    rng = np.random.default_rng(0)
    w, mix = rng.standard_normal((5, 2)), rng.standard_normal((2, 2))
    assert np.allclose(q.evaluate({"w": w - 0.1 * w @ mix}), q.evaluate({"w": w}))
    assert not np.allclose(q.evaluate({"w": w + 0.1 * rng.standard_normal((5, 2))}), q.evaluate({"w": w}))
