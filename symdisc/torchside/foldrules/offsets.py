"""Constants added behind a stored bias: of b and a number k added later only b + k is seen, and it scales about -k.

Adaptive norms write x (1 + scale) + shift with a scale that a layer makes: its rows scale, and its bias does so about -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from symdisc.families.axes import ROUTES
from symdisc.opgraph import Op
from symdisc.spaces import DenseUse, GainUse, ShiftUse

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["Added", "settle"]

WHY = "constant added"


@dataclass(frozen=True)
class Added:
    """The number ``constant`` is added to the units of ``value`` by the operator ``op``."""

    op: Op
    value: str
    constant: float


def settle(f: Folder, added: list[Added]) -> None:
    """Hand each constant to the bias behind it, where there is one; else its units stay as they are."""
    for one in added:
        labels = f.labels[one.value]
        units = f.units(labels)
        bias = _bias_behind(f, one, units)
        if bias is None:
            f.freeze(labels, WHY)
            continue
        f.kill(labels, WHY)
        shape = f.graph.shapes[f.value_of(bias.parameter)]
        offsets = f.facts.offsets.setdefault(bias.parameter, np.zeros(int(np.prod(shape))))
        offsets[bias.elements[np.isin(bias.units, units)]] = one.constant


def _bias_behind(f: Folder, one: Added, units: np.ndarray) -> ShiftUse | None:
    """The bias of a layer whose outputs ``units`` reach ``one.op`` by layout alone, and nothing else."""
    name, reader = one.value, one.op
    while True:
        if any(u.name != reader.name and u.name in f.graph.live and not _elsewhere(f, u, units) for u in f.graph.users.get(name, ())):
            return None
        if name in f.graph.outputs:
            return None
        found = [s for s in f.facts.shifts if s.op == name]
        if found:
            return found[0] if len(found) == 1 and _whole(f, found[0], units) else None
        op = f.graph.by_name.get(name)
        if op is None or op.packet not in ROUTES or len(set(op.inputs)) != 1:
            return None
        name, reader = op.inputs[0], op


def _elsewhere(f: Folder, op: Op, units: np.ndarray) -> bool:
    """The operator takes other units out of its operand."""
    labels = f.labels.get(op.name)
    return op.packet in ROUTES and isinstance(labels, Tensor) and not np.isin(units, f.units(labels)).any()


def _whole(f: Folder, bias: ShiftUse, units: np.ndarray) -> bool:
    """A parameter that is used here alone has one entry for each of the ``units``."""
    uses: list[DenseUse | GainUse | ShiftUse] = [*f.facts.shifts, *f.facts.gains, *f.facts.dense]
    uses = [u for u in uses if u.parameter == bias.parameter]
    mine = bias.units[np.isin(bias.units, units)]
    return len(uses) == 1 and not (bias.buffer or bias.table) and len(mine) == len(units)
