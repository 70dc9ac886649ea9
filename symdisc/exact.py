"""Rank and null space, each with its evidence. The one place that calls svd.

Entries that are integers or rationals are handled exactly (python-flint); float64 entries by singular values with a
relative cut, the values on both sides of it, and a refusal (``Undecided``) where the gap between them is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import flint
import numpy as np
from scipy.linalg import eigh, svd

from symdisc.errors import BadInput, Undecided

__all__ = [
    "MIN_GAP",
    "PRIME",
    "RTOL",
    "NullSpace",
    "RankEvidence",
    "echelon",
    "modular_rank",
    "null_space",
    "rank",
    "rational",
    "spans_equal",
]

# Singular values below RTOL times the largest count as zero. The null spaces of nodes fall from about 1e-2 to 1e-16, those
# of whole networks from about 1e-6 to 1e-15; 1e-9 lies between both.
RTOL = 1e-9
# The smallest accepted ratio of the singular values on both sides of the cut; below it no claim is made.
MIN_GAP = 1e3
# Beyond this many columns a full decomposition is slow, and the null space is found through the Gram matrix.
DIRECT = 256
# Singular values below LOW times the largest are looked at one by one then; squared, 3e-4 is far above the rounding of a Gram matrix.
LOW = 3e-4
SLOW = 3000  # columns up to which a full decomposition, some minutes at most, is worth a decision
POWER_STEPS = 30  # for the largest singular value, which need be known to a few per cent only
PRIME = 2**61 - 1  # default modulus of modular ranks
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Cut:
    """Where singular values (relative to the largest) are cut: at ``rtol``, or at the widest gap that ends below it."""

    rtol: float = RTOL
    min_gap: float = MIN_GAP
    widest: bool = False

    def rank(self, relative: np.ndarray, floor: float) -> int:
        """The number of values kept, of ``relative`` in falling order; nothing is measured below ``floor``."""
        fixed = int(np.sum(relative > self.rtol))
        if not self.widest:
            return fixed
        lower = np.maximum(np.append(relative[fixed:], 0.0), floor)
        upper = np.maximum(relative[fixed - 1:], floor)
        return fixed + int(np.argmax(upper / lower))


@dataclass(frozen=True)
class RankEvidence:
    """A rank and why to believe it.

    ``above`` and ``below`` are the singular values (relative to the largest, nearest the cut first) kept and dropped, ``gap``
    their ratio at the cut. For exact ranks they are empty and ``gap`` is infinite. ``method`` is 'singular values',
    'rational' or 'modulo p'; the rank modulo a prime is a lower bound of the rational one, and equal to it for all but
    finitely many primes.
    """

    rank: int
    shape: tuple[int, int]
    exact: bool
    method: str
    gap: float
    above: tuple[float, ...] = ()
    below: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite gap is written as None, since JSON has no infinity."""
        d = asdict(self)
        return {**d, "shape": list(self.shape), "above": list(self.above), "below": list(self.below),
                "gap": None if np.isinf(self.gap) else self.gap}

    @classmethod
    def from_json(cls, d: dict[str, Any]) -> RankEvidence:
        return cls(d["rank"], tuple(d["shape"]), d["exact"], d["method"], float("inf") if d["gap"] is None else d["gap"],
                   tuple(d["above"]), tuple(d["below"]))


@dataclass(frozen=True)
class NullSpace:
    """``basis`` [n, k]: columns v with ``matrix @ v = 0`` (orthonormal floats, or exact integers); evidence of k = n - rank."""

    basis: np.ndarray
    evidence: RankEvidence

    @property
    def rank(self) -> int:
        return self.evidence.rank

    @property
    def dimension(self) -> int:
        return int(self.basis.shape[1])

    @property
    def gap(self) -> float:
        return self.evidence.gap

    @property
    def above(self) -> tuple[float, ...]:
        return self.evidence.above

    @property
    def below(self) -> tuple[float, ...]:
        return self.evidence.below


def rank(matrix: Any, *, rtol: float = RTOL, min_gap: float = MIN_GAP, widest: bool = False, what: str = "matrix") -> RankEvidence:
    """Rank of ``matrix`` [m, n]: exact for integer or rational entries, else by singular values, cut as ``null_space`` cuts them.

    Raises Undecided when the singular values show no clear gap at the cut and BadInput for entries not finite.
    """
    a = _as_matrix(matrix)
    if a.dtype != np.float64:
        return _exact_evidence(_fmpz(a), a.shape)
    return _evidence(_singular_values(a), a.shape, Cut(rtol, min_gap, widest), what)


