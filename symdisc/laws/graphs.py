"""A traced network as a polynomial map to be counted, with the conserved quantities of its catalog as the known laws.

Read are networks that act on the last axis of their tensors: linear layers, sums, products and powers of activations,
constant factors, and activations that are linear on each side of 0. Those carry random masks, one per unit and sample:
within an activation region the network is linear in them, and all samples together span all paths (arXiv:2307.00144);
the count is that of losses that see every activation pattern. Every other operator is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from symdisc.errors import BadInput, Undecided
from symdisc.laws.inputs import infer_inputs
from symdisc.laws.jets import Node, Tape
from symdisc.laws.problem import CountProblem
from symdisc.opgraph import Op, OpGraph, Ref

__all__ = ["ChargeLaw", "problem_of_catalog", "problem_of_model"]

Env = dict[str, Node]
MASKED = frozenset(f"aten.{n}" for n in ("relu", "leaky_relu", "abs"))
PASSED = frozenset(f"aten.{n}" for n in ("alias", "clone", "contiguous", "detach", "dropout"))


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

    Raises BadInput for a catalog without graph, Undecided for an operator that is no polynomial on each activation
    region.
    """
    if cat.graph is None:
        raise BadInput("the catalog has no graph (it was read from a file): make it again with discover")
    graph: OpGraph = cat.graph
    reader = _Reader(graph)
    laws = tuple(ChargeLaw(q) for q in cat.conserved if ChargeLaw.fits(q) and not q.zero_sum)
    parameters = tuple((n, tuple(cat.parameters[n]) or (1,)) for n in cat.parameters)
    return CountProblem(
        f"{cat.architecture}, every activation pattern", parameters, reader.data(), reader.potential, laws,
        note=f"inputs as in the catalog: {', '.join(str(list(graph.shapes[n])) for n in graph.inputs)}",
    )


def problem_of_model(model: Any) -> CountProblem:
    """A torch module; its inputs are inferred and said in the note. Raises BadInput where they are not determined."""
    from symdisc.session import discover

    inputs, how = infer_inputs(model)
    return replace(problem_of_catalog(discover(model, inputs)), note=how)


class _Reader:
    """Runs a graph on jets, one sample at a time: activations are vectors over the last axis."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.weights = {
            op.name: op.inputs[0] for op in graph.ops if op.packet == "aten.t" and op.inputs[0] in graph.parameters
        }
        if not all(self._width(n) for n in (*graph.inputs, *graph.outputs)):
            raise Undecided("inputs and outputs must be tensors with an axis of features")
        for op in graph.ops:
            if graph.varies(op.name) and not self._known(op):
                raise Undecided(
                    f"{op.packet} (in {op.module or 'the model'}) is no map this count knows; use a named shape"
                )

    def _known(self, op: Op) -> bool:
        names, active = op.inputs, [n for n in op.inputs if self.graph.is_activation(n) or n in self.graph.inputs]
        if op.packet == "aten.linear":
            return names[0] in active and set(names[1:]) <= set(self.graph.parameters) | set(self.weights)
        if op.name in self.weights:
            return True
        if op.packet in MASKED:
            return names[0] in active and len(names) == 1
        if op.packet in ("aten.add", "aten.sub", "aten.mul", "aten.square", "aten.pow", *PASSED):
            same = len({self._width(n) for n in names}) == 1 and len(active) == len(names)
            power = op.packet != "aten.pow" or op.args[1] in (1, 2, 3, 4)
            constants = [a for a in op.args[1:] if isinstance(a, float | int) and not isinstance(a, bool)]
            shift = op.packet in ("aten.add", "aten.sub") and bool(constants)
            return same and power and not shift and not op.kwargs
        return False

    def _width(self, name: str) -> tuple[int, ...]:
        shape = self.graph.shapes.get(name) if name not in self.graph.by_name else self.graph.by_name[name].shape
        return tuple(shape or ())

    def _last(self, name: str) -> int:
        return self._width(name)[-1]

    def data(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Inputs, one covector per output, one mask per masked operator, and the constant 1 of each sample."""
        masks = [op for op in self.graph.ops if op.packet in MASKED and self.graph.varies(op.name)]
        found = [(f"x:{n}", (self._last(n),)) for n in self.graph.inputs]
        found += [(f"y:{n}", (self._last(n),)) for n in self.graph.outputs]
        found += [(f"d:{op.name}", (self._last(op.name),)) for op in masks]
        return (*found, ("one", (1,)))

    def potential(self, tape: Tape, theta: Mapping[str, Node], sample: Mapping[str, Node]) -> Node:
        env: Env = {n: sample[f"x:{n}"] for n in self.graph.inputs}
        env.update({value: theta[name] for value, name in self.graph.parameters.items()})
        for op in self.graph.ops:
            if self.graph.varies(op.name):
                env[op.name] = self._run(op, tape, env, sample)
        total: Node | None = None
        for name in self.graph.outputs:
            part = tape.einsum("o,o->", env[name], sample[f"y:{name}"])
            total = part if total is None else tape.add(total, part)
        assert total is not None
        return total

    def _run(self, op: Op, tape: Tape, env: Env, sample: Mapping[str, Node]) -> Node:
        values = [env[n] for n in op.inputs]
        if op.packet == "aten.linear":
            h = tape.einsum("i,io->o" if op.inputs[1] in self.weights else "i,oi->o", values[0], values[1])
            return tape.add(h, tape.einsum("q,o->o", sample["one"], values[2])) if len(values) > 2 else h
        if op.packet in MASKED:
            return tape.einsum("o,o->o", values[0], sample[f"d:{op.name}"])
        if op.packet in PASSED or op.name in self.weights:
            return values[0]
        return _ARITHMETIC[op.packet.removeprefix("aten.")](op, tape, values)


def _scaled(tape: Tape, node: Node, factor: float | int) -> Node:
    """factor * node with the factor as an exact fraction modulo the prime."""
    exact = Fraction(str(factor))
    residue = exact.numerator * pow(exact.denominator, -1, tape.prime) % tape.prime
    return tape.einsum("o,o->o", node, tape.constant(np.full(node.value.shape[3:], residue)))


def _times(op: Op, tape: Tape, values: Sequence[Node]) -> Node:
    if len(values) == 2:
        return tape.einsum("o,o->o", values[0], values[1])
    return _scaled(tape, values[0], next(a for a in op.args if not isinstance(a, Ref)))


def _power(op: Op, tape: Tape, values: Sequence[Node]) -> Node:
    node = values[0]
    for _ in range(int(op.args[1]) - 1 if op.packet == "aten.pow" else 1):
        node = tape.einsum("o,o->o", node, values[0])
    return node


_ARITHMETIC: Mapping[str, Callable[[Op, Tape, Sequence[Node]], Node]] = {
    "add": lambda op, tape, values: tape.add(values[0], values[1]),
    "sub": lambda op, tape, values: tape.add(values[0], _scaled(tape, values[1], -1)),
    "mul": _times, "square": _power, "pow": _power,
}  # fmt: skip


def looks_like_catalog(source: object) -> bool:
    """Has a graph and conserved quantities."""
    return hasattr(source, "graph") and hasattr(source, "symmetries")


def looks_like_model(source: object) -> bool:
    """Has parameters as torch modules have."""
    return (
        callable(source)
        and math.prod(hasattr(source, n) for n in ("named_parameters", "parameters", "state_dict")) == 1
    )
