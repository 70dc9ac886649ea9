"""The law of a first pair at whitened input: what gradient flow keeps where every input is one-hot, one number per hidden unit.

It is no symmetry of the function, so it stands beside the data-dependent actions and not among ``Catalog.conserved``: at X = 1 (or a
square orthogonal X, with V X in place of V) the entries of V are seen apart from each other, see ``conserved.elementwise``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from symdisc.conserved import ElementwiseLaw, elementwise_law
from symdisc.errors import BadInput
from symdisc.torchside.datadep.lipschitz import sigma_formula
from symdisc.torchside.datadep.segments import Pair

if TYPE_CHECKING:
    from symdisc.torchside.capture import Capture

__all__ = ["WhitenedLaw", "whitened_law"]


@dataclass(frozen=True)
class WhitenedLaw:
    """Q_u = 1/2 |U[:, u]|^2 - sum_a int^V[u, a] sigma/sigma' for the pair U sigma(V x) of a network, at inputs X = 1 and for any loss."""

    pair: Pair
    law: ElementwiseLaw

    def latex(self) -> str:
        """Formula, antiderivative by pieces, and poles (amsmath)."""
        return self.law.latex()

    def evaluate(self, params: Mapping[str, Tensor]) -> Tensor:
        """Q [h] from parameters by state_dict name, differentiable. Raises BadInput where an entry of V has no law."""
        outer = torch.cat([r.matrix(params[r.weight]) for r in self.pair.readers])
        return self.law.evaluate(outer, self.pair.writer.matrix(params[self.pair.writer.weight]).T)


def whitened_law(captured: Capture, pair: Pair) -> WhitenedLaw:
    """The law of a pair whose V reads the inputs. Raises BadInput with the reason where there is none."""
    graph, writer = captured.graph, pair.writer
    if writer.reads not in graph.inputs or "conv" in (writer.layout, pair.readers[0].layout):
        raise BadInput(f"{pair.name}: {writer.weight} is no dense map of the inputs, so no choice of inputs makes its columns one-hot")
    if writer.bias is not None:
        raise BadInput(f"{pair.name}: the bias {writer.bias} enters at every input, so that the entries of {writer.weight} are not seen "
                       "apart, and the form is not closed; there is a law without bias")
    sigma = sigma_formula(graph, pair) if graph.shape(pair.z) == graph.shape(pair.a) else None
    if sigma is None:
        raise BadInput(f"{pair.name}: sigma ({pair.sigma}) is not one function of each entry by the formulas of the rules")
    return WhitenedLaw(pair, elementwise_law(sigma))
