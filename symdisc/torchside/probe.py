"""Samples of a torch callable for ``symdisc.equivariance``: is it elementwise, its values, its derivatives, its jumps.

Everything runs in float64 on copies. Derivatives from autograd are checked against differences of values, since the
symmetry asked for is that of the function and not of its backward pass (straight-through estimators differ).
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from symdisc.errors import BadInput

__all__ = ["Probe"]

# central differences of eighth order: error near 1e-13 for functions that vary on the scale of 1
_STENCIL = ((1, 4 / 5), (2, -1 / 5), (3, 4 / 105), (4, -1 / 280))
_STEP = 0.02
_AGREE = 1e-6


@dataclass(frozen=True)
class Probe:
    """A callable prepared for sampling: numpy arrays in, numpy arrays out."""

    call: Callable[..., Tensor]
    name: str
    inputs: tuple[str, ...]

    @property
    def arity(self) -> int:
        return len(self.inputs)

    @classmethod
    def of(cls, function: Callable[..., Tensor]) -> Probe:
        """A probe of a function or module. Raises BadInput for a callable whose result is random."""
        name = getattr(function, "__name__", type(function).__name__)
        call = copy.deepcopy(function).double() if isinstance(function, nn.Module) else function
        forward = call.forward if isinstance(call, nn.Module) else call
        return cls(call, name, _inputs(forward))

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """Values at one-dimensional inputs; BadInput with the callable's own words when it fails."""
        return self._run([torch.tensor(x, dtype=torch.float64) for x in inputs]).detach().numpy().copy()

    def _run(self, inputs: Sequence[Tensor]) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the callable's remarks are not ours
                result = self.call(*[x.clone() for x in inputs])
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(
                f"{self.name} cannot be called with {len(inputs)} float64 vector(s) of {len(inputs[0])}: {first}"
            ) from error
        if not isinstance(result, Tensor):
            raise BadInput(f"{self.name} must return one tensor, not {type(result).__name__}")
        if result.is_floating_point() and result.dtype != torch.float64:
            raise BadInput(f"{self.name} answers float64 with {result.dtype}: let it keep the dtype of its input")
        return result.to(torch.float64)

    def is_elementwise(self, seed: int = 0) -> bool:
        """Each output entry depends on the input entries at its place, by the same function everywhere."""
        rng = np.random.default_rng(seed)
        x = [rng.standard_normal(6) * 2 for _ in range(self.arity)]
        y = self(*x)
        if not np.array_equal(self(*x), y, equal_nan=True):
            raise BadInput(
                f"{self.name} gives different results for the same input; call .eval() or fix its randomness"
            )
        if y.shape != x[0].shape:
            return False
        order = np.array([3, 0, 5, 1, 4, 2])
        if not np.allclose(self(*(v[order] for v in x)), y[order], rtol=1e-12, atol=1e-14, equal_nan=True):
            return False
        for place in (0, 3):
            moved = [v.copy() for v in x]
            for v in moved:
                v[place] = rng.standard_normal() * 2
            if not np.allclose(
                np.delete(self(*moved), place), np.delete(y, place), rtol=1e-12, atol=1e-14, equal_nan=True
            ):
                return False
        return all(
            np.allclose(self(*(v[[i]] for v in x)), y[[i]], rtol=1e-12, atol=1e-14, equal_nan=True) for i in range(2)
        )

    def slopes(self, *inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Values, derivatives in each input, and where they can be trusted, of an elementwise callable."""
        y = self(*inputs)
        difference = [self._difference(inputs, a) for a in range(self.arity)]
        automatic = self._automatic(inputs)
        good = np.isfinite(y) & np.all([np.isfinite(d).all(axis=0) for d in difference], axis=0)
        if automatic is None:
            return y, [d[0] for d in difference], good & _steady(difference)
        with np.errstate(all="ignore"):
            agree = np.all(
                [np.abs(a - d[0]) <= _AGREE * (1 + np.abs(a)) for a, d in zip(automatic, difference, strict=True)],
                axis=0,
            )
        if (
            good.any() and agree[good].mean() < 0.7
        ):  # kinks and steep places disagree here and there, a false backward pass everywhere
            return y, [d[0] for d in difference], good & _steady(difference)
        return y, automatic, good & agree

    def _difference(self, inputs: Sequence[np.ndarray], which: int) -> np.ndarray:
        """Two estimates [2, n] of the derivative in one input, by differences of two step sizes."""
        found = []
        with np.errstate(all="ignore"):  # where values overflow the point is left out
            for step in (_STEP, _STEP / 2):
                total = np.zeros_like(inputs[0])
                for k, weight in _STENCIL:
                    for sign in (1, -1):
                        moved = [v + sign * k * step if a == which else v for a, v in enumerate(inputs)]
                        total = total + sign * weight * self(*moved)
                found.append(total / step)
        return np.array(found)[::-1]

    def _automatic(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
        y = self._run(leaves)
        if not y.requires_grad:
            return None
        try:
            grads = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
        except RuntimeError:  # operators without a derivative; differences of values take its place
            return None
        return [np.zeros_like(x) if g is None else g.detach().numpy() for g, x in zip(grads, inputs, strict=True)]

    def jacobian(self, *inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Value [m] and derivatives [m, n] in each input at one point, of a callable on vectors."""
        leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
        y = self._run(leaves).reshape(-1)
        try:
            rows = _rows(y, leaves)
        except RuntimeError as error:
            raise BadInput(f"{self.name} has no derivative: {str(error).splitlines()[0]}") from error
        return y.detach().numpy().copy(), rows

    def borders(self) -> list[float]:
        """Jumps, poles and edges of the domain of an elementwise callable of one input, by bisection from -1000 to 1000."""
        grid = _grid()
        with np.errstate(all="ignore"):
            y = self(grid)
            edge = np.isnan(y[1:]) != np.isnan(y[:-1])  # infinite values are overflow or poles, no edges
            first = np.abs(np.diff(y))
            moving = np.isfinite(first) & (first > 1e-9 * (1 + np.abs(y[1:])))
            chosen = np.flatnonzero(edge | moving)
            if not len(chosen):
                return []
            places, last = self._bisect(grid[chosen], grid[chosen + 1])
            # a continuous function falls with the width of the interval (by 1e-13); a jump stays, a pole grows
            stays = edge[chosen] | ~np.isfinite(last) | (last > 1e-4 * first[chosen])
        return [float(p) for p in places[stays]]

    def _bisect(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The half of each interval that holds the larger change, or the edge of the finite values, 44 times over."""
        fa, fb = self(a), self(b)
        for _ in range(44):
            middle = (a + b) / 2
            fm = self(middle)
            odd = [np.isnan(v) for v in (fa, fm, fb)]
            left = np.where(odd[0] != odd[2], odd[0] != odd[1], odd[1] | (np.abs(fm - fa) >= np.abs(fb - fm)))
            a, b = np.where(left, a, middle), np.where(left, middle, b)
            fa, fb = np.where(left, fa, fm), np.where(left, fm, fb)
        return (a + b) / 2, np.abs(fb - fa)


def _rows(y: Tensor, leaves: Sequence[Tensor]) -> list[np.ndarray]:
    """Derivatives [m, n] of all outputs in each input."""
    rows: list[list[np.ndarray]] = [[] for _ in leaves]
    for entry in y:
        grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if y.requires_grad:
            grads = torch.autograd.grad(entry, leaves, retain_graph=True, allow_unused=True)
        for kept, g, leaf in zip(rows, grads, leaves, strict=True):
            kept.append((torch.zeros_like(leaf) if g is None else g).detach().numpy())
    return [np.array(r) for r in rows]


def _grid() -> np.ndarray:
    """Fine near zero, coarse far away, off the round numbers at which functions like to jump."""
    far = np.geomspace(8.0, 1000.0, 1500)
    return np.concatenate([-far[::-1], np.linspace(-8.0, 8.0, 3001)[1:-1], far]) + 0.000123


def _steady(difference: Sequence[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.all([np.abs(d[0] - d[1]) <= 1e-9 * (1 + np.abs(d[0])) for d in difference], axis=0)


def _inputs(function: Callable[..., Tensor]) -> tuple[str, ...]:
    """The names of the inputs a callable must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built-in functions have no signature
        return _inputs_by_trial(function)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty)
    return names if len(names) > 1 else ("x",)


def _inputs_by_trial(function: Callable[..., Tensor]) -> tuple[str, ...]:
    """The fewest inputs that a function without signature accepts: torch raises TypeError where one is missing."""
    for names in (("x",), ("x", "y"), ("x", "y", "z")):
        try:
            function(*(torch.full((4,), 0.5, dtype=torch.float64) for _ in names))
        except TypeError:
            continue
        except Exception:  # what else is wrong is told where the function is called in earnest
            pass
        return names
    return ("x",)
