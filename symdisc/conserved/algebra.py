"""Lie algebras of the group families by their defining equations, and the parts of them that are gradient fields.

A linear field A theta is a gradient field iff A is symmetric, so what counts is the intersection of an algebra with the
symmetric (or diagonal) matrices. It is computed, exactly, as a null space; the answer is then recognised among a few
subspaces that make sense at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod

import numpy as np
import sympy as sp

from symdisc.errors import Undecided

__all__ = ["MATRIX_FAMILIES", "part_dimension", "project", "restrict", "sums_to_zero"]

_J = sp.Matrix([[0, -1], [1, 0]])

# What an algebra element a satisfies, beside being a square matrix.
EQUATIONS: dict[str, tuple[Callable[[sp.Matrix], sp.Matrix], ...]] = {
    "gl": (),
    "o": (lambda a: a + a.T,),
    "o1": (lambda a: a + a.T, lambda a: a * sp.ones(a.rows, 1)),
    "complex": (lambda a: a * _J - _J * a,),
    "shear": (lambda a: a - sp.ones(a.rows) * a / a.rows,),
}
MATRIX_FAMILIES = tuple(EQUATIONS)

CONDITIONS: dict[str, Callable[[sp.Matrix], sp.Matrix]] = {
    "all": lambda a: sp.zeros(1, 1),
    "symmetric": lambda a: a - a.T,
    "skew": lambda a: a + a.T,
    "diagonal": lambda a: a - sp.diag(*[a[i, i] for i in range(a.rows)]),
}

# Subspaces that have a meaning at every size, as equations that define them within all matrices.
NAMED: dict[str, tuple[Callable[[sp.Matrix], sp.Matrix], ...]] = {
    "zero": (lambda a: a,),
    "scalar": (lambda a: a - a[0, 0] * sp.eye(a.rows),),
    "diagonal": (CONDITIONS["diagonal"],),
    "symmetric": (CONDITIONS["symmetric"],),
    "skew": (CONDITIONS["skew"],),
    "skew fixing 1": (CONDITIONS["skew"], lambda a: a * sp.ones(a.rows, 1)),
    "complex": EQUATIONS["complex"],
    "multiples of 11": (CONDITIONS["symmetric"], EQUATIONS["shear"][0]),
    "shear": EQUATIONS["shear"],
    "all": (),
}


def sums_to_zero(family: str) -> bool:
    """Additive families whose elements have mean zero are marked by a final 0 in their name."""
    return family not in EQUATIONS and family.endswith("0")


def _solve(equations: tuple[Callable[[sp.Matrix], sp.Matrix], ...], size: int) -> sp.Matrix:
    """The null space of linear matrix equations, as a reduced row echelon basis over the rationals."""
    unknowns = sp.symbols(f"a:{size * size}")
    a = sp.Matrix(size, size, unknowns)
    rows = [entry for equation in equations for entry in equation(a)]
    system = sp.Matrix([[sp.diff(r, u) for u in unknowns] for r in rows]) if rows else sp.zeros(1, size * size)
    basis = system.nullspace()
    return sp.Matrix.hstack(*basis).T.rref()[0] if basis else sp.zeros(0, size * size)


@cache
def restrict(family: str, condition: str) -> str:
    """The part of the algebra of ``family`` that satisfies ``condition``, by name; it is the same name at two sizes.

    Raises Undecided where the part has no name.
    """
    sizes = (2,) if family == "complex" else (3, 4)
    found = [
        {
            name
            for name, equations in NAMED.items()
            if (name != "complex" or size == 2)
            and _solve(equations, size) == _solve((*EQUATIONS[family], CONDITIONS[condition]), size)
        }
        for size in sizes
    ]
    common = [name for name in NAMED if all(name in f for f in found)]
    if not common:
        raise Undecided(
            f"the {condition} part of the algebra of family {family!r} has no name; add it to NAMED in algebra.py"
        )
    return common[0]


def part_dimension(part: str, shape: tuple[int, ...], zero_sum: bool = False) -> int:
    """How many numbers a part of the algebra holds, over all blocks of ``shape``."""
    if len(shape) != 3 or part == "entries":
        return prod(shape) - (1 if zero_sum else 0)
    n = shape[1]
    per = {"zero": 0, "scalar": 1, "diagonal": n, "symmetric": n * (n + 1) // 2, "skew": n * (n - 1) // 2,
           "skew fixing 1": (n - 1) * (n - 2) // 2, "complex": 2, "multiples of 11": 1, "shear": n, "all": n * n}[part]
    return shape[0] * per


def project(part: str, mu, zero_sum: bool = False):  # type: ignore[no-untyped-def]
    """The moment ``mu`` (numpy or torch, [blocks, size, size] for matrix families) seen by a part of the algebra.

    "all", "complex", "symmetric" and "skew" give the projected matrices, "diagonal" their diagonals [blocks, size],
    "scalar" the traces [blocks], "shear" (1 l^T) sums of columns, "multiples of 11" sums of all, "entries" the array itself (mean
    removed for zero-sum families).
    """
    if part == "entries":
        return mu - mu.mean() if zero_sum else mu
    if part == "all":
        return mu
    if part == "complex":
        signs = np.array([[1.0, -1.0], [-1.0, 1.0]])
        turned = mu[..., [1, 0], :][..., [1, 0]]  # J^T mu J, up to the signs
        return (mu + turned * (signs if isinstance(mu, np.ndarray) else mu.new_tensor(signs))) / 2
    if part == "symmetric":
        return (mu + mu.swapaxes(-1, -2)) / 2
    if part.startswith("skew"):
        skew = (mu - mu.swapaxes(-1, -2)) / 2
        if part == "skew":
            return skew
        return skew - skew.mean(-1)[..., None] - skew.mean(-2)[..., None, :]
    if part in ("shear", "multiples of 11"):
        return mu.sum(-2) if part == "shear" else mu.sum((-2, -1))
    index = np.arange(mu.shape[-1])
    diagonal = mu[..., index, index]
    return diagonal.sum(-1) if part == "scalar" else diagonal
