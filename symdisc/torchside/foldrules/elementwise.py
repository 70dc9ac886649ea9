"""Operators without a rule of their own: those that act on each entry, their degree of homogeneity found by probing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.spaces import DATA, PAD
from symdisc.torchside.foldrules.common import is_squared_norm, opaque
from symdisc.torchside.foldrules.packed import shrink

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["elementwise"]


def elementwise(f: Folder, op: Op) -> None:
    """One activation in, same shape out, acting on each entry: its degree of homogeneity is found by probing."""
    acts = [n for n in dict.fromkeys(op.inputs) if f.graph.varies(n)]
    if len(acts) != 1 or not f.graph.is_activation(acts[0]) or op.shape != f.graph.shape(acts[0]):
        return opaque(f, op)
    others = [n for n in op.inputs if n != acts[0]]
    degree = None if others else _degree(op.target, _frozen(op, acts[0]))
    if degree is None and (others or not _is_elementwise(op.target, _frozen(op, acts[0]))):
        return opaque(f, op)
    (labels,), shape = shrink(f.operand(acts[0]))
    ins = torch.unique(labels)
    ins = ins[ins > PAD]
    outs = torch.from_numpy(f.facts.fresh(len(ins)))
    padding = labels if _keeps_zero(op.target, _frozen(op, acts[0])) else torch.full_like(labels, DATA)
    if len(ins):
        index = torch.searchsorted(ins, labels.clamp(min=0)).clamp(max=len(ins) - 1)
        padding = torch.where(labels > PAD, outs[index], padding)
    f.labels[op.name] = padding.expand(shape)
    f.facts.elementwise.append((ins.numpy(), outs.numpy(), op.name))
    if degree == 2.0 and is_squared_norm(f, op):
        f.facts.powers.append((ins.numpy(), outs.numpy(), 2.0))
        return
    f.facts.killed.append((ins.numpy(), op.packet))
    f.facts.killed.append((outs.numpy(), op.packet))
    if degree is None:
        f.facts.fixed.append((ins.numpy(), op.packet))
        f.facts.fixed.append((outs.numpy(), op.packet))
    else:
        f.facts.powers.append((ins.numpy(), outs.numpy(), degree))


def _frozen(op: Op, act: str) -> tuple[Any, ...]:
    """The other arguments, with the activation marked; hashable."""
    args = tuple("@" if isinstance(a, Ref) and a.name == act else a for a in op.args)
    return (args, op.kwargs)


def _function(target: str, frozen: tuple[Any, ...]) -> Callable[[Tensor], Tensor]:
    from symdisc.torchside.interpret import call

    args = tuple(Ref("@") if isinstance(a, str) and a == "@" else a for a in frozen[0])
    op = Op("out", target, args, frozen[1])
    return lambda x: call(op, {"@": x}, torch.float64)


@lru_cache(maxsize=512)
def _degree(target: str, frozen: tuple[Any, ...]) -> float | None:
    """p with f(c x) = c^p f(x) for all c > 0, or None. Probed at finite c on both half-lines."""
    if not _is_elementwise(target, frozen):
        return None
    f = _function(target, frozen)
    x = torch.tensor([-7.3, -2.1, -0.6, -0.05, 0.03, 0.4, 1.7, 5.9], dtype=torch.float64)
    y = f(x)
    y = torch.where(torch.isfinite(y), y, torch.zeros_like(y))
    if not bool((y != 0).any()):
        return None
    degrees = []
    for c in (0.37, 2.9):
        z = f(c * x)
        z = torch.where(torch.isfinite(z), z, torch.zeros_like(z))
        use = y.abs() > 0
        if bool((z[~use] != 0).any()) or bool((z[use] / y[use] <= 0).any()):
            return None
        degrees.append(torch.log(z[use] / y[use]) / np.log(c))
    p = torch.cat(degrees)
    return round(float(p.mean()), 9) if float(p.max() - p.min()) < 1e-9 else None


@lru_cache(maxsize=512)
def _keeps_zero(target: str, frozen: tuple[Any, ...]) -> bool:
    """f(0) = 0, so that padding stays padding."""
    return bool((_function(target, frozen)(torch.zeros(2, 2, 2, dtype=torch.float64)) == 0).all())


@lru_cache(maxsize=512)
def _is_elementwise(target: str, frozen: tuple[Any, ...]) -> bool:
    """Changing one entry of the input changes that entry of the output alone, and equal entries map equally."""
    f = _function(target, frozen)
    x = torch.linspace(0.1, 2.0, 24, dtype=torch.float64).reshape(2, 3, 4)
    try:
        base = f(x)
        moved = x.clone()
        moved[1, 2, 1] += 0.3
        changed = (f(moved) - base).abs() > 1e-12
        flipped = f(x.flip(0, 1, 2)).flip(0, 1, 2)
    except Exception:  # the operator refuses this shape, so it is not elementwise
        return False
    if not isinstance(base, Tensor) or base.shape != x.shape or not base.is_floating_point():
        return False
    changed[1, 2, 1] = False
    return not bool(changed.any()) and bool(((flipped - base).abs() < 1e-12).all())
