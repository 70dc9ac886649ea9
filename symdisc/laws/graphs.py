"""Catalogs and torch modules as problems of counting, with the conserved quantities of the catalog as the known laws.

Activations that are linear on each side of 0 carry random choices, one per unit and sample: the count is that of losses that
see every activation pattern.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from symdisc.errors import BadInput
from symdisc.laws.inputs import infer_inputs
from symdisc.laws.problem import CountProblem

__all__ = ["ChargeLaw", "catalog_of_model", "looks_like_catalog", "looks_like_model", "problem_of_catalog"]


@dataclass(frozen=True)
class ChargeLaw:
    """A conserved quantity of a catalog (form "moment", constants of the generator integers) as rows of gradients.

    ``quantity`` is a ConservedQuantity; <x, X_a(theta)> for unit vectors x gives its gradient, exactly on residues.
    """

    quantity: Any

    @staticmethod
    def fits(quantity: Any) -> bool:
        """Generators that read other values or carry fractions are left out: fewer laws are found, never false ones."""
        whole = all(float(t.move.power).is_integer() and t.weight == 1 for t in quantity.terms)
        reads = any(t.move.gain or t.move.through or t.move.extra for t in quantity.terms)
        kinds = {t.move.kind for t in quantity.terms} <= {"matmul", "scale", "add", "outer"}
        return quantity.form == "moment" and quantity.symmetry.family != "complex" and whole and kinds and not reads

    def text(self) -> str:
        return str(self.quantity.latex())

    def rows(self, theta: Mapping[str, np.ndarray], prime: int, speed: object = None, friction: int = 0) -> np.ndarray:
        """[laws, D], one row per independent entry of Q, the columns in the order of ``theta``."""
        if speed is not None:
            raise BadInput("laws of momentum are known for shapes, not for catalogs")
        columns: list[np.ndarray | None] = []
        for name, value in theta.items():
            if name not in self.quantity.parameters:
                columns += [None] * value.size
                continue
            for k in range(value.size):
                unit = np.zeros(value.size, np.int64)
                unit[k] = 1
                columns.append(self._independent(self.quantity.residual(theta, {name: unit.reshape(value.shape)})))
        size = next(c for c in columns if c is not None)
        return np.stack([np.zeros_like(size) if c is None else c for c in columns], axis=1) % prime

    def _independent(self, mu: np.ndarray) -> np.ndarray:
        """Entries over the part of the algebra, without the halves that residues have no use for."""
        mu = np.asarray(mu)
        if self.quantity.part == "entries":
            return mu.reshape(-1)
        if self.quantity.part == "symmetric":
            upper = np.triu_indices(mu.shape[-1])
            return (mu + mu.swapaxes(-1, -2))[:, upper[0], upper[1]].reshape(-1)
        diagonal = mu[:, np.arange(mu.shape[-1]), np.arange(mu.shape[-1])]
        return diagonal.sum(-1) if self.quantity.part == "scalar" else diagonal.reshape(-1)


def problem_of_catalog(cat: Any) -> CountProblem:
    """The map of a catalog's graph with the laws that the catalog knows.

    Raises BadInput for a catalog without graph, Undecided for an operator without an exact form on residues, by name.
    """
    from symdisc.torchside.residues import problem_of

    if cat.captured is None:
        raise BadInput("the catalog has no graph (it was read from a file): make it again with discover")
    return problem_of(cat, tuple(ChargeLaw(q) for q in cat.charges if ChargeLaw.fits(q) and not q.zero_sum))


def catalog_of_model(model: Any) -> tuple[Any, str]:
    """The catalog of a torch module at inferred inputs, and how they were found. Raises BadInput where they are not determined."""
    from symdisc.session import discover

    inputs, how = infer_inputs(model)
    return discover(model, inputs), how


def looks_like_catalog(source: object) -> bool:
    """Has a graph and conserved quantities."""
    return hasattr(source, "graph") and hasattr(source, "symmetries")


def looks_like_model(source: object) -> bool:
    """Has parameters as torch modules have."""
    return (
        callable(source)
        and math.prod(hasattr(source, n) for n in ("named_parameters", "parameters", "state_dict")) == 1
    )