def null_space(matrix: Any, *, rtol: float = RTOL, min_gap: float = MIN_GAP, widest: bool = False, what: str = "matrix") -> NullSpace:
    """All v with ``matrix @ v = 0`` for ``matrix`` [m, n], and the evidence of their number.

    Integer or rational entries give an exact integer basis (object dtype); floats an orthonormal one. The cut lies at ``rtol``;
    with ``widest`` (entries good to rounding, so that small values count) at the widest gap whose lower side is below ``rtol``.
    Raises Undecided when the singular values show no clear gap there.
    """
    a = _as_matrix(matrix)
    cut = Cut(rtol, min_gap, widest)
    if a.dtype != np.float64:
        m = _fmpz(a)
        return NullSpace(_exact_kernel(m), _exact_evidence(m, a.shape))
    if min(a.shape) == 0:
        return NullSpace(np.eye(a.shape[1]), _evidence(np.zeros(0), a.shape, cut, what))
    if a.shape[1] > DIRECT:
        try:
            return _large_null_space(a, cut, what)
        except Undecided:  # the low eigenvectors of a Gram matrix carry rounding of 1e-12; the slow way carries 1e-16
            if a.shape[1] > SLOW:
                raise
    # A tall matrix and its R factor have the same null space; a wide one needs the full right factor.
    square = _triangle(a) if a.shape[0] > a.shape[1] else a
    s, vh = _right_factor(square)
    evidence = _evidence(s, a.shape, cut, what)
    return NullSpace(vh[evidence.rank:].T.copy(), evidence)


def _large_null_space(a: np.ndarray, cut: Cut, what: str) -> NullSpace:
    """The same for many columns: the low eigenvectors of the Gram matrix hold the null space, and inside their span singular
    values are taken of ``a`` itself, so that nothing is lost by the squaring. What lies outside is bounded from below."""
    gram = a.T @ a
    probe = np.ones(a.shape[1])
    for _ in range(POWER_STEPS):
        probe = gram @ probe
        probe /= np.linalg.norm(probe) or 1.0
    top = float(probe @ gram @ probe)
    try:
        _, low = eigh(gram, subset_by_value=(-np.inf, LOW**2 * top), check_finite=False)
    except np.linalg.LinAlgError:  # LAPACK's method for some eigenvalues gives up on tight clusters, its method for all does not
        values, vectors = np.linalg.eigh(gram)
        low = vectors[:, values <= LOW**2 * top]
    outside = np.full(a.shape[1] - low.shape[1], LOW)
    outside[:1] = 1.0
    if not low.shape[1]:
        return NullSpace(low, _evidence(outside, a.shape, cut, what))
    s, vh = _right_factor(_triangle(a @ low))
    inside = np.concatenate([s, np.zeros(low.shape[1] - len(s))]) / np.sqrt(top or 1.0)
    evidence = _evidence(np.concatenate([outside, inside]), a.shape, cut, what)
    return NullSpace(low @ vh[evidence.rank - len(outside):].T, evidence)


def modular_rank(matrix: Any, prime: int = PRIME) -> RankEvidence:
    """Rank of an integer ``matrix`` [m, n] modulo ``prime``: a lower bound of its rational rank, in exact arithmetic."""
    a = _as_matrix(matrix)
    if a.dtype == np.float64:
        if not (np.all(a == np.rint(a)) and np.all(np.abs(a) < 2**53)):
            raise BadInput("a rank modulo a prime needs integer entries below 2^53: scale the matrix, or call rank()")
        a = a.astype(np.int64).astype(object)
    entries = [int(v) % prime for v in np.asarray(a, dtype=object).ravel()]
    r = flint.nmod_mat(a.shape[0], a.shape[1], entries, prime).rank() if entries else 0
    return RankEvidence(int(r), (a.shape[0], a.shape[1]), True, f"modulo {prime}", float("inf"))


def echelon(basis: np.ndarray, *, tolerance: float = 1e-8) -> tuple[np.ndarray, tuple[int, ...]]:
    """Reduced row echelon form of the span of the columns of ``basis`` [n, k]: rows [k, n] and their pivot columns.

    The pivot of each row is the first column of the span with an entry above ``tolerance``; entries below it become zero.
    Raises Undecided when the columns are dependent.
    """
    rows = np.array(np.asarray(basis, dtype=np.float64).T)
    pivots: list[int] = []
    for column in range(rows.shape[1]):
        done = len(pivots)
        if done == rows.shape[0]:
            break
        best = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[best, column]) <= tolerance:
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        others = np.arange(rows.shape[0]) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        pivots.append(column)
    if len(pivots) < rows.shape[0]:
        raise Undecided("the columns of a basis are dependent within the tolerance: no echelon form")
    rows[np.abs(rows) < tolerance] = 0.0
    return rows, tuple(pivots)


def rational(value: float, *, max_denominator: int = 64, tolerance: float = 1e-9) -> Fraction | None:
    """The fraction of small denominator that ``value`` is within ``tolerance`` (relative), or None."""
    if not np.isfinite(value):
        return None
    near = Fraction(float(value)).limit_denominator(max_denominator)
    return near if abs(float(near) - value) <= tolerance * max(1.0, abs(value)) else None


