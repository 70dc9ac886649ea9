"""The oracle: the dimension of all continuous symmetry of a torch model, by rank alone.

Nothing of the engine is used here. At a point theta the directions that leave the function unchanged to
first order, for every input, are the null space of J = d(outputs)/d(parameters) over many inputs. Its
dimension D - rank J is the *fibre dimension*. It counts every continuous symmetry,
known or not, so the engine's orbit dimension must equal it at generic parameters.

Two things the number does not know. Jumps: a discontinuous operator (hardshrink, threshold, round) has a
derivative almost everywhere that is blind to where it jumps, so J overcounts. Regions: a piecewise linear
network whose units never switch on the inputs drawn has more fibre than its group; `generic_fibre` takes
the smallest number over several seeds, which is the generic one.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

InputMaker = Callable[[int], tuple[Tensor, ...]]
"""Seed -> one tuple of example inputs (the whole batch); floats in float64, tokens in int64."""

ZERO_COLUMN = 1e-11  # a column this far below the largest is noise: scaling it up would turn noise into rank
LEAST_ROWS = 400  # rows between two looks at the rank: rare regions of piecewise linear networks must be met
NOISE = 1e-9  # null singular values must lie below this, relative to the largest
LEAST_GAP = 1e3  # a smaller spectral gap is not a decision
VALUE_FLOOR = 1e-15  # rounding of one orthogonal factorisation in float64, relative


class Undetermined(ValueError):
    """The singular values show no gap, or the rank keeps growing with the inputs."""


@dataclass(frozen=True)
class Fibre:
    """Result of the oracle: `dimension` = `parameters` - `rank`, with the evidence."""

    dimension: int
    parameters: int
    rank: int
    gap: float  # smallest kept singular value over largest dropped one
    smallest: float  # smallest kept singular value, relative to the largest
    rows: int
    seed: int


def distinct_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by first name, ties counted once, detached float64 copies."""
    return {k: p.detach().double().clone() for k, p in model.named_parameters()}


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """A float64 copy of `model` at generic parameters; `model` itself is left alone.

    Constant parameters (gains at 1, layer scales, slopes) become distinct values around their constant, zero ones
    (biases, LoRA's B) become normal of size 0.4, all others normal at their own scale times 1.7, which for
    torch's default of a Linear means variance 1 / fan_in. Running statistics are drawn too (variances positive).
    Other buffers are constants of the architecture (masks, frequencies, adjacency) and stay.
    """
    out = copy.deepcopy(model).double()
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in out.parameters():
            noise = torch.randn(p.shape, generator=gen, dtype=torch.float64)
            low, high, rms = float(p.min()), float(p.max()), float(p.square().mean().sqrt())
            if low == high == 0.0:
                p.copy_(0.4 * noise)
            elif low == high:
                p.copy_(low * (1 + 0.25 * noise.clamp(-2.5, 2.5)))
            else:
                p.copy_(noise * max(1.7 * rms, 0.2))
        for name, b in out.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.5 * torch.randn(b.shape, generator=gen, dtype=torch.float64))
            elif name.endswith("running_var"):
                b.copy_(0.5 + 1.5 * torch.rand(b.shape, generator=gen, dtype=torch.float64))
    return out


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Attention by its formula: the fused CPU kernels have no rule under vmap."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _as_double(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.double() if a.is_floating_point() else a for a in args)


def flat_output(out: object) -> Tensor:
    """All floating outputs of a model, in one vector."""
    leaves = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.cat([t.reshape(-1) for t in leaves])


