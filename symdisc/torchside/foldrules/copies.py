"""Which places of a value hold equal numbers by construction: key heads repeated for several query heads, and what is made of them.

Every place of an earlier value gets a random 64-bit number, and the operators between are run on those, modulo 2^64: layout as it is,
products and contractions on integers, anything entrywise as a hash. Equal results are equal numbers (with probability 1 - 2^-64 a pair).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.torchside.interpret import call

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["places"]

DEEP = 12  # operators that are followed back: copies are made shortly before they are used
LINEAR = frozenset(f"aten.{n}" for n in ("matmul", "bmm", "mm", "einsum", "sum", "cumsum"))  # in each operand
OF_TWO = frozenset(f"aten.{n}" for n in ("mul", "add", "sub", "div"))
ALTERS = frozenset(f"aten.{n}" for n in ("tril", "triu", "copy"))  # not every place holds an earlier number
SAME = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "type_as", "contiguous", "positive", "dropout"))


def places(f: Folder, name: str, deep: int = DEEP) -> Tensor:
    """A number for each place of a value, equal where the value is."""
    op = f.graph.by_name.get(name)
    found = None if op is None or not deep else _made(f, op, deep - 1)
    shape = f.graph.shape(name) or ()
    return _mixed(torch.arange(int(np.prod(shape))).reshape(shape), crc32(name.encode())) if found is None else found


def _made(f: Folder, op: Op, deep: int) -> Tensor | None:
    """The numbers as the operator makes them of those before it; None where it is not followed."""
    if op.target == "getitem":
        split = f.graph.by_name[op.inputs[0]]
        parts = _moved(f, split, deep) if f.lays_out(split) else None
        return None if parts is None else parts[op.args[1]]
    if op.packet in SAME:
        return places(f, op.inputs[0], deep)
    if f.lays_out(op):
        return _moved(f, op, deep)
    if op.packet in OF_TWO and not op.kwargs:
        a, b = (places(f, x.name, deep) if isinstance(x, Ref) else _number(x) for x in op.args[:2])
        return _mixed(3 * a + b, crc32(op.packet.encode()))
    if op.packet in LINEAR:
        return call(op, {n: places(f, n, deep) for n in op.inputs})  # type: ignore[no-any-return]
    if op.packet == "aten.masked_fill" and f.values.get(op.inputs[1]) is not None and not isinstance(op.args[2], Ref):
        return torch.where(f.values[op.inputs[1]], _number(op.args[2]), places(f, op.inputs[0], deep))
    if any(name == op.name for _, _, name in f.facts.elementwise):
        return _mixed(places(f, op.inputs[0], deep), crc32(op.target.encode()))
    return None


def _moved(f: Folder, op: Op, deep: int) -> Any:
    env = {n: f.values.get(n) for n in op.inputs[1:]}
    if op.packet in ALTERS or any(v is None for v in env.values()):
        return None
    return call(op, {**env, op.inputs[0]: places(f, op.inputs[0], deep)})


def _number(constant: Any) -> Tensor:
    return torch.tensor(crc32(repr(float(constant)).encode()) if constant else 0)


def _mixed(keys: Tensor, salt: int) -> Tensor:
    """SplitMix64, as far as signed integers allow."""
    keys = (keys + salt) * -7046029254386353131
    keys = (keys ^ (keys >> 30)) * -4658895280553007687
    keys = (keys ^ (keys >> 27)) * -7723592293110705685
    return keys ^ (keys >> 31)
