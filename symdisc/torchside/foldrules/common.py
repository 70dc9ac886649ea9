"""What the rules of folding share: reading arguments, giving up on an operator, tying scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.spaces import PAD, Norm
from symdisc.torchside.foldrules.packed import distinct_pairs, shrink

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["argument", "equal_scales", "inside_norm", "is_squared_norm", "is_zero", "opaque", "ref_name"]


def ref_name(arg: Any) -> str | None:
    return arg.name if isinstance(arg, Ref) else None


def argument(op: Op, position: int, key: str, default: Any = None) -> Any:
    if len(op.args) > position:
        return op.args[position]
    return dict(op.kwargs).get(key, default)


def opaque(f: Folder, op: Op, why: str = "no rule") -> None:
    """Freeze everything that the operator touches and report it."""
    for name in op.inputs:
        if name in f.labels and isinstance(f.labels[name], Tensor):
            f.freeze(f.labels[name], op.packet)
            f.facts.rigid.append(f.units(f.labels[name]))
    f.facts.opaque.append((op.packet, why))
    if op.shape is not None:
        units = torch.from_numpy(f.facts.fresh(1))[0].expand(op.shape)
        f.labels[op.name] = units
        f.freeze(units, op.packet)
        f.facts.rigid.append(f.units(units))
    else:
        f.labels[op.name] = _Opaque(f, op)  # type: ignore[assignment]


class _Opaque:
    """Tuple-valued result of an unknown operator: each element is frozen when it is taken out."""

    def __init__(self, f: Folder, op: Op) -> None:
        self.f, self.op = f, op

    def __getitem__(self, i: int) -> Tensor:
        shape = next(u.shape for u in self.f.graph.users[self.op.name] if u.args[1] == i)
        units = torch.from_numpy(self.f.facts.fresh(1))[0].expand(shape or ())
        self.f.freeze(units, self.op.packet)
        return units


def is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool((value == 0).all())
    return value == 0 if isinstance(value, (int, float)) else False


def equal_scales(f: Folder, flat: Tensor) -> None:
    (first, flat), _ = shrink(flat[:1], flat)
    pairs, _ = distinct_pairs(first, flat)
    pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs.min(0).values > PAD)]
    if pairs.shape[1]:
        f.facts.powers.append((pairs[0].numpy(), pairs[1].numpy(), 1.0))


def inside_norm(f: Folder, op: Op) -> bool:
    """The mean of squares inside a norm, or the mean that is subtracted from its own vector, was dealt with there."""
    made = f.graph.by_name.get(op.inputs[0])
    return made is not None and any(n.op == made.name for n in f.facts.norms)


def is_squared_norm(f: Folder, op: Op) -> bool:
    """Every user sums the squares over the last axis, over all units of a vector: a norm, covariant under O(n)."""
    users = f.graph.users.get(op.name, ())
    labels = f.operand(op.inputs[0])
    if not users or not f.varying_axes(labels) or f.varying_axes(labels)[-1] != labels.dim() - 1:
        return False
    for user in users:
        dims = argument(user, 1, "dim", ())
        dims = dims if isinstance(dims, tuple) else (dims,)
        if user.packet not in ("aten.mean", "aten.sum") or [d % labels.dim() for d in dims] != [labels.dim() - 1]:
            return False
    for vec in f.vectors(labels).numpy():
        f.facts.norms.append(Norm(vec, vec, False, 0.0, op.name))
    return True
