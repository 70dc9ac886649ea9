"""Exponentials, their integrals and quotients on residues: the value is free, everything else follows from it.

At generic weights and inputs exp(z_1), ..., exp(z_n) are algebraically independent over the field of everything before them
as soon as no integer combination of the z_i is constant (Kolchin and Ostrowski; Ax, doi:10.2307/1970774). So is erf(z), an
integral with respect to which exp(-z^2) has no primitive. A rank over that field is the rank at free values, and its residues
bound it from below: a proof as for polynomials. The free value is a fixed random function of the argument's residue, even or
odd where the function is, so that one argument has one value wherever it occurs; derivatives follow from the differential
equation. Whether the arguments are independent is asked of their values (``independent``).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from symdisc.laws.jets import Node, Tape, contract
from symdisc.residues import rank

__all__ = ["circle", "erf", "exp", "independent", "inverse", "normal", "reciprocal", "sigmoid", "softplus", "tanh"]


def inverse(values: np.ndarray, prime: int) -> np.ndarray:
    """1/x modulo prime, entry by entry; 0 for 0."""
    power, base, result = prime - 2, values % prime, np.ones_like(values)
    while power:
        if power & 1:
            result = result * base % prime
        base = base * base % prime
        power >>= 1
    return result


def _free(values: np.ndarray, salt: int, prime: int) -> np.ndarray:
    """A fixed random residue, not 0, for each residue (the mixing function of splitmix64)."""
    with np.errstate(over="ignore"):
        h = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(salt + 1)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((h ^ (h >> np.uint64(31))) % np.uint64(prime - 1)).astype(np.int64) + 1


def _upper(values: np.ndarray, prime: int) -> tuple[np.ndarray, np.ndarray]:
    """Of x and -x the one below prime/2, and where it was -x."""
    other = values > prime // 2
    return np.where(other, prime - values, values), other


# --- exp ----------------------------------------------------------------------------------------------------------------------
def _exp_value(x: np.ndarray, prime: int) -> np.ndarray:
    """exp(0) = 1 and exp(-x) = 1/exp(x)."""
    half, other = _upper(x, prime)
    value = np.where(half == 0, 1, _free(half, 0, prime))
    return np.where(other, inverse(value, prime), value)


def _folded(a: np.ndarray, y: np.ndarray, k: int, prime: int) -> np.ndarray:
    """The sum of a_j y_(k-j) over j from 1 on: what the terms before the k-th give to it."""
    total = np.zeros_like(y[0])
    for j in range(1, min(k, len(a) - 1) + 1):
        total = (total + a[j] * y[k - j]) % prime
    return total


def exp(tape: Tape, x: Node) -> Node:
    """e with e' = e x'."""
    tape.arguments.append(x.value[0, 0].reshape(x.value.shape[2], -1))
    p, (first, *_) = tape.prime, x.value
    order = tape.order if len(first) > 1 else 1
    y = np.zeros((order, *first.shape[1:]), np.int64)
    y[0] = _exp_value(first[0], p)
    for k in range(1, order):
        y[k] = _folded(first * np.arange(len(first)).reshape(-1, *[1] * (first.ndim - 1)) % p, y, k, p) * pow(k, -1, p) % p
    value = _with_dual(tape, y, x, y)
    return tape.put(value, ((x, _along(tape, value)),) if x.active else ())


def _with_dual(tape: Tape, y: np.ndarray, x: Node, slope: np.ndarray) -> np.ndarray:
    """The jet y with its first-order direction slope * dx; ``y`` and ``slope`` are [K, B, *shape]."""
    if len(x.value) == 1:
        return y[None]
    dual = _product(tape, slope[None], x.value[1:])[0]
    out = np.zeros((2, *(max(a, b) for a, b in zip(y.shape, dual.shape, strict=True))), np.int64)
    out[0, : len(y)] = y
    out[1, : len(dual)] = dual
    return out


def _product(tape: Tape, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    letters = "abcdefghijklmnopqrst"[: a.ndim - 3]
    return contract(f"{letters},{letters}->{letters}", a, b, tape.order, tape.prime)


def _along(tape: Tape, slope: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda bar: _product(tape, bar, slope)


# --- quotients ----------------------------------------------------------------------------------------------------------------
def reciprocal(tape: Tape, x: Node) -> Node:
    """1/x; raises ZeroDivisionError where a residue is 0, which generic points are not."""
    p, (first, *_) = tape.prime, x.value
    if not first[0].all():
        raise ZeroDivisionError
    order = tape.order if len(first) > 1 else 1
    y = np.zeros((order, *first.shape[1:]), np.int64)
    y[0] = inverse(first[0], p)
    for k in range(1, order):
        y[k] = (p - _folded(first, y, k, p)) * y[0] % p
    slope = (-_product(tape, y[None], y[None])[0]) % p
    value = _with_dual(tape, y, x, slope)
    full = (-_product(tape, value, value)) % p
    return tape.put(value, ((x, _along(tape, full)),) if x.active else ())


def _shifted(tape: Tape, x: Node, by: int) -> Node:
    return tape.add(x, tape.constant(np.full(x.value.shape[3:], by)))


def sigmoid(tape: Tape, x: Node) -> Node:
    """e / (1 + e)."""
    e = exp(tape, x)
    return tape.times(e, reciprocal(tape, _shifted(tape, e, 1)))


def tanh(tape: Tape, x: Node) -> Node:
    """1 - 2 / (e^2 + 1), by the same exponential of x as the sigmoid."""
    e = exp(tape, x)
    return _shifted(tape, tape.scale(reciprocal(tape, _shifted(tape, tape.times(e, e), 1)), -2), 1)


# --- integrals and circles ----------------------------------------------------------------------------------------------------
def _integral(tape: Tape, x: Node, slope: Node, start: np.ndarray) -> Node:
    """y with y' = slope x' and the value ``start`` [B, *shape]."""
    p, (first, *_), d = tape.prime, x.value, slope.value[0]
    order = tape.order if len(first) > 1 else 1
    y = np.zeros((order, *first.shape[1:]), np.int64)
    y[0] = start
    for k in range(1, order):
        total = np.zeros_like(y[0])
        for j in range(max(1, k - len(d) + 1), min(k, len(first) - 1) + 1):
            total = (total + j * first[j] % p * d[k - j]) % p
        y[k] = total * pow(k, -1, p) % p
    value = _with_dual(tape, y, x, d)
    return tape.put(value, ((x, _along(tape, slope.value)),) if x.active else ())


def _bell(tape: Tape, x: Node, exponent: Fraction, salt: int) -> tuple[Node, np.ndarray, np.ndarray]:
    """c exp(exponent x^2) for a free c (those met, 2/sqrt(pi) and 1/sqrt(2 pi), are transcendental), a free value for x or -x,
    and where it is that of -x."""
    p = tape.prime
    residue = exponent.numerator * pow(exponent.denominator, -1, p) % p
    bell = exp(tape, tape.scale(tape.times(x, x), residue))
    slope = tape.scale(bell, int(_free(np.zeros(1, np.int64), salt, p)[0]))
    half, other = _upper(x.value[0, 0], p)
    return slope, np.where(half == 0, 0, _free(half, salt + 1, p)), other


def erf(tape: Tape, x: Node) -> Node:
    """2/sqrt(pi) times the integral of exp(-x^2); odd."""
    slope, start, other = _bell(tape, x, Fraction(-1), 10)
    return _integral(tape, x, slope, np.where(other, tape.prime - start, start) % tape.prime)


def normal(tape: Tape, x: Node) -> Node:
    """The probability that a normal variable is below x: 1/2 and something odd."""
    slope, start, other = _bell(tape, x, Fraction(-1, 2), 20)
    p = tape.prime
    return _integral(tape, x, slope, (np.where(other, p - start, start) + pow(2, -1, p)) % p)


def softplus(tape: Tape, x: Node) -> Node:
    """log(1 + e), whose derivative is the sigmoid; log(1 + e^x) - log(1 + e^-x) = x."""
    half, other = _upper(x.value[0, 0], tape.prime)
    start = _free(half, 3, tape.prime)
    return _integral(tape, x, sigmoid(tape, x), np.where(other, start - half, start) % tape.prime)


def circle(tape: Tape, x: Node) -> tuple[Node, Node]:
    """(sin x, cos x): a free point of the circle, even and odd as they are."""
    tape.arguments.append(x.value[0, 0].reshape(x.value.shape[2], -1))
    p, (first, *_) = tape.prime, x.value
    half, other = _upper(first[0], p)
    u = np.where(half == 0, 0, _free(half, 4, p))
    u = np.where(other, p - u, u) % p
    below = inverse((1 + u * u) % p, p)
    order = tape.order if len(first) > 1 else 1
    s, c = (np.zeros((order, *first.shape[1:]), np.int64) for _ in range(2))
    s[0], c[0] = 2 * u * below % p, (1 - u * u) % p * below % p
    for k in range(1, order):
        up, down = np.zeros_like(s[0]), np.zeros_like(s[0])
        for j in range(1, min(k, len(first) - 1) + 1):
            rate = j * first[j] % p
            up, down = (up + rate * c[k - j]) % p, (down + rate * s[k - j]) % p
        s[k], c[k] = up * pow(k, -1, p) % p, (p - down) * pow(k, -1, p) % p
    sine, cosine = _with_dual(tape, s, x, c), _with_dual(tape, c, x, (-s) % p)
    if not x.active:
        return tape.put(sine, ()), tape.put(cosine, ())
    return tape.put(sine, ((x, _along(tape, cosine)),)), tape.put(cosine, ((x, _along(tape, (-sine) % p)),))


# --- independence -------------------------------------------------------------------------------------------------------------
def independent(arguments: np.ndarray, prime: int) -> bool:
    """Whether no integer combination of the columns [points, n] is constant, equal or opposite columns taken once.

    Values at random points decide: full rank modulo a prime, with the constant 1, is a proof; it needs more points than columns.
    """
    columns = {min((column.tobytes(), ((prime - column) % prime).tobytes())) for column in arguments.T}
    distinct = np.stack([np.frombuffer(c, dtype=np.int64) for c in sorted(columns)]) if columns else np.zeros((0, 1), np.int64)
    distinct = distinct[distinct.any(axis=1)]  # exp(0) = 1 is nothing new
    return rank(np.concatenate([np.ones((1, distinct.shape[1]), np.int64), distinct]), prime) == len(distinct) + 1
