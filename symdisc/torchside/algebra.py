"""The complete linear system on a captured network: tangent space of its symmetries at given weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from symdisc.archgraph import MULTILINEAR, ArchGraph, Node, is_linear
from symdisc.equivariance.jumps import may_jump
from symdisc.errors import Undecided
from symdisc.exact import NullSpace, null_space
from symdisc.families.proof import operator_formula
from symdisc.opgraph import Op, OpGraph
from symdisc.solve import ZERO_COLUMN, Accumulator, affine_motions, fibre_basis, normal_rows
from symdisc.torchside.blocks import node_blocks
from symdisc.torchside.calibrate import calibrate
from symdisc.torchside.capture import Capture
from symdisc.torchside.check import random_state
from symdisc.torchside.decisions import Decider
from symdisc.torchside.network import Function, Network, jacobian_rows, plain_kernels

__all__ = ["Algebra", "fibre", "some_rows"]

AT_ONCE, MOST_AT_ONCE = 8, 64  # draws that are differentiated together: few where little is wanted
MANY = 4  # times as many outputs as rows are wanted of one draw: then sums of outputs stand for them
MOST_LOOKS = 12  # blocks of rows after which a rank that still grows is given up
LEAST_ROWS = 400  # rows of a block: rare regions of piecewise linear networks must be met
PATIENT = 600  # parameters up to which three equal ranks are asked for; beyond, two and a look at new rows
GROWTH = 1.05  # of the rank by one block of rows: then it is not yet looked at closely
VISIBLE = 1e-9  # of the largest row: the null space is good to 1e-12, a new direction shows at 1e-6 or more
ROUNDING = 1e-9
CALIBRATED = 2  # draws of weights at which every unit switches
# further ones where draws disagree: a layer that is read twice is fitted to its first reader only, and no draw need show all it can do
FURTHER = 10
LOUD = (4.0, 16.0)  # times the usual size of weights: a norm holds values so small that a distant kink (6, of ReLU6) is never met
PATTERNS = 8  # draws whose dependence of outputs on inputs is joined: sorting and maxima show one order each
BLIND = 64  # draws without a single finite row of the Jacobian after which no more are made
SAMPLES = (24, 96)  # least and most draws at which the motion of features is followed


def fibre(network: Network, first: int = 0, function: Function | None = None) -> tuple[NullSpace, int]:
    """Directions that leave the outputs alone, and the number of draws that it took to find them.

    ``function`` replaces the captured graph by another function of the same parameters (the model itself). A rank is accepted
    when two further blocks of draws leave it as it is; for many parameters, when the Jacobian at new draws vanishes on the null
    space. Raises Undecided when the singular values show no gap or new draws keep adding to the rank.
    """
    run = network.function(network.graph.outputs) if function is None else function
    stack = Accumulator(network.size)
    at, trouble = first, ""
    block = max(int(1.2 * network.size) + 20, LEAST_ROWS)
    run = _summed(network, run, first, -(-block // AT_ONCE))
    ranks: list[int] = []
    rough = 0
    for _ in range(MOST_LOOKS):
        fresh, at = _rows(network, run, at, block)
        stack.add(fresh)
        before, rough = rough, _rough_rank(stack.factor) if network.size > PATIENT else 0
        if rough > GROWTH * before if before else 0 < 2 * rough < network.size:
            ranks.append(-1)  # a null space of this many directions would cost more than further rows
            continue
        try:
            found = fibre_basis(stack.factor)
        except Undecided as error:
            ranks.append(-1)
            trouble = str(error)
            continue
        ranks.append(found.rank)
        if ranks[-3:] == [found.rank] * 3:
            return found, at - first
        if network.size > PATIENT and len(ranks) > 1 and ranks[-2] == found.rank:
            fresh, at = _rows(network, run, at, block)
            if not _seen(fresh, stack.factor, found.basis):
                return found, at - first
            stack.add(fresh)
    raise Undecided(trouble or "the rank of the Jacobian keeps growing with the inputs: give larger example inputs")


def _fibre_dimension(network: Network) -> int | None:
    """D - rank J; None where the weights decide nothing."""
    try:
        return fibre(network)[0].dimension
    except Undecided:
        return None


def _summed(network: Network, run: Function, first: int, rows: int) -> Function:
    """Where a draw has many times more outputs than ``rows`` (a map of scores for every pixel): ``rows`` random sums of them, each
    output in one, whose Jacobian vanishes on the same directions."""
    with torch.no_grad(), plain_kernels():
        outputs = run(network.parameters, *network.draws(first, 1)[0])
    if outputs.numel() <= MANY * rows or not bool(outputs.isfinite().all()):
        return run
    generator = torch.Generator().manual_seed(first)
    place = torch.randperm(outputs.numel(), generator=generator) % rows
    weight = torch.randn(outputs.numel(), generator=generator, dtype=torch.float64)
    return lambda parameters, *x: torch.zeros(rows, dtype=torch.float64).index_add(0, place, weight * run(parameters, *x))


def _rough_rank(factor: np.ndarray) -> int:
    """The rank up to rounding of a Gram matrix, at unit columns: enough to see that it grows, and cheap."""
    size = np.linalg.norm(factor, axis=0)
    unit = factor / np.where(size > ZERO_COLUMN * size.max(initial=0.0), size, 1.0)
    values = np.linalg.eigvalsh(unit.T @ unit)
    return int((values > ROUNDING * values.max(initial=0.0)).sum())


def _rows(network: Network, run: Function, at: int, wanted: int) -> tuple[np.ndarray, int]:
    """At least ``wanted`` rows of the Jacobian from draw number ``at`` on, at unit length, and the number of the next draw."""
    parts, got, tried, count = [], 0, 0, AT_ONCE
    while got < wanted:
        draws = network.draws(at, count)
        rows = normal_rows(jacobian_rows(run, network.parameters, draws))
        parts += [rows, *map(normal_rows, network.decisions(network.parameters, draws))]
        at, got, tried = at + count, got + max(len(rows), 1), tried + count
        if tried >= BLIND and not any(len(p) for p in parts):
            raise Undecided(f"the outputs have no finite derivative at any of {tried} inputs; give the model results that have one")
        looks = min(-(-(wanted - got) * count // max(len(rows), 1) // AT_ONCE), network.together // AT_ONCE, MOST_AT_ONCE // AT_ONCE)
        count = AT_ONCE * max(looks, 1)
    return np.concatenate(parts), at


def some_rows(network: Network, first: int) -> np.ndarray:
    """Rows [., D] of the Jacobian of the captured graph at a few draws from number ``first`` on, at unit length."""
    run = _summed(network, network.function(network.graph.outputs), first, LEAST_ROWS // AT_ONCE)
    return _rows(network, run, first, LEAST_ROWS)[0]


def _seen(fresh: np.ndarray, factor: np.ndarray, basis: np.ndarray) -> bool:
    """Some new row of the Jacobian sees a direction of ``basis`` [D, k] that the earlier rows, of triangular ``factor``, did
    not; columns scaled as there."""
    if not basis.shape[1] or not len(fresh):
        return False
    size = np.linalg.norm(factor, axis=0)
    scale = np.where(size > ZERO_COLUMN * size.max(), size, 1.0)
    directions = np.linalg.qr(basis * scale[:, None])[0]
    new = fresh / scale
    return bool(np.linalg.norm(new @ directions, axis=1).max() > VISIBLE * np.linalg.norm(new, axis=1).max())


def _continuous(graph: OpGraph, op: Op) -> bool:
    """Affine in each activation that it reads, or elementwise by a formula without switches of value and poles."""
    if op.packet in MULTILINEAR or is_linear(graph, op):
        return True
    formula = operator_formula(op)
    return formula is not None and not may_jump(formula)


@dataclass
class Algebra:
    """Symmetry tangents of a captured network as a function of its weights."""

    capture: Capture
    arch: ArchGraph
    network: Network

    @classmethod
    def of(cls, capture: Capture, arch: ArchGraph, state: Mapping[str, Tensor], seed: int = 0) -> Algebra:
        return cls(capture, arch, Network(capture, state, seed))

    def beside(self, deciders: tuple[Decider, ...]) -> Algebra:
        """The same network where ``deciders`` are kept, and no others."""
        network = self.network
        return Algebra.of(replace(self.capture, deciders=deciders), self.arch, {**network.parameters, **network.buffers}, network.seed)

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

    def generic_fibre(self, known: int, seeds: tuple[int, ...] = (11, 12)) -> int:
        """The smallest fibre dimension over these weights, random ones and calibrated ones: what is more here is local to these weights.

        No fewer than the ``known`` directions are there anywhere. On inputs of one sign some unit rests at most random weights; at
        calibrated ones every unit switches; at loud ones values behind norms reach distant kinks.
        """
        best = self.outputs[0].dimension
        seen: set[int | None] = set()
        further = FURTHER if self.network.size <= PATIENT else 0
        for k, network in enumerate(itertools.chain(map(self._random, seeds), self.calibrated(CALIBRATED + further))):
            if best <= known or (k >= len(seeds) + CALIBRATED and len(seen - {None}) < 2):
                break
            seen.add(found := _fibre_dimension(network))
            best = best if found is None else min(best, found)
        loud = [_fibre_dimension(network) for network in self.loud()] if best > known else []
        agreed = set(loud) - {None} if len(set(loud)) == 1 else set()  # values a hundred times larger are less exact: draws must agree
        return min([best, *(d for d in agreed if d is not None)])

    def _random(self, seed: int) -> Network:
        ones = {n for n, p in self.network.parameters.items() if p.numel() and float(p.mean()) > 0.5}
        return Network(self.capture, {**random_state(self.capture, ones, seed), **self.network.buffers}, self.network.seed)

    def loud(self) -> Iterator[Network]:
        """Random weights many times as large as usual, each tensor by a factor of its own."""
        for seed in (13, 14):
            network = self._random(seed)
            low, high = map(float, np.log(LOUD))
            factors = np.exp(np.random.default_rng(seed).uniform(low, high, len(network.layout)))
            network.parameters = {n: float(f) * p for f, (n, p) in zip(factors, network.parameters.items(), strict=True)}
            yield network

    def calibrated(self, count: int = CALIBRATED) -> Iterator[Network]:
        """Weights fitted layer by layer, at which every unit switches."""
        for seed in range(count):
            held = replace(self.capture, tensors={n: t.clone() if isinstance(t, Tensor) else t for n, t in self.capture.tensors.items()})
            calibrate(held, seed)
            yield Network(held, dict(held.parameters), self.network.seed)

    @cached_property
    def jumps(self) -> tuple[str, ...]:
        """Operators of nodes whose values jump along a path of weights: their derivative does not tell their changes."""
        return self.jumps_beside(())

    def jumps_beside(self, steps: Sequence[str]) -> tuple[str, ...]:
        """The same where the values ``steps`` do not change."""
        network = self.network
        g = torch.Generator().manual_seed(5)
        direction = {n: torch.randn(p.shape, generator=g, dtype=torch.float64) * max(float(p.std()) if p.numel() > 1 else 1.0, 0.1)
                     for n, p in network.parameters.items()}
        jumping: set[str] = set()
        for x in network.draws(2000, 3):
            nodes = [n for n in self._inexplicit if n.name not in jumping]
            found = network.jumping([n.outputs for n in nodes], direction, x, steps)
            jumping |= {n.name for n, jumps in zip(nodes, found, strict=True) if jumps}
        return tuple(dict.fromkeys(p for n in self.arch.nodes if n.name in jumping for p in n.packets))

    @cached_property
    def _inexplicit(self) -> list[Node]:
        """Nodes of which no formula tells that they are continuous."""
        graph = self.capture.graph
        return [n for n in self.arch.nodes if n.outputs and not all(_continuous(graph, graph.by_name[name]) for name in n.ops)]

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
            size = sum(map(network.entries, node.outputs))
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
