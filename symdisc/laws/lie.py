"""A lower bound on dim Lie(fields) at one point, exact modulo a prime.

Brackets come from transport: along the flow of a time-dependent field X(t) of the family, any field Y of it pulls back
to
    w(t) = (D phi_t)^-1 Y(phi_t theta) = Y + t [X_0, Y] + ... ,
and each coefficient of w lies in the Lie algebra at theta; random X(t) and Y reach all brackets of up to K fields from
the coefficients below t^K. The series live on residues, so each coefficient is exact. (The pullback is the usual Ad
formula; its t-derivative is the pullback of [X(t), Y].)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from symdisc.laws.problem import CountProblem
from symdisc.residues import Subspace, draw, matmul

__all__ = ["Span", "lie_span", "random_state"]

# Bracket depth at which the search ends. The deepest need seen among shapes whose laws are known is 4 (narrow ends,
# momentum).
MAX_DEPTH = 8
# A depth is taken as exhausted after this many transports without growth, and the span as saturated after two such
# depths.
IDLE_TRANSPORTS = 2
ROOM = 2**24  # numbers of all values of a network at all samples that are held at once, at 8 bytes and some copies


@dataclass(frozen=True)
class Span:
    """A basis [rank, N] of the fields found at one point, with how it was found."""

    basis: np.ndarray
    depth: int
    fields: int
    transports: int

    @property
    def rank(self) -> int:
        return len(self.basis)


def lie_span(
    problem: CountProblem, state: np.ndarray, friction: int, bound: int, rng: np.random.Generator, prime: int
) -> Span:
    """Fields and brackets at ``state`` [N] until their rank meets ``bound`` or stops growing."""
    samples = bound + 4
    point = state.reshape(1, 1, 1, -1)
    known = Subspace.zero(problem.states, prime)
    for count in _portions(samples, problem.entries):
        known = known.extended(problem.field(point, problem.sample(rng, count, 1, prime), friction, 1, prime)[0, 0])
    if len(known) >= bound or problem.generators == 1:
        return Span(known.basis, 1, samples, 0)
    transports, fields, idle_depths, depth = 0, samples, 0, 1
    while depth < MAX_DEPTH and idle_depths < 2:
        depth += 1
        before, idle = len(known), 0
        while idle < IDLE_TRANSPORTS and len(known) < bound:
            # A field that is a combination of others at theta may still bring new brackets: a few more than the need.
            batch = min(before, bound - len(known)) + 4
            grown = known.extended(transported(problem, state, friction, depth, batch, rng, prime))
            idle = 0 if len(grown) > len(known) else idle + 1
            known, transports, fields = grown, transports + 1, fields + batch + 1
        if len(known) >= bound:
            break
        idle_depths = 0 if len(known) > before else idle_depths + 1
    return Span(known.basis, depth, fields, transports)


def transported(
    problem: CountProblem,
    state: np.ndarray,
    friction: int,
    order: int,
    batch: int,
    rng: np.random.Generator,
    prime: int,
) -> np.ndarray:
    """Coefficients of t .. t^(order-1) of ``batch`` fields pulled back along a random flow, [(order-1) * batch, N]."""
    driver = problem.sample(rng, 1, order, prime)
    path = _flow(problem, state, driver, friction, order, prime)
    inverse = _inverse_jacobian(problem, path, driver, friction, order - 1, prime)
    rows = []
    for count in _portions(batch, order * problem.entries):
        moved = problem.field(path, problem.sample(rng, count, 1, prime), friction, order, prime)[0]
        for k in range(1, order):
            total = np.zeros((moved.shape[1], state.size), np.int64)
            for j in range(k + 1):
                if k - j < len(moved):
                    total += matmul(moved[k - j], inverse[j].T, prime)
            rows.append(total % prime)
    return np.concatenate(rows)


def _portions(number: int, entries: int) -> Iterator[int]:
    """``number`` samples of so many entries in portions that fit into memory."""
    most = max(1, ROOM // max(entries, 1))
    for start in range(0, number, most):
        yield min(most, number - start)


def _flow(
    problem: CountProblem, state: np.ndarray, driver: dict[str, np.ndarray], friction: int, order: int, prime: int
) -> np.ndarray:
    """The solution of z' = X(t, z), z(0) = state as a jet [1, order, 1, N]."""
    path = np.zeros((1, order, 1, state.size), np.int64)
    path[0, 0, 0] = state
    for k in range(1, order):
        slope = problem.field(path[:, :k], driver, friction, k, prime)
        if slope.shape[1] == k:
            path[0, k, 0] = slope[0, k - 1, 0] * pow(k, -1, prime) % prime
    return path


def _inverse_jacobian(
    problem: CountProblem, path: np.ndarray, driver: dict[str, np.ndarray], friction: int, order: int, prime: int
) -> list[np.ndarray]:
    """The coefficients of H(t) = (D phi_t)^-1, from H' = -H DX(t), H(0) = 1; ``order`` + 1 matrices [N, N]."""
    n = path.shape[-1]
    slopes, start = [np.zeros((n, n), np.int64) for _ in range(order)], 0
    for count in _portions(n, 2 * order * problem.entries):
        dual = np.zeros((2, order, count, n), np.int64)
        dual[0] = path[0, :order]
        dual[1, 0, np.arange(count), start + np.arange(count)] = 1
        jet = problem.field(dual, driver, friction, order, prime)
        for k, rows in enumerate(jet[1] if len(jet) == 2 else ()):
            slopes[k][:, start : start + count] = rows.T
        start += count
    inverse = [np.eye(n, dtype=np.int64)]
    for k in range(order):
        total = np.zeros((n, n), np.int64)
        for j in range(k + 1):
            total += matmul(inverse[j], slopes[k - j], prime)
        inverse.append(-(total % prime) * pow(k + 1, -1, prime) % prime)
    return inverse


def random_state(problem: CountProblem, rng: np.random.Generator, prime: int) -> tuple[np.ndarray, int]:
    """A random point [N] and a friction; nothing depends on the time coordinate of a momentum flow."""
    state = draw(rng, (problem.states,), prime)
    friction = int(draw(rng, (1,), prime)[0]) if problem.flow == "momentum" else 0
    return state, friction
