"""Moving the networks of the studies along their orbits: from arrays U, V to a catalog and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from symdisc.catalog import Catalog
from symdisc.session import discover

__all__ = ["Orbit"]

LAYERS = {"linear": nn.Identity, "relu": nn.ReLU}


@lru_cache(maxsize=16)
def _catalog(name: str, m: int, n: int, k: int) -> Catalog:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(n, k, bias=False), LAYERS[name](), nn.Linear(k, m, bias=False)).double()
        return discover(model, (torch.randn(max(2, n), n, dtype=torch.float64),))


class Orbit:
    """All U [m, k], V [n, k] with the function of one pair, by the catalog's ``move_to``; linear and ReLU networks.

    Charges are in the paper's sign, Q = 1/2 (U^T U - V^T V) (a matrix, or per unit), which is minus the catalog's.
    """

    def __init__(self, name: str, u: np.ndarray, v: np.ndarray) -> None:
        self.catalog = _catalog(name, u.shape[0], v.shape[0], u.shape[1])
        self.which = next(i for i, s in enumerate(self.catalog.symmetries) if s.family in ("gl", "scale"))
        self.state = {"0.weight": torch.tensor(np.ascontiguousarray(v.T)), "2.weight": torch.tensor(np.ascontiguousarray(u))}

    def at(self, charge: float | Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The U, V on the orbit with the given charge: a number for a multiple of one (all units), an array otherwise."""
        new: dict[str, Any] = self.catalog.move_to(self.state, Q={self.which: -np.asarray(charge, dtype=np.float64)})
        return new["2.weight"].numpy(), new["0.weight"].numpy().T.copy()
