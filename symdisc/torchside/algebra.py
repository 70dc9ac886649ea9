"""The complete linear system on a captured network: tangent space of its symmetries at given weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from symdisc.archgraph import ArchGraph, Node
from symdisc.errors import Undecided
from symdisc.exact import NullSpace, null_space
from symdisc.solve import Accumulator, affine_motions, fibre_basis, normal_rows
from symdisc.torchside.blocks import node_blocks
from symdisc.torchside.capture import Capture
from symdisc.torchside.network import Network, jacobian_rows

__all__ = ["Algebra", "fibre"]

AT_ONCE = 8  # draws between two looks at the rank
MOST_ROWS = 24  # times D: rows after which a rank that still grows is given up
LEAST_ROWS = 400  # between two looks: rare regions of piecewise linear networks must be met
ROUNDING = 1e-9
PATTERNS = 8  # draws whose dependence of outputs on inputs is joined: sorting and maxima show one order each
SAMPLES = (24, 96)  # least and most draws at which the motion of features is followed


def fibre(network: Network, first: int = 0, function: object | None = None) -> tuple[NullSpace, int]:
    """Directions that leave the outputs alone, and the number of draws that it took until the rank stayed.

    ``function`` replaces the captured graph by another function of the same parameters (the model itself). Raises Undecided
    when the singular values show no gap or the rank keeps growing.
    """
    run = network.function(network.graph.outputs) if function is None else function
    total = Accumulator(network.size)
    ranks: list[int] = []
    at, seen, found, trouble = first, 0, None, ""
    while seen < MOST_ROWS * max(network.size, LEAST_ROWS):
        got = 0
        while got < max(network.size, LEAST_ROWS):
            rows = normal_rows(jacobian_rows(run, network.parameters, network.draws(at, AT_ONCE)))  # type: ignore[arg-type]
            at, got = at + AT_ONCE, got + max(len(rows), 1)
            total.add(rows)
        seen += got
        try:
            found = fibre_basis(total.factor)
            ranks.append(found.rank)
        except Undecided as error:
            ranks.append(-1)
            trouble = str(error)
        if len(ranks) > 1 and ranks[-1] == ranks[-2] != -1:
            assert found is not None
            return found, at - first
    raise Undecided(trouble or "the rank of the Jacobian keeps growing with the inputs: give larger example inputs")


@dataclass
class Algebra:
    """Symmetry tangents of a captured network as a function of its weights."""

    capture: Capture
    arch: ArchGraph
    network: Network

    @classmethod
    def of(cls, capture: Capture, arch: ArchGraph, state: Mapping[str, Tensor], seed: int = 0) -> Algebra:
        return cls(capture, arch, Network(capture, state, seed))

    @cached_property
    def outputs(self) -> tuple[NullSpace, int]:
        """Null space of the outputs' Jacobian at the weights, and the number of draws."""
        return fibre(self.network)

    @cached_property
    def blocks(self) -> dict[str, list[np.ndarray]]:
        return node_blocks(self.network, self.arch, self.network.draws(0, PATTERNS))

    @cached_property
    def samples(self) -> int:
        sizes = [len(b) for blocks in self.blocks.values() for b in blocks]
        return int(np.clip(3 * (max(sizes, default=1) + 2), *SAMPLES))

    @cached_property
    def tangents(self) -> np.ndarray:
        """Tangents of all symmetries that act affinely on the features of every node, [D, dimension], orthonormal."""
        directions = self.outputs[0].basis
        return directions @ self._affine(directions) if directions.shape[1] else directions

    @cached_property
    def _inner(self) -> list[Node]:
        """Nodes whose features are not themselves outputs of the network."""
        return [n for n in self.arch.nodes if n.outputs and not set(n.outputs) & set(self.network.graph.outputs)]

    def motions_at(self, parameters: dict[str, Tensor], directions: np.ndarray, factor: Accumulator) -> None:
        """Add to ``factor`` the demand that combinations of ``directions`` [D, k] move the features of all nodes affinely."""
        network, nodes = self.network, self._inner
        if not nodes:
            return
        wanted = [v for n in nodes for v in n.outputs]
        values, moves = network.motion(wanted, parameters, directions, network.draws(1000, self.samples))
        at = 0
        for node in nodes:
            size = sum(int(np.prod(network.graph.shape(v) or ())) for v in node.outputs)
            alone = [np.array([i]) for i in range(size)]
            affine_motions(values[:, at:at + size], moves[:, at:at + size], self.blocks.get(node.name, alone), factor)
            at += size

    def _affine(self, directions: np.ndarray) -> np.ndarray:
        """Combinations [k, dimension] of ``directions`` [D, k] whose motion of every node's features is affine in them."""
        factor = Accumulator(directions.shape[1])
        self.motions_at(self.network.parameters, directions, factor)
        # the motions are derivatives along unit directions at features of order one: smaller ones are rounding
        if not len(factor.factor) or float(np.abs(factor.factor).max()) < ROUNDING:
            return np.eye(directions.shape[1])
        return null_space(factor.factor, rtol=1e-8, min_gap=1e2, what="motions of the features").basis