def _jacobian_rows(model: nn.Module, params: dict[str, Tensor], draws: list[tuple[Tensor, ...]]) -> Tensor:
    """Jacobian [outputs of all draws, D]; vmapped over draws, one by one where an operator has no rule for it."""

    buffers = dict(model.named_buffers())

    def outputs(p: dict[str, Tensor], *args: Tensor) -> Tensor:
        state = {k: b.clone() for k, b in buffers.items()}  # train mode writes running statistics
        return flat_output(functional_call(model, {**p, **state}, args))

    jac = jacrev(outputs)

    def plain(args: tuple[Tensor, ...], mixed: Tensor | None = None) -> Tensor:
        """Backward passes, one for each output; or one, for a combination of them."""
        leaves = {k: p.clone().requires_grad_() for k, p in params.items()}
        out = outputs(leaves, *args)
        rows = torch.eye(len(out), dtype=out.dtype) if mixed is None else mixed[None]
        found = [torch.autograd.grad(out, list(leaves.values()), r, retain_graph=True, allow_unused=True) for r in rows]
        return torch.stack([torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1)
                                       for g, p in zip(row, leaves.values(), strict=True)]) for row in found])

    def alone(args: tuple[Tensor, ...]) -> Tensor:
        rows = torch.cat([j.reshape(j.shape[0], -1) for j in jac(params, *args).values()], 1)
        mixed = torch.linspace(-1.0, 1.0, len(rows), dtype=rows.dtype).sin()
        # cdist's derivative is wrong, and silent, where that of many outputs is taken in one go
        right = torch.allclose(mixed @ rows, plain(args, mixed)[0], rtol=1e-6, atol=1e-9 * max(1.0, float(rows.norm())))
        return rows if right or not bool(rows.isfinite().all()) else plain(args)

    stacked = [torch.stack(t) for t in zip(*draws, strict=True)]
    with plain_kernels():
        try:
            parts = vmap(jac, in_dims=(None,) + (0,) * len(stacked), chunk_size=16)(params, *stacked)
        except RuntimeError:
            return torch.cat([alone(args) for args in draws])
        sides = [p.flatten(2) if p.dim() > 2 else p[..., None] for p in parts.values()]
        rows = torch.cat(sides, 2)
        # prelu's derivative under vmap is wrong, and silent, where as many draws go together as there are outputs
        if torch.allclose(rows[0], alone(draws[0]), rtol=1e-6, atol=1e-9, equal_nan=True):
            return rows.flatten(0, 1)
        return torch.cat([alone(args) for args in draws])


def _normal_rows(rows: Tensor) -> Tensor:
    """Rows at unit length, save those too small to be more than noise; rows that are not finite are dropped."""
    rows = rows[torch.isfinite(rows).all(1)]
    size = rows.norm(dim=1, keepdim=True)
    return rows / size.clamp_min(1e-6 * float(size.max()) + 1e-300) if len(rows) else rows


def _singular_values(r: Tensor) -> Tensor:
    """Singular values of the accumulated factor, columns brought to unit length unless they are zero."""
    size = r.norm(dim=0)
    size = torch.where(size > ZERO_COLUMN * size.max(), size, torch.ones_like(size))
    return torch.linalg.svdvals(r / size)


def split_spectrum(values: Tensor) -> tuple[int, float, float]:
    """(rank, gap, smallest kept value relative to the largest) at the largest ratio above the noise line.

    Raises Undetermined where that ratio is below LEAST_GAP.
    """
    if not len(values) or float(values[0]) == 0.0:
        return 0, math.inf, 0.0
    s = (values / values[0]).clamp_min(VALUE_FLOOR)
    s = torch.cat([s, s.new_tensor([VALUE_FLOOR])])
    ratios = torch.where(s[1:] < NOISE, s[:-1] / s[1:], torch.zeros_like(s[1:]))
    k = int(ratios.argmax())
    if float(ratios[k]) < LEAST_GAP:
        raise Undetermined(f"no spectral gap: best ratio {float(ratios[k]):.1e} at {k + 1}, tail {s[-8:].tolist()}")
    return k + 1, float(ratios[k]), float(s[k])


