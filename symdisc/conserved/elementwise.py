"""The elementwise law at whitened input: one conserved number per hidden unit, for any activation.

For F(X) = U sigma(V^T X) with X = 1 (each input is one-hot) the entries of V are seen apart from each other, so the
flow V' = sigma(V)/sigma'(V), U' = -U leaves F alone. Its field is a gradient field with potential

    Q_u = 1/2 sum_i U[i, u]^2 - sum_a I(V[a, u]),    I = int sigma/sigma',

which gradient flow keeps for every loss (arXiv:2210.17216, section 5). It is no symmetry at other inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from scipy.integrate import quad
from scipy.special import spence

from symdisc.conserved.antiderivative import antiderivative, shorter
from symdisc.errors import BadInput
from symdisc.formula import FUNCTIONS, free_names, parse

__all__ = ["X", "ElementwiseLaw", "Piece", "elementwise_law", "read_activation"]

X = sp.Symbol("x", real=True)
# Critical points without a formula are looked for in this window, with steps far below their distance in known
# activations.
WINDOW, STEPS = 30, 1201


@dataclass(frozen=True)
class Piece:
    """The law where the argument lies in ``domain``.

    ``kind``: "closed" (``potential`` is I, proved by differentiation), "integral" (I is the integral from ``base``; no
    closed form was found), "frozen" (sigma = sigma' = 0: the entry does not move and gives nothing), "none" (sigma' = 0
    but not sigma: the outer weight moves alone and there is no law).
    """

    domain: sp.Set
    kind: str
    integrand: sp.Expr | None = None
    potential: sp.Expr | None = None
    base: sp.Expr | None = None

    def latex(self) -> str:
        where = rf"v \in {sp.latex(self.domain)}"
        v = sp.Symbol("v", real=True)
        if self.kind == "closed" and self.potential is not None:
            return f"{sp.latex(self.potential.subs(X, v))} & {where}"
        if self.kind == "integral" and self.integrand is not None:
            return rf"\int_{{{sp.latex(self.base)}}}^{{v}} {sp.latex(self.integrand)}\, dx & {where}"
        return f"0 & {where}" if self.kind == "frozen" else rf"\text{{no law}} & {where}"


@dataclass(frozen=True)
class ElementwiseLaw:
    """Q_u = 1/2 |U[:, u]|^2 - sum_a I(V[a, u]) for U [m, h], V [n, h], inputs X = 1; ``poles``: where I is infinite.

    An entry that reaches a pole leaves the law; between poles Q is constant. Poles are exact, or floats where they have
    no formula.
    """

    activation: sp.Expr
    pieces: tuple[Piece, ...]
    poles: sp.Set
    assumptions: tuple[str, ...] = ("inputs are whitened: X is the identity, every input one-hot",)

    @property
    def domain(self) -> sp.Set:
        """Where an entry of V may lie."""
        return sp.Union(*(p.domain for p in self.pieces if p.kind != "none")) - self.poles

    def latex(self) -> str:
        """Formula, antiderivative by pieces, and poles (amsmath)."""
        body = r" \\ ".join(p.latex() for p in self.pieces)
        head = r"Q_{u} = \tfrac{1}{2} \textstyle\sum_{i} U_{iu}^{2} - \sum_{a} I(V_{au})"
        poles = "" if self.poles is sp.EmptySet else rf" \\ v \notin {sp.latex(self.poles)}"
        return rf"{head},\quad I(v) = \begin{{cases}} {body} \end{{cases}},\quad \dot Q_{{u}} = 0" + poles

    def evaluate(self, outer: Any, inner: Any) -> Any:
        """Q [h] from U [m, h] and V [n, h], numpy or torch (differentiable in both, any number of times). Raises BadInput where there
        is no law."""
        return (outer**2).sum(0) / 2 - self.potential(inner).sum(0)

    @property
    def formula(self) -> sp.Expr:
        """I in x, piece by piece; an integral where no closed form was found."""
        found = [(_formula(p), p.domain.contains(X)) for p in self.pieces]
        return sp.Piecewise(*found) if len(found) > 1 else found[0][0]

    def potential(self, values: Any) -> Any:
        """I entry by entry, numpy or torch (differentiable); not a number stays so. Raises BadInput where there is no law."""
        return self._inside_torch(values) if hasattr(values, "new_tensor") else self._potentials(np.asarray(values, dtype=np.float64))

    def gradient(self, outer: Any, inner: Any) -> tuple[np.ndarray, np.ndarray]:
        """dQ_u in U[:, u] and V[:, u], as arrays [m, h] and [n, h]: (U, -sigma(V)/sigma'(V))."""
        values = np.asarray(inner, dtype=np.float64)
        return np.asarray(outer, dtype=np.float64), -self._by_piece(values, _integrand)

    def _potentials(self, values: np.ndarray) -> np.ndarray:
        return self._by_piece(values, lambda piece: self._functions[piece])

    def _inside_torch(self, inner: Any) -> Any:
        """I of the entries of a tensor. Its value is numpy's, which has the dilogarithm and the integrals; its derivative is sigma/sigma',
        which is elementary and left to autograd."""
        torch = sys.modules["torch"]
        law = self

        class Potential(torch.autograd.Function):  # type: ignore[name-defined, misc]
            @staticmethod
            def forward(v: Any) -> Any:
                return v.new_tensor(law._potentials(v.detach().cpu().numpy().astype(np.float64)))

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                ctx.save_for_backward(*inputs)

            @staticmethod
            def backward(ctx: Any, pull: Any) -> Any:
                return pull * law._slopes_torch(*ctx.saved_tensors)

        return Potential.apply(inner)

    def _slopes_torch(self, v: Any) -> Any:
        """sigma/sigma' of the entries of a tensor, by torch's own functions."""
        torch = sys.modules["torch"]
        out, left = torch.zeros_like(v), torch.ones_like(v, dtype=torch.bool)
        for piece in self.pieces:
            bounds = [(float(i.inf), float(i.sup)) for i in _intervals(piece.domain)]
            here = left & (sum((v >= low) & (v <= high) for low, high in bounds) > 0)
            left = left & ~here
            if piece.integrand is not None:
                named = {f.func.__name__: getattr(torch, f.func.__name__) for f in piece.integrand.atoms(sp.Function)}
                inside = torch.where(here, v, _between(*bounds[0]))  # elsewhere the formula may have a pole, and its derivatives no number
                slope = sp.lambdify(X, piece.integrand.evalf(17), [named])(inside)
                out = torch.where(here, slope + 0 * inside, out)
        return out

    def _by_piece(
        self, values: np.ndarray, function: Callable[[Piece], Callable[[np.ndarray], np.ndarray]]
    ) -> np.ndarray:
        out = np.full(values.shape, np.nan)
        for piece in self.pieces:
            if piece.kind != "none":
                here = np.isnan(out) & _inside(piece.domain, values)
                out[here] = function(piece)(values[here])
        wrong = ~np.isfinite(out) & ~np.isnan(values)
        if wrong.any():
            worst = values[wrong][0]
            raise BadInput(f"no law for sigma = {self.activation} at {worst:.6g}; it holds on {self.domain}")
        return out

    @cached_property
    def _functions(self) -> dict[Piece, Callable[[np.ndarray], np.ndarray]]:
        return {
            p: _integral(p) if p.kind == "integral" else _numeric(p.potential or sp.Integer(0)) for p in self.pieces
        }


def _formula(piece: Piece) -> sp.Expr:
    if piece.kind == "integral":
        return sp.Integral(piece.integrand, (X, piece.base, X))
    return sp.Integer(0) if piece.potential is None else piece.potential


@cache
def elementwise_law(activation: str | sp.Expr) -> ElementwiseLaw:
    """The law of an activation: a function name ("tanh"), a formula in one variable ("x*tanh(x)") or sympy.

    Raises FormulaError or BadInput when it is no function of one variable.
    """
    sigma = read_activation(activation)
    pieces: list[Piece] = []
    poles: list[sp.Set] = []
    for expr, domain in _branches(sigma):
        slope = sp.diff(expr, X)
        if sp.simplify(slope) == 0:
            pieces.append(Piece(domain, "frozen" if sp.simplify(expr) == 0 else "none"))
            continue
        ratio = sp.simplify(expr / slope)
        here = _poles(expr, slope, ratio, domain)
        poles.append(here)
        pieces += _pieces(ratio, domain, here)
    return ElementwiseLaw(sigma, tuple(pieces), sp.Union(*poles) if poles else sp.EmptySet)


def read_activation(activation: str | sp.Expr) -> sp.Expr:
    """A function name, a formula in one variable or sympy, as an expression in x; raises FormulaError or BadInput."""
    if isinstance(activation, str):
        text = f"{activation}(x)" if activation in FUNCTIONS else activation
        names = free_names(text)
        if len(names) > 1:
            raise BadInput(
                f"{activation!r} has the variables {', '.join(sorted(names))}: give a function of one variable"
            )
        return parse(text, {name: X for name in names})
    free = activation.free_symbols
    if len(free) > 1:
        raise BadInput(f"{activation} has {len(free)} variables: give a function of one variable")
    return activation.subs({symbol: X for symbol in free})


def _branches(sigma: sp.Expr) -> list[tuple[sp.Expr, sp.Set]]:
    """The formula on each interval on which it is one formula."""
    unfolded = sp.piecewise_fold(sigma.rewrite(sp.Piecewise)) if sigma.has(sp.Max, sp.Min, sp.Abs, sp.sign) else sigma
    if not isinstance(unfolded, sp.Piecewise):
        return [(unfolded, sp.S.Reals)]
    left, found = sp.S.Reals, []
    for expr, condition in unfolded.args:
        domain = sp.S.Reals if condition == sp.true else condition.as_set()
        here = sp.Intersection(left, domain).closure
        if here.measure != 0:
            found.append((expr, here))
        left = left - domain
    return found


def _poles(expr: sp.Expr, slope: sp.Expr, ratio: sp.Expr, domain: sp.Set) -> sp.Set:
    """Zeros of sigma' in the domain at which sigma/sigma' has no finite limit."""
    zeros = sp.solveset(slope, X, domain)
    if isinstance(zeros, sp.FiniteSet):
        return sp.FiniteSet(*(z for z in zeros if not sp.limit(ratio, X, z).is_finite))
    if zeros is sp.EmptySet or _is_lattice(zeros):
        return zeros
    function = sp.lambdify(X, slope, "mpmath")
    grid = [mpmath.mpf(k) * 2 * WINDOW / (STEPS - 1) - WINDOW for k in range(STEPS)]
    grid = [g for g in grid if domain.contains(sp.Float(g)) == sp.true]
    heights = [function(g) for g in grid]
    roots = [mpmath.findroot(function, (a, b), solver="anderson") for a, b, fa, fb in
             zip(grid, grid[1:], heights, heights[1:], strict=False) if fa * fb < 0]
    return sp.FiniteSet(*(sp.Float(r, 15) for r in roots))


def _is_lattice(zeros: sp.Set) -> bool:
    parts = zeros.args if isinstance(zeros, sp.Union) else (zeros,)
    return all(isinstance(p, (sp.ImageSet, sp.FiniteSet)) for p in parts)


def _pieces(ratio: sp.Expr, domain: sp.Set, poles: sp.Set) -> list[Piece]:
    found = antiderivative(ratio, X)
    if found is not None:
        at_zero = sp.limit(found, X, 0) if domain.contains(0) == sp.true else sp.nan
        shifted = found - at_zero if at_zero.is_finite else found
        return [Piece(domain, "closed", ratio, shorter(shifted))]
    pieces = []
    for interval in _intervals(domain - poles):
        base = sp.Integer(0)
        if interval.contains(0) != sp.true:
            base = interval.sup - 1 if interval.sup.is_finite else interval.inf + 1
        pieces.append(Piece(interval, "integral", ratio, None, base))
    return pieces


def _intervals(domain: sp.Set) -> tuple[sp.Set, ...]:
    return domain.args if isinstance(domain, sp.Union) else (domain,)


# --- numbers ----------------------------------------------------------------------------------------------------------
def _inside(domain: sp.Set, values: np.ndarray) -> np.ndarray:
    inside = np.zeros(values.shape, dtype=bool)
    for interval in _intervals(domain):
        low, high = float(interval.inf), float(interval.sup)
        inside |= (values >= low) & (values <= high)
    return inside


def _between(low: float, high: float) -> float:
    """A number inside."""
    if np.isfinite(low) and np.isfinite(high):
        return (low + high) / 2
    return low + 1 if np.isfinite(low) else high - 1 if np.isfinite(high) else 1.0


def _integrand(piece: Piece) -> Callable[[np.ndarray], np.ndarray]:
    return _numeric(piece.integrand if piece.integrand is not None else sp.Integer(0))


def _numeric(expr: sp.Expr) -> Callable[[np.ndarray], np.ndarray]:
    table = {"polylog": lambda s, z: spence(1 - z)}  # only the dilogarithm occurs, at z <= 0
    function = sp.lambdify(X, expr, [table, "scipy", "numpy"])

    def call(values: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.broadcast_to(np.asarray(function(values), dtype=np.float64), values.shape)

    return call


def _integral(piece: Piece) -> Callable[[np.ndarray], np.ndarray]:
    assert piece.integrand is not None and piece.base is not None
    function, base = sp.lambdify(X, piece.integrand, ["scipy", "numpy"]), float(piece.base)

    def call(values: np.ndarray) -> np.ndarray:
        return np.array([quad(function, base, v, epsabs=1e-13, epsrel=1e-13)[0] for v in values.ravel()]).reshape(
            values.shape
        )

    return call
