"""A captured network as a differentiable function of its parameters: Jacobians of outputs, motions of features."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from symdisc.torchside.capture import Capture
from symdisc.torchside.decompose import default_eps
from symdisc.torchside.derivatives import Function, Parameters, is_right, jacobian_at, jacobians
from symdisc.torchside.draws import draws
from symdisc.torchside.interpret import ancestors, evaluate, wide
from symdisc.torchside.reweighted import called_with

__all__ = ["Doubled", "Function", "ModelFunction", "Network", "Wide", "jacobian_rows", "plain_kernels", "real_entries",
           "stored_dtype"]

STEPS, DEPTH = 256, 3  # of the search for jumps: steps of a way, and looks at a step that seems to hold one
AT_ONCE = 20_000  # entries of values that are followed together there: two numbers at each step
RMS_NORMS = (torch.rms_norm, torch.nn.functional.rms_norm)
LARGEST = 8_000_000  # entries of all values at all inputs that are differentiated together: 64 MB, and what the derivative adds


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Attention by its formula: the fused kernels have no derivative rule under vmap."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def jacobian_rows(function: Function, parameters: Parameters, draws: Sequence[tuple[Tensor, ...]]) -> np.ndarray:
    """d function / d parameters at all ``draws``, [outputs of all draws, D]; rows that are not finite are left out."""
    with plain_kernels():
        rows = jacobians(function, parameters, draws).flatten(0, 1)
    return rows[torch.isfinite(rows).all(1)].numpy()


@dataclass(frozen=True)
class _Way:
    """A straight way of the weights on which a network is looked at, at one input, some of its values frozen."""

    direction: Parameters
    inputs: tuple[Tensor, ...]
    frozen: Mapping[str, Tensor]


class Network:
    """The operator graph run in float64 as a function of the parameters (canonical names, ties once)."""

    def __init__(self, capture: Capture, state: Mapping[str, Tensor], seed: int = 0) -> None:
        self.capture, self.graph, self.seed = capture, capture.graph, seed
        self.layout = {n: tuple(t.shape) for n, t in capture.parameters.items()}
        self.parameters: Parameters = {n: state[n].detach().double() for n in self.layout}
        graph, tensors = capture.graph, capture.tensors
        fixed = {n: tensors[n] for n in graph.constants if n in tensors}
        fixed.update({v: state[n] if n in state else tensors[v] for v, n in graph.buffers.items() if n in state or v in tensors})
        self.fixed = {n: wide(t) for n, t in fixed.items() if isinstance(t, Tensor)}
        self.size = sum(int(np.prod(s)) for s in self.layout.values())

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Canonical state_dict name -> value."""
        return {n: self.fixed[v] for v, n in self.graph.buffers.items() if v in self.fixed}

    def draws(self, first: int, count: int) -> list[tuple[Tensor, ...]]:
        """Inputs number ``first`` to ``first + count - 1``."""
        return draws(self.graph, self.capture.example, (7919 * self.seed + k for k in range(first, first + count)))

    @cached_property
    def together(self) -> int:
        """Inputs at which the network is differentiated at once: of small maps the operators cost more than their numbers."""
        return max(LARGEST // max(sum(self.entries(op.name) for op in self._ops), 1), 1)

    @cached_property
    def _ops(self) -> Any:
        return ancestors(self.graph, self.graph.outputs)

    def function(self, wanted: Sequence[str]) -> Function:
        """parameters, *inputs -> the values ``wanted``, flattened into one vector."""
        values = self.values(wanted)
        return lambda parameters, *inputs: torch.cat([real_entries(v).reshape(-1) for v in values(parameters, *inputs)])

    def values(self, wanted: Sequence[str], frozen: Mapping[str, Tensor] | None = None) -> Callable[..., list[Tensor]]:
        """parameters, *inputs -> the values ``wanted``, as they are; ``frozen`` ones in place of what the graph makes of these names."""
        ops = self._ops if tuple(wanted) == self.graph.outputs else ancestors(self.graph, wanted)

        def run(parameters: Parameters, *inputs: Tensor) -> list[Tensor]:
            env: dict[str, Any] = {**self.fixed, **dict(zip(self.graph.inputs, inputs, strict=True)), **(frozen or {})}
            env.update({v: parameters[n] for v, n in self.graph.parameters.items()})
            values = evaluate(ops, env, wanted, torch.float64)
            return [values[w] for w in wanted]

        return run

    def equations(self, parameters: Parameters, draws: Sequence[tuple[Tensor, ...]]) -> np.ndarray:
        """[rows, D] that vanish on the directions which leave the outputs alone and, of a steady capture, the inner decisions."""
        return np.concatenate([self.jacobian(parameters, draws), *self.decisions(parameters, draws)])

    def decisions(self, parameters: Parameters, draws: Sequence[tuple[Tensor, ...]]) -> list[np.ndarray]:
        """The part of ``equations`` that is about the inner decisions."""
        from symdisc.torchside.steady import kept_rows

        return [kept_rows(self, d, parameters, draws) for d in self.capture.deciders]

    def output(self, parameters: Parameters, draws: Sequence[tuple[Tensor, ...]]) -> np.ndarray:
        """Outputs at all draws, in one vector."""
        f = self.function(self.graph.outputs)
        with torch.no_grad(), plain_kernels():
            return torch.cat([f(parameters, *x) for x in draws]).numpy()

    def jacobian(self, parameters: Parameters, draws: Sequence[tuple[Tensor, ...]]) -> np.ndarray:
        """[rows, D]"""
        f, most = self.function(self.graph.outputs), self.together
        return np.concatenate([jacobian_rows(f, parameters, draws[k:k + most]) for k in range(0, len(draws), most)])

    def motion(self, wanted: Sequence[str], parameters: Parameters, directions: np.ndarray,
               draws: Sequence[tuple[Tensor, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Values ``wanted`` at all draws, [S, n], and their derivatives along the columns of ``directions`` [D, k], [S, n, k]."""
        f, columns = self.function(wanted), torch.from_numpy(np.ascontiguousarray(directions))
        tangents = self.unflatten(columns.T, batched=True)
        stacked = [torch.stack(t) for t in zip(*draws, strict=True)]

        def along(tangent: Parameters, *x: Tensor) -> Tensor:
            return vmap(lambda *one: jvp(lambda p: f(p, *one), (parameters,), (tangent,))[1], randomness="same")(*x)

        with plain_kernels():
            try:
                if not stacked:
                    raise NotImplementedError("nothing to map over")
                values = vmap(lambda *one: f(parameters, *one), randomness="same")(*stacked)
                moves = vmap(lambda t: along(t, *stacked), randomness="same", chunk_size=16)(tangents).permute(1, 2, 0).detach()
                if not all(is_right(moves[k], f, parameters, draws[k], columns) for k in (0, -1)):
                    raise NotImplementedError("a rule that is wrong")
            except (RuntimeError, NotImplementedError):  # an operator without such rules: reverse mode, one draw at a time
                values = torch.stack([f(parameters, *x) for x in draws])
                moves = torch.stack([jacobian_at(f, parameters, x) @ columns for x in draws])
        return values.detach().numpy(), moves.numpy()

    def entries(self, name: str) -> int:
        """Real entries of a value."""
        pairs = name in self.graph.by_name and self.graph.by_name[name].dtype.startswith("complex")
        return int(np.prod(self.graph.shape(name) or ())) * (2 if pairs else 1)

    def jumping(self, parts: Sequence[Sequence[str]], direction: Parameters, x: tuple[Tensor, ...],
                steps: Sequence[str] = ()) -> list[bool]:
        """For each part whether one of its values jumps on the way theta + t direction, t from 0 to 1, the ``steps`` as at its start.

        Over one step h a smooth or kinked value changes by a mean of its slopes, so its distance from the trapezoid of the
        slopes at both ends is at most h (|s| + |s'|), but for terms of higher order; a jump is not bound by the slopes. Several
        kinks in one step can look alike, so a part that does is looked at again by itself, ``DEPTH`` times in all.
        """
        sizes = [sum(map(self.entries, names)) for names in parts]
        found = [False] * len(parts)
        way = _Way(direction, x, dict(zip(steps, self.values(steps)(self.parameters, *x), strict=True)))
        for group in _packed(sizes, AT_ONCE):
            looked = self._defects([parts[k] for k in group], [sizes[k] for k in group], way, 0.0, 1.0)
            for at, k in enumerate(group):
                seen = looked[at] if looked else (self._defects([parts[k]], [sizes[k]], way, 0.0, 1.0) or [None])[0]
                found[k] = seen is not None and self._jumps(parts[k], sizes[k], way, seen)
        return found

    def _jumps(self, names: Sequence[str], size: int, way: _Way, seen: tuple[int, float]) -> bool:
        """Whether what was ``seen`` on the whole way is still there when the step is looked at more closely."""
        low, width, (step, spread) = 0.0, 1.0, seen
        for _ in range(DEPTH - 1):
            low, width = low + step * width / STEPS, width / STEPS
            looked = self._defects([names], [size], way, low, width, spread)
            if looked is None or looked[0] is None:
                return False
            step = looked[0][0]
        return True

    def _defects(self, parts: Sequence[Sequence[str]], sizes: Sequence[int], way: _Way, low: float, width: float,
                 spread: float = 0.0) -> list[tuple[int, float] | None] | None:
        """For each part the step on the way from ``low`` whose change its slopes do not explain, and the spread of its values (all of
        them: a small bump is no jump), or None where there is no such step; None for all where an operator has no derivative."""
        run = self.values([n for names in parts for n in names], way.frozen)

        def f(parameters: Parameters) -> Tensor:
            return torch.cat([real_entries(v).reshape(-1) for v in run(parameters, *way.inputs)])

        def at(t: Tensor) -> tuple[Tensor, Tensor]:
            here = {n: p + t * way.direction[n] for n, p in self.parameters.items()}
            value, slope = jvp(f, (here,), (way.direction,))[:2]
            return value, slope

        ts = low + width * torch.linspace(0.0, 1.0, STEPS + 1, dtype=torch.float64)
        with plain_kernels():
            try:
                values, slopes = vmap(at, randomness="same", chunk_size=64)(ts)
            except (RuntimeError, NotImplementedError):
                return None
        h, found = width / STEPS, []  # type: float, list[tuple[int, float] | None]
        for value, slope in zip(values.nan_to_num(0.0).split(list(sizes), 1), slopes.nan_to_num(0.0).split(list(sizes), 1), strict=True):
            size = spread or float((value.amax(0) - value.amin(0)).max())
            defect = (value[1:] - value[:-1] - (slope[1:] + slope[:-1]) * h / 2).abs()
            beyond = (defect - 3.0 * (slope[1:].abs() + slope[:-1].abs()) * h).amax(1)
            worst = int(beyond.argmax())
            found.append((worst, size) if float(beyond[worst]) > 1e-3 * size + 1e-9 else None)
        return found

    def flatten(self, parameters: Mapping[str, Tensor]) -> np.ndarray:
        """[D], parameters in the order of registration."""
        return torch.cat([parameters[n].reshape(-1) for n in self.layout]).numpy() if self.layout else np.zeros(0)

    def unflatten(self, theta: Tensor, batched: bool = False) -> Parameters:
        """[D] (or [k, D]) back to named tensors."""
        out, at = {}, 0
        for name, shape in self.layout.items():
            n = int(np.prod(shape))
            part = theta[..., at:at + n]
            out[name] = part.reshape((len(theta), *shape) if batched else shape)
            at += n
        return out


def _packed(sizes: Sequence[int], most: int) -> list[list[int]]:
    """The positions of ``sizes`` in runs whose sums are at most ``most``, larger ones alone."""
    runs: list[list[int]] = []
    total = 0
    for k, size in enumerate(sizes):
        if not runs or total + size > most:
            runs.append([])
            total = 0
        runs[-1].append(k)
        total += size
    return runs


def real_entries(t: Tensor) -> Tensor:
    """float64; complex numbers as pairs, [..., 2]."""
    return torch.view_as_real(t) if t.is_complex() else t.double()


def stored_dtype(model: torch.nn.Module) -> torch.dtype:
    """float64 where all parameters are; otherwise the dtype of the first that is not."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float64), torch.float64)


class Doubled(TorchFunctionMode):
    """A model made for another dtype, run in float64: also where it asks for float32 by name, as language models do in their norms,
    or by torch's default, as whole numbers times 0.1 do. RMSNorm without an eps keeps that of the dtype in which it was ``stored``."""

    def __init__(self, stored: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.eps = default_eps(stored)

    def __enter__(self) -> Doubled:
        self.default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        torch.set_default_dtype(self.default)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.float:
            return args[0].double()
        wide, named = [_wider(a) for a in args], {k: _wider(v) for k, v in (kwargs or {}).items()}
        return self._rms_norm(function, *wide, **named) if function in RMS_NORMS else function(*wide, **named)

    def _rms_norm(self, function: Any, input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
        return function(input, normalized_shape, weight, self.eps if eps is None else eps)


def _wider(a: Any) -> Any:
    return torch.float64 if a is torch.float32 else torch.complex128 if a is torch.complex64 else a


class Wide(Doubled):
    """The same, with derivatives also where a model cuts them off, as embeddings do at their padding row: its function depends on its
    parameters there as well."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.detach:
            return args[0]
        if function is torch._C._set_grad_enabled:
            return None
        if function is torch.nn.functional.embedding and not (kwargs or {}).get("max_norm") and not (len(args) > 3 and args[3]):
            return function(*args[:2], **{k: v for k, v in (kwargs or {}).items() if k in ("input", "weight")})
        return super().__torch_function__(function, types, args, kwargs)


class ModelFunction:
    """The torch module itself, in float64, as a function of its parameters: nothing of the captured graph is used.

    ``stored`` is the dtype that it had before. Its derivatives are those of the function, or, ``as_trained``, those that it lets through.
    """

    def __init__(self, model: torch.nn.Module, example: Sequence[Any], kwargs: Mapping[str, Any] | None,
                 stored: torch.dtype = torch.float32, as_trained: bool = False) -> None:
        self.model, self.mode = model, Doubled(stored) if as_trained else Wide(stored)
        self.leaves, self.tree = torch.utils._pytree.tree_flatten((tuple(example), dict(kwargs or {})))

    def __call__(self, parameters: Parameters, *inputs: Any) -> Tensor:
        """Outputs as one vector; ``inputs`` are the tensors among the example's arguments, in their order."""
        drawn = iter(inputs)
        leaves = [next(drawn) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = torch.utils._pytree.tree_unflatten(leaves, self.tree)
        buffers = {n: wide(b.detach()).clone() for n, b in self.model.named_buffers()}
        with self.mode:
            out = called_with(self.model, {**parameters, **buffers}, args, kwargs)
        leaves = torch.utils._pytree.tree_leaves(out)
        if not all(isinstance(t, Tensor) or t is None for t in leaves) and hasattr(out, "values"):
            leaves = list(out.values())
        return torch.cat([real_entries(t).reshape(-1) for t in leaves
                          if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())])