def jacobian_factor(model: nn.Module, maker: InputMaker, most: int = 24) -> tuple[Tensor, int]:
    """(R, rows): the triangular factor of the stacked Jacobian, rows added until its rank stays twice the same."""
    model = model.double()
    params = distinct_parameters(model)
    size = sum(p.numel() for p in params.values())
    factor, seen, draw, ranks = torch.zeros(0, size, dtype=torch.float64), 0, 0, []
    while seen < most * max(size, LEAST_ROWS):
        goal, block, got = max(size, LEAST_ROWS), [], 0
        while got < goal:
            draws = [_as_double(maker(1000 + draw + i)) for i in range(8)]
            draw += 8
            rows = _normal_rows(_jacobian_rows(model, params, draws))
            block.append(rows)
            got += max(len(rows), 1)
        factor = torch.linalg.qr(torch.cat([factor, *block]), mode="r").R
        seen += got
        try:
            ranks.append(split_spectrum(_singular_values(factor))[0])
        except Undetermined:
            ranks.append(-1)
        if len(ranks) > 2 and ranks[-1] == ranks[-2] == ranks[-3] != -1:
            break
    return factor, seen


def fibre(model: nn.Module, maker: InputMaker, seed: int | None = 0) -> Fibre:
    """Fibre dimension of `model` at parameters drawn by `seed` (None: where it stands).

    Raises Undetermined when the spectrum shows no gap or the rank still grows after many inputs.
    """
    point = randomise(model, seed) if seed is not None else copy.deepcopy(model).double()
    factor, rows = jacobian_factor(point, maker)
    rank, gap, smallest = split_spectrum(_singular_values(factor))
    size = factor.shape[1]
    return Fibre(size - rank, size, rank, gap, smallest, rows, -1 if seed is None else seed)


def generic_fibre(model: nn.Module, maker: InputMaker, seeds: Iterable[int] = (0, 1, 2)) -> Fibre:
    """The smallest fibre over `seeds`: rank is lower semicontinuous, so the largest rank is the generic one."""
    found, trouble = [], None
    for seed in seeds:
        try:
            found.append(fibre(model, maker, seed))
        except Undetermined as exc:
            trouble = exc
    if not found:
        raise Undetermined(f"no seed gave a gap; last: {trouble}")
    return min(found, key=lambda f: (f.dimension, -f.gap))


def null_shares(model: nn.Module, maker: InputMaker) -> dict[str, float]:
    """How much of the null space each parameter carries (squared length of its part; the shares sum to the fibre
    dimension). Points at the parameters of a symmetry that nobody thought of."""
    point = copy.deepcopy(model).double()
    factor, _ = jacobian_factor(point, maker)
    rank, _, _ = split_spectrum(_singular_values(factor))
    null = torch.linalg.svd(factor, full_matrices=True).Vh[rank:]
    shares, at = {}, 0
    for name, p in distinct_parameters(point).items():
        shares[name] = float(null[:, at : at + p.numel()].square().sum())
        at += p.numel()
    return shares


def _run(model: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    dtype = next(model.parameters()).dtype
    with torch.no_grad(), plain_kernels():
        moved = tuple(a.to(dtype) if a.is_floating_point() else a for a in args)
        return flat_output(copy.deepcopy(model)(*moved)).double()


def keeps_function(model: nn.Module, state: Mapping[str, Tensor], inputs: Iterable[tuple[Tensor, ...]]) -> float:
    """Largest output change under `state`, relative to the variation of the outputs over `inputs`.

    `state` must load strictly, and hold equal tensors under the names of one tied parameter; ValueError if not.
    """
    names: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(p), name)
        if name in state and first in state and not torch.equal(state[name], state[first]):
            raise ValueError(f"state gives tied parameters {first} and {name} different values")
    other = copy.deepcopy(model)
    other.load_state_dict(dict(state), strict=True)
    inputs = list(inputs)
    before = torch.stack([_run(model, args) for args in inputs])
    after = torch.stack([_run(other, args) for args in inputs])
    spread = float((before - before.mean(0)).square().mean().sqrt())
    return float((after - before).abs().max()) / max(spread, 1e-300)