def spans_equal(a: np.ndarray, b: np.ndarray, *, tolerance: float = 1e-8) -> bool:
    """The columns of ``a`` [n, k] and of ``b`` [n, l] (independent columns each) span the same space."""
    if a.shape[1] != b.shape[1]:
        return False
    if a.shape[1] == 0:
        return True
    qa, qb = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    return bool(np.linalg.norm(qb - qa @ (qa.T @ qb)) < tolerance * np.sqrt(a.shape[1]))


def _as_matrix(matrix: Any) -> np.ndarray:
    """float64 for floats; object (exact numbers) for integers, fractions and sympy rationals."""
    a = matrix if isinstance(matrix, np.ndarray) else np.array(matrix.tolist() if hasattr(matrix, "tolist") else matrix)
    if a.ndim != 2:
        raise BadInput(f"a rank needs a matrix of two axes, not {a.ndim}")
    if a.dtype == object or np.issubdtype(a.dtype, np.integer):
        return a.astype(object)
    if not np.issubdtype(a.dtype, np.floating):
        raise BadInput(f"a rank needs real entries, not {a.dtype}")
    if not np.all(np.isfinite(a)):
        raise BadInput("a matrix with entries that are not finite has no rank: look for nan and inf where it was made")
    return a.astype(np.float64)


def _triangle(a: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.qr(a, mode="r"))


def _right_factor(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(singular values, all right singular vectors as rows); the faster driver of LAPACK fails on some finite matrices."""
    try:
        return np.linalg.svd(a, full_matrices=True)[1:]
    except np.linalg.LinAlgError:
        return svd(a, full_matrices=True, lapack_driver="gesvd")[1:]


def _singular_values(a: np.ndarray) -> np.ndarray:
    if min(a.shape) == 0:
        return np.zeros(0)
    if a.shape[0] > 2 * a.shape[1]:
        a = _triangle(a)
    try:
        return np.linalg.svd(a, compute_uv=False)
    except np.linalg.LinAlgError:
        return np.asarray(svd(a, compute_uv=False, lapack_driver="gesvd"))


def _evidence(s: np.ndarray, shape: Sequence[int], cut: Cut, what: str) -> RankEvidence:
    if s.size == 0 or s[0] == 0.0:
        return RankEvidence(0, (shape[0], shape[1]), False, "singular values", float("inf"))
    relative = s / s[0]
    # nothing is measured below the rounding of the decomposition, so that is the least value on the lower side
    floor = 4 * _EPS * max(shape) ** 0.5
    r = cut.rank(relative, floor)
    gap = float(relative[r - 1] / max(floor, relative[r] if r < len(relative) else 0.0))
    above = tuple(float(v) for v in relative[:r][::-1][:3])
    below = tuple(float(v) for v in relative[r:][:3])
    if gap < cut.min_gap:
        raise Undecided(f"{what} [{shape[0]}, {shape[1]}]: singular values show no gap at {cut.rtol:.0e} (above {above[0]:.1e}, below "
                        f"{below[0] if below else floor:.1e}); take more or better spread samples, or exact entries")
    return RankEvidence(r, (shape[0], shape[1]), False, "singular values", gap, above, below)


def _fmpz(a: np.ndarray) -> flint.fmpz_mat:
    """Rows scaled to integers: neither rank nor null space changes."""
    rows: list[int] = []
    for row in a:
        fractions = [_fraction(v) for v in row]
        scale = int(np.lcm.reduce([f.denominator for f in fractions], initial=1, dtype=object))
        rows.extend(f.numerator * (scale // f.denominator) for f in fractions)
    return flint.fmpz_mat(a.shape[0], a.shape[1], rows)


def _fraction(v: Any) -> Fraction:
    if hasattr(v, "is_Rational"):  # sympy numbers
        if not v.is_Rational:
            raise BadInput(f"an exact rank needs rational entries, not {v}: pass floats for a numeric rank")
        return Fraction(int(v.p), int(v.q))
    try:
        return Fraction(v)
    except (TypeError, ValueError) as error:
        raise BadInput(f"an exact rank needs rational entries, not {v!r}") from error


def _exact_evidence(m: flint.fmpz_mat, shape: Sequence[int]) -> RankEvidence:
    return RankEvidence(int(m.rank()), (shape[0], shape[1]), True, "rational", float("inf"))


def _exact_kernel(m: flint.fmpz_mat) -> np.ndarray:
    n = m.ncols()
    if m.nrows() == 0:
        return np.array([[int(i == j) for j in range(n)] for i in range(n)], dtype=object).reshape(n, n)
    kernel, nullity = m.nullspace()
    basis = np.empty((n, nullity), dtype=object)
    for j in range(nullity):
        column = [int(kernel[i, j]) for i in range(n)]
        common = int(np.gcd.reduce(np.array(column, dtype=object)))
        basis[:, j] = [c // common for c in column]
    return basis
