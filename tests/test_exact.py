"""Ranks and null spaces come with evidence; a small gap is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy

from symdisc import exact
from symdisc.errors import BadInput, Undecided


def low_rank(m: int, n: int, r: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, r)) @ rng.standard_normal((r, n))


@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (9, 9)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("r", [0, 1, 5])
def test_null_space_is_annihilated_and_complete(shape, r):
    a = low_rank(*shape, r)
    ns = exact.null_space(a)
    assert ns.rank == r == exact.rank(a).rank
    assert ns.dimension == shape[1] - r
    assert np.abs(a @ ns.basis).max(initial=0) < 1e-12
    assert np.allclose(ns.basis.T @ ns.basis, np.eye(ns.dimension))
    assert ns.gap > 1e6


def test_evidence_holds_the_values_on_both_sides():
    e = exact.rank(np.diag([1.0, 1e-2, 1e-15]))
    assert (e.rank, e.above, e.below) == (2, (1e-2, 1.0), (1e-15,))
    assert exact.RankEvidence.from_json(e.to_json()) == e


def test_small_gap_is_refused():
    with pytest.raises(Undecided, match="no gap"):
        exact.rank(np.diag([1.0, 1e-8, 1e-10]))
    with pytest.raises(Undecided, match="singular values"):
        exact.null_space(np.diag([1.0, 2e-9, 0.5e-9]), what="node")


def test_widest_gap_below_the_cut():
    """True values may lie below the cut where entries are good to rounding; what keeps falling is still refused."""
    low = np.diag([1.0, 1e-4, 4e-8, 3e-10, 1e-17])
    assert exact.null_space(low, widest=True).rank == 4
    assert exact.null_space(np.diag([1.0, 1e-4, 1e-14, 2e-15]), widest=True).rank == 2
    with pytest.raises(Undecided, match="no gap"):
        exact.null_space(low)
    with pytest.raises(Undecided, match="no gap"):
        exact.null_space(np.diag(10.0 ** -np.arange(0, 17, 2)), widest=True)


def test_small_values_of_large_matrices_are_seen():
    """A Gram matrix would lose singular values of 3e-11 among rounding."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((400, 400)))[0] for _ in range(2))
    values = np.concatenate([np.geomspace(1, 1e-4, 300), np.geomspace(1e-4, 3e-11, 60), np.zeros(40)])
    found = exact.null_space(left * values @ right.T, widest=True)
    assert found.dimension == 40 and np.abs(left * values @ right.T @ found.basis).max() < 1e-14


def test_full_rank_and_empty():
    assert exact.rank(np.eye(4)).rank == 4
    assert exact.null_space(np.zeros((0, 3))).dimension == 3
    assert exact.null_space(np.zeros((2, 3))).dimension == 3


def test_exact_where_floats_cannot_see():
    """Hilbert matrices have full rank, although their smallest singular value vanishes in float64."""
    n = 13
    hilbert = np.array([[Fraction(1, i + j + 1) for j in range(n)] for i in range(n)], dtype=object)
    assert exact.rank(hilbert).rank == n
    assert exact.rank(hilbert).exact
    with pytest.raises(Undecided):
        exact.rank(hilbert.astype(float), rtol=1e-15)


def test_exact_null_space_of_integers_and_sympy_rationals():
    a = np.array([[1, 2, 3], [2, 4, 6]])
    ns = exact.null_space(a)
    assert ns.rank == 1
    assert not np.any(a.astype(object) @ ns.basis)
    m = sympy.Matrix([[sympy.Rational(1, 2), 1], [1, 2]])
    assert exact.null_space(m).basis.T.tolist() in ([[2, -1]], [[-2, 1]])
    with pytest.raises(BadInput, match="rational"):
        exact.rank(sympy.Matrix([[sympy.sqrt(2)]]))


def test_modular_rank():
    assert exact.modular_rank(np.array([[5, 0], [0, 1]]), prime=5).rank == 1
    assert exact.modular_rank(np.array([[5.0, 0], [0, 1]])).rank == 2
    with pytest.raises(BadInput, match="integer"):
        exact.modular_rank(np.array([[0.5]]))


def test_bad_entries():
    with pytest.raises(BadInput, match="finite"):
        exact.rank(np.array([[np.nan]]))
    with pytest.raises(BadInput, match="two axes"):
        exact.rank(np.ones(3))
    with pytest.raises(BadInput, match="real"):
        exact.rank(np.ones((1, 1), dtype=complex))


def test_echelon_and_rational():
    basis = np.linalg.qr(np.array([[1.0, 0], [2, 0], [0, 1], [1, -3]]))[0]
    rows, pivots = exact.echelon(basis)
    assert pivots == (0, 2)
    assert np.allclose(rows, [[1, 2, 0, 1], [0, 0, 1, -3]])
    assert exact.rational(2 / 3) == Fraction(2, 3)
    assert exact.rational(np.pi) is None
    with pytest.raises(Undecided):
        exact.echelon(np.ones((3, 2)))


def test_spans():
    a = low_rank(6, 2, 2)
    assert exact.spans_equal(a, a @ np.array([[1.0, 2], [3, 4]]))
    twin = a.copy()
    twin[0, 0] *= 1.001
    assert not exact.spans_equal(a, twin)
