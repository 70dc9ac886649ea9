"""Weights that lose their mean before anything reads them (weight standardisation): a constant per filter does nothing.

(W - mean W) does not see W + c 1, one number c for each set of entries of which the mean is taken, whatever comes after.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from symdisc.families.axes import REGROUPS, SAME
from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move
from symdisc.opgraph import Op
from symdisc.symmetry import Symmetry

__all__ = ["standardised_weights"]


def standardised_weights(classes: Classes) -> list[Symmetry]:
    """One additive group for each parameter that a mean over its own entries is taken from at once: a number per mean."""
    return [s for value, name in classes.graph.parameters.items() for s in _constants(classes, value, name)]


def _constants(classes: Classes, value: str, name: str) -> Iterator[Symmetry]:
    graph, users = classes.graph, _users(classes, value)
    while len(users) == 1 and users[0].packet in REGROUPS | SAME and users[0].name not in graph.outputs:
        value, users = users[0].name, _users(classes, users[0].name)
    mean = next((op for op in users if op.packet == "aten.mean" and op.inputs == (value,)), None)
    if mean is None or len(users) != 2 or any(n in graph.outputs for n in (value, mean.name)):
        return
    rest = [op for op in users if op is not mean]
    if rest[0].packet != "aten.sub" or rest[0].inputs != (value, mean.name) or rest[0].kwargs or _users(classes, mean.name) != rest:
        return
    groups = _averaged(mean, graph.shape(value) or ())
    if groups is None:
        return
    n = len(groups)
    move = Move("add", name, -1, Index.of(groups.T[:, None, :]))
    yield describe_affine("constant that standardisation takes off", "translation", n, (n,), (move,), (name,), [name.rpartition(".")[0]],
                          r"f(W + c \mathbf{1}) = f(W)", r"W_o \mapsto W_o + t_o \mathbf{1}")


def _users(classes: Classes, value: str) -> list[Op]:
    return [op for op in classes.graph.users.get(value, ()) if op.name in classes.graph.live]


def _averaged(mean: Op, shape: tuple[int, ...]) -> np.ndarray | None:
    """[means, entries] flat places of the entries of which each mean is taken; it must stand in their place for the subtraction."""
    dims = mean.args[1] if len(mean.args) > 1 else dict(mean.kwargs).get("dim", ())
    gone = sorted({d % len(shape) for d in (dims if isinstance(dims, tuple) else (dims,))}) if shape and dims not in ((), None) else []
    if not gone or mean.shape != tuple(1 if a in gone else s for a, s in enumerate(shape)):
        return None
    places = np.moveaxis(np.arange(int(np.prod(shape))).reshape(shape), gone, range(len(shape) - len(gone), len(shape)))
    return places.reshape(-1, int(np.prod([shape[a] for a in gone])))
