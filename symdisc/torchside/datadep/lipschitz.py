"""The Lipschitz constant of an elementwise sigma: on an observed range by secants, on the whole line from its formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import sympy as sp
import torch
from scipy.optimize import brentq
from torch import Tensor

from symdisc.equivariance.branches import breakpoints
from symdisc.errors import Undecided
from symdisc.opgraph import OpGraph
from symdisc.torchside.composed import X, composed
from symdisc.torchside.datadep.network import DataDependent
from symdisc.torchside.datadep.segments import Pair
from symdisc.torchside.interpret import evaluate
from symdisc.torchside.network import Network

__all__ = ["elementwise", "lipschitz_global", "lipschitz_observed", "sigma_formula"]

POINTS = 20_001
FAR, CELLS = 30.0, 6000  # where the zeros of sigma'' are looked for; beyond, sigma' goes monotonically to its limit or there is none

# --- from the formula -----------------------------------------------------------------------------------------------------
def sigma_formula(graph: OpGraph, pair: Pair) -> sp.Expr | None:
    """sigma of the pair as a formula in ``x``, composed from the rules of its operators; None where one has no rule."""
    known: dict[str, sp.Expr] = {pair.z: X}
    for name in pair.ops:
        found = composed(graph, graph.by_name[name], known)
        if found is None:
            return None
        known[name] = found
    return known.get(pair.a)


@lru_cache(maxsize=64)
def lipschitz_global(sigma: sp.Expr, x: sp.Symbol = X) -> float:
    """sup |sigma'| over the real line, piece by piece: at the borders, the zeros of sigma'' and both ends (sympy limits).

    Infinite where sigma jumps or its slope has no bound. The zeros are found by bisection on [-30, 30]. Raises Undecided when the
    pieces or a limit are not known.
    """
    breaks = breakpoints(sigma, x)
    if not breaks.complete:
        raise Undecided(f"where the pieces of {sigma} end is not known")
    edges = [float(p) for p in breaks.points]
    starts, stops = [-sp.oo, *edges], [*edges, sp.oo]
    found = []
    for low, high in zip(starts, stops, strict=True):
        spot = sp.Float((max(low, min(high, 0) - 1) + min(high, max(low, 0) + 1)) / 2)
        found.append(_steepest(_at(sigma, x, spot), x, low, high))
    jumps = any(abs(float(_at(sigma, x, e - 1e-9).subs(x, e)) - float(_at(sigma, x, e + 1e-9).subs(x, e))) > 1e-9 for e in edges)
    return float("inf") if jumps else max(found)


def _at(f: sp.Expr, x: sp.Symbol, spot: float) -> sp.Expr:
    """The smooth piece of f around ``spot``."""
    choices = {s: max(s.args, key=lambda a: float(a.subs(x, spot))) for s in f.atoms(sp.Max)}
    choices |= {s: min(s.args, key=lambda a: float(a.subs(x, spot))) for s in f.atoms(sp.Min)}
    choices |= {s: s.args[0] * sp.sign(s.args[0].subs(x, spot)) for s in f.atoms(sp.Abs)}
    choices |= {s: sp.sign(s.args[0].subs(x, spot)) for s in f.atoms(sp.sign)}
    choices |= {s: next(e for e, c in s.args if c == True or bool(c.subs(x, spot))) for s in f.atoms(sp.Piecewise)}  # noqa: E712
    return f if not choices else _at(f.xreplace(choices), x, spot)


def _steepest(piece: sp.Expr, x: sp.Symbol, low: sp.Expr, high: sp.Expr) -> float:
    first = sp.diff(piece, x)
    if x not in first.free_symbols:
        return abs(float(first))
    try:
        ends = [abs(sp.limit(first, x, e, "+" if e == low else "-")) for e in (low, high)]
    except NotImplementedError as error:
        raise Undecided(f"sympy knows no limit of {first}") from error
    if any(not e.is_number or e.is_infinite for e in ends):
        return float("inf")
    slope, bend = (sp.lambdify(x, e, ["numpy", "scipy"]) for e in (first, sp.diff(first, x)))
    grid = np.linspace(max(-FAR, float(low)), min(FAR, float(high)), CELLS + 1)[1:-1]
    with np.errstate(all="ignore"):
        values = np.broadcast_to(bend(grid), grid.shape)
        roots = [brentq(bend, a, b) for a, b, u, v in zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True) if u * v < 0]
        at = [abs(float(slope(r))) for r in [*roots, *grid[values == 0]]]
    return max([float(e) for e in ends] + [v for v in at if np.isfinite(v)])


# --- on what was seen -----------------------------------------------------------------------------------------------------
def lipschitz_observed(sigma: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """sup of the slopes of sigma on [low, high]: the largest secant on a fine grid, plus the third smallest amount by which the five
    secants around it differ from it.

    At a smooth maximum of the slope, inside or at an end, that amount is at least three times what the secant misses; at a kink
    it is zero, as it should be. The bound supposes a third derivative that changes little over five cells.
    """
    t = torch.linspace(low, max(high, low + 1e-6), POINTS, dtype=torch.float64)
    secants = (sigma(t).diff() / t.diff()).abs()
    at = int(secants.argmax())
    gaps = (secants[at] - secants[max(0, at - 2):at + 3]).sort().values
    return float(secants[at] + gaps[2])


def elementwise(network: Network, item: DataDependent) -> Callable[[Tensor], Tensor] | None:
    """sigma as a function of one entry, when it reads nothing but z and treats all entries alike (tried, not looked up)."""
    pair, graph = item.pair, network.graph
    inside = {pair.z, *pair.ops}
    ops = [graph.by_name[n] for n in pair.ops]
    shape = graph.shape(pair.z)
    if any(set(op.inputs) - inside for op in ops) or graph.shape(pair.a) != shape or "conv" in (pair.writer.layout, pair.readers[0].layout):
        return None

    def sigma(t: Tensor) -> Tensor:
        return evaluate(ops, {pair.z: t}, [pair.a], torch.float64)[pair.a]

    probe = torch.linspace(-2.0, 2.0, int(np.prod(shape or ())), dtype=torch.float64)
    order = torch.randperm(len(probe), generator=torch.Generator().manual_seed(0))
    whole = sigma(probe.reshape(shape or ())).reshape(-1)
    shuffled = sigma(probe[order].reshape(shape or ())).reshape(-1)
    other = torch.where(torch.arange(len(probe)) == 0, 9.0, probe)
    alone = sigma(other.reshape(shape or ())).reshape(-1)[1:]
    same = torch.allclose(whole[order], shuffled, atol=1e-12) and torch.allclose(alone, whole[1:], atol=1e-12)
    return sigma if same else None
