"""Symmetries found without the graph: constant-coefficient affine fields X with J(theta) X(theta) = 0 at many random theta."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from symdisc.errors import Undecided
from symdisc.exact import echelon, null_space
from symdisc.generators import Candidates, Generator, tidy
from symdisc.solve import Accumulator, normal_rows
from symdisc.symmetry import Symmetry
from symdisc.torchside.algebra import Algebra
from symdisc.torchside.capture import Capture
from symdisc.torchside.check import random_state
from symdisc.torchside.network import Network

__all__ = ["linear_families"]

MOST_CANDIDATES = 2600  # the null space costs their number cubed: about ten seconds at this size
POINTS = 1.3  # equations per unknown
FRESH = 3  # points, not used in the solution, at which it must stand
STANDS = 1e-8  # of the length of the equations there
MOST_ROUNDS = 3  # of further points
SPREAD = 0.5  # of the sizes of tensors (log-normal)


def linear_families(captured: Capture, algebra: Algebra, named: np.ndarray) -> list[Symmetry]:
    """Linear symmetries whose tangents at the weights lie beyond those of the families ``named`` [count, D]."""
    candidates = Candidates(algebra.network.layout)
    if candidates.count > MOST_CANDIDATES or not candidates.count:
        return []
    try:
        basis = _solutions(captured, algebra, candidates)
    except Undecided:
        return []  # the flow stands in
    if not basis.shape[1]:
        return []
    rows = tidy(echelon(basis)[0])
    constants = np.concatenate([np.full(n, axis == -1) for _, axis, n in candidates.slots()])
    rows = rows[np.lexsort([np.count_nonzero(rows, axis=1), np.abs(rows[:, ~constants]).max(1) > 0])]  # plainest first
    fields = candidates.fields({n: t.numpy() for n, t in algebra.network.parameters.items()})
    chosen = _beyond(fields @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T, named)
    return _families([candidates.generator(rows[k]) for k in chosen])


def _solutions(captured: Capture, algebra: Algebra, candidates: Candidates) -> np.ndarray:
    """Coefficients [count, k] of all fields that leave the outputs alone at every point tried.

    Where units rest at most weights, a point gives fewer equations than its rank tells; so points are added until the fields
    found stand at FRESH points that had no part in them. Raises Undecided where they never do.
    """
    equations = _Equations(captured, algebra, candidates)
    total = Accumulator(candidates.count)
    for k in range(equations.points):
        total.add(equations.at(k))
    for network in (*algebra.calibrated(), *algebra.loud()):
        total.add(equations.on(network, 0))
    at = equations.points
    for _ in range(MOST_ROUNDS):
        basis = null_space(total.factor, rtol=1e-9, min_gap=1e3, what="linear fields").basis
        fresh = [equations.at(at + k) for k in range(FRESH)] if basis.shape[1] else []
        if all(np.linalg.norm(rows @ basis) <= STANDS * np.linalg.norm(rows) for rows in fresh):
            return basis
        for rows in fresh:
            total.add(rows)
        at += FRESH
        for k in range(equations.points // 2):
            total.add(equations.at(at + k))
        at += equations.points // 2
    raise Undecided("linear fields found at some weights keep failing at others")


class _Equations:
    """What one point, weights and inputs, demands of the coefficients of a field."""

    def __init__(self, captured: Capture, algebra: Algebra, candidates: Candidates) -> None:
        space, draws = algebra.outputs
        self.captured, self.network, self.candidates = captured, algebra.network, candidates
        rank = self.network.size - space.dimension
        self.points = max(int(np.ceil(POINTS * candidates.count / max(rank, 1))), candidates.points) + 2
        self.inputs = min(draws, max(8, draws // 2))

    def at(self, k: int) -> np.ndarray:
        """Rows [., count] of point number ``k``; number 0 is at the network's own weights."""
        return self.on(self.network if k == 0 else Network(self.captured, {**self.network.buffers, **self._weights(k)}), k)

    def on(self, network: Network, k: int) -> np.ndarray:
        """The same at the weights of ``network``, on the inputs of point number ``k``."""
        rows = network.equations(network.parameters, self.network.draws(self.inputs * k, self.inputs))
        rows = normal_rows(rows[np.isfinite(rows).all(1)])
        short = np.linalg.qr(rows, mode="r") if len(rows) > rows.shape[1] else rows
        return np.asarray(short @ self.candidates.fields({n: t.numpy() for n, t in network.parameters.items()}))

    def _weights(self, k: int) -> dict[str, Tensor]:
        """Generic weights, each tensor at a size of its own, so that no unit rests at all points."""
        sizes = np.exp(SPREAD * np.random.default_rng(100 + k).standard_normal(len(self.network.layout)))
        state = random_state(self.captured, set(), 100 + k)
        return {n: float(size) * state[n] for n, size in zip(self.network.layout, sizes, strict=True)}


def _beyond(fields: np.ndarray, named: np.ndarray, tolerance: float = 1e-6) -> list[int]:
    """Columns of ``fields`` [D, k], taken in turn, that enlarge the span."""
    frame: list[np.ndarray] = []
    if len(named):
        size = np.linalg.norm(named, axis=1, keepdims=True)
        _, s, vh = np.linalg.svd(named / np.where(size > 0, size, 1.0), full_matrices=False)
        frame = list(vh[s > tolerance * s[0]])
    chosen = []
    for k in range(fields.shape[1]):
        v = fields[:, k].copy()
        length = float(np.linalg.norm(v))
        if length < 1e-7:  # vanishes at these weights
            continue
        v /= length
        for _ in range(2):  # twice is enough for orthogonality to rounding
            if frame:
                q = np.array(frame)
                v = v - q.T @ (q @ v)
        if float(np.linalg.norm(v)) > tolerance:
            frame.append(v / np.linalg.norm(v))
            chosen.append(k)
    return chosen


def _families(generators: list[Generator]) -> list[Symmetry]:
    """One symmetry per set of parameters that move together."""
    groups: dict[tuple[tuple[str, ...], bool], list[Generator]] = {}
    for g in generators:
        groups.setdefault((g.parameters, g.constant), []).append(g)
    return [_symmetry(names, constant, tuple(found)) for (names, constant), found in groups.items()]


def _symmetry(names: tuple[str, ...], constant: bool, generators: tuple[Generator, ...]) -> Symmetry:
    n = len(generators)
    typed = ", ".join(rf"\texttt{{{p.replace('_', chr(92) + '_')}}}" for p in names)
    title = "constants traded between parameters" if constant and len(names) > 1 else (
        "entries without effect" if constant else "linear symmetry without a name")
    formula = (rf"({typed}) \mapsto ({typed}) + \sum_{{k=1}}^{{{n}}} c_k T_k" if constant
               else rf"({typed}) \mapsto \exp\!\Big(\sum_{{k=1}}^{{{n}}} c_k X_k\Big)({typed})")
    site = names[0].rpartition(".")[0] or names[0]
    return Symmetry(title, f"R^{n}" if constant else f"exp of {n} generators", "linear", site, names, n, "witnessed", (n,), (),
                    group_latex=rf"\mathbb{{R}}^{{{n}}}" if constant else rf"\exp\langle X_1,\dots,X_{{{n}}}\rangle",
                    condition=r"J_{\mathrm{out}}(\theta)\, X_k(\theta) = 0 \text{ for all } \theta", formula=formula,
                    note="found without the graph, by one null space at many random weights", generators=generators)
