"""A catalog's network as a problem of counting: its fields on residues, and what was taken for its inputs and regions.

Read are networks of sums, products, quotients, linear maps (convolutions among them), exponentials and what is made of them
(softmax, tanh, sigmoid, SiLU, GELU, softplus, sin, cos), and piecewise linear functions. Roots and logarithms are refused by
name: most residues have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symdisc.errors import SymdiscError, Undecided
from symdisc.laws.analytic import independent
from symdisc.laws.jets import Node, Tape
from symdisc.laws.problem import CountProblem
from symdisc.opgraph import Op, OpGraph
from symdisc.residues import draw
from symdisc.torchside.capture import Capture, capture
from symdisc.torchside.domains import held, ranges
from symdisc.torchside.interpret import ancestors
from symdisc.torchside.network import Network, plain_kernels
from symdisc.torchside.residues.moving import LINEAR, MOVING, Moves, Sums
from symdisc.torchside.residues.pointwise import PIECEWISE, POINTWISE, drawn_shape
from symdisc.torchside.residues.products import PRODUCTS
from symdisc.torchside.residues.run import Run, Sampled, refuse

__all__ = ["problem_of"]

TOGETHER = 3  # samples whose exponentials are asked together for integer relations
ROOM = 2**24  # entries of the matrix of arguments whose rank is taken
HELD = 2**22  # numbers of a network's values that are held at once
BEYOND = 8  # points beyond the number of unknowns
SUMS = frozenset({"aten.add", "aten.sub", "aten.rsub", "aten.neg", "aten.mul", *LINEAR, *MOVING, *PRODUCTS, *PIECEWISE}) - {
    "aten.softmax", "aten._softmax", "aten.scaled_dot_product_attention", "aten.elu"}


def problem_of(cat: Any, laws: tuple[Any, ...]) -> CountProblem:
    """The map of a catalog fresh from ``discover``. Raises Undecided for an operator without an exact form, by name."""
    source = _one_row(cat)
    network = _Network(source)
    shapes = ", ".join(str(list(cat.graph.shapes[n])) for n in cat.graph.inputs)
    regions = ", every activation pattern" if network.pieces else ""
    parameters = tuple((n, tuple(cat.parameters[n]) or (1,)) for n in cat.parameters)
    return CountProblem(f"{cat.architecture}{regions}", parameters, network.data(), network.potential, laws,
                        note=f"inputs as in the catalog: {shapes}", generic=network.generic, entries=network.entries)


def _one_row(cat: Any) -> Capture:
    """The network at one row of its inputs, where rows do not see each other: the same fields, sooner."""
    whole: Capture = cat.captured
    lengths = {x.shape[0] if x.ndim else 0 for x in whole.example}
    if cat.kwargs or len(lengths) != 1 or min(lengths) < 2 or not all(isinstance(x, Tensor) for x in cat.example):
        return whole
    try:
        single = capture(cat.model, tuple(x[:1] for x in cat.example))
    except SymdiscError:
        return whole
    state = dict(whole.parameters)
    both = [Network(c, {**_buffers(c), **state}) for c in (whole, single)]
    inputs = both[0].draws(0, 1)[0]
    with plain_kernels(), torch.no_grad():
        rows = [n.function(n.graph.outputs)(n.parameters, *x) for n, x in zip(both, (inputs, tuple(t[:1] for t in inputs)), strict=True)]
    shapes = [[n.graph.shape(o) or () for o in n.graph.outputs] for n in both]
    fits = all(a and b and a[1:] == b[1:] and b[0] == 1 for a, b in zip(*shapes, strict=True))
    if not fits:
        return whole
    parts = rows[0].split([int(np.prod(s)) for s in shapes[0]])
    firsts = torch.cat([p.reshape(s)[:1].reshape(-1) for p, s in zip(parts, shapes[0], strict=True)])
    return single if torch.allclose(firsts, rows[1], rtol=1e-9, atol=1e-12) else whole


def _buffers(source: Capture) -> dict[str, Tensor]:
    return {n: source.tensors[v] for v, n in source.graph.buffers.items() if v in source.tensors}


class _Network:
    """A graph with what its run on residues needs: constants evaluated, operators checked, what is to be drawn."""

    def __init__(self, source: Capture) -> None:
        self.graph: OpGraph = source.graph
        self.whole = ranges(self.graph, source.example)
        self.switches = held(self.graph, source.example, self.whole)
        if len(self.switches) == len(self.graph.inputs):
            raise Undecided("no input of this network varies")
        self.fixed: dict[str, Any] = {n: _wide(t) for n, t in source.tensors.items() if n not in self.graph.parameters}
        self.fixed |= {n: _wide(x) for n, x in self.switches.items()}
        self.ops = ancestors(self.graph, self.graph.outputs)
        self.moves, self.sums = Moves(), Sums()
        self.jets = self._reached()
        self.pieces = [op for op in self.ops if op.packet in PIECEWISE and op.name in self.jets]
        self.multilinear = {op.name: self._harmless(op) for op in self.pieces}

    def _reached(self) -> frozenset[str]:
        """Values that a parameter or a floating-point input reaches; raises Undecided for one without a form."""
        jets = {n for n in self.graph.inputs if n not in self.switches and n not in self.whole} | set(self.graph.parameters)
        for op in self.ops:
            if jets.intersection(op.inputs):
                if op.packet not in (POINTWISE.keys() | PIECEWISE.keys() | PRODUCTS.keys() | MOVING | LINEAR | {"getitem", "aten.dropout"}):
                    raise refuse(op)
                if op.packet == "aten.dropout" and op.args[2] and op.args[1]:
                    raise refuse(op)
                jets.add(op.name)
        return frozenset(jets)

    def _harmless(self, op: Op) -> bool:
        """Whether only sums, products and further choices follow, so that the output is a polynomial in what is drawn."""
        return all(follower.packet in SUMS | {"getitem", "aten.square", "aten.pow", "aten.dropout"} for follower in self._after(op))

    def _after(self, op: Op) -> Iterator[Op]:
        seen = {op.name}
        for other in self.ops:
            if seen.intersection(other.inputs):
                seen.add(other.name)
                yield other

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.graph.shape(name) or ())

    @property
    def entries(self) -> int:
        """Numbers that one sample holds."""
        return sum(int(np.prod(op.shape)) for op in self.ops if op.name in self.jets and op.shape)

    def data(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Inputs, a covector per output, what is drawn per piecewise operator."""
        found = [(f"x:{n}", self._shape(n)) for n in self.graph.inputs if n not in self.switches]
        found += [(f"y:{n}", self._shape(n)) for n in self.graph.outputs]
        found += [(f"d:{op.name}", drawn_shape(op, self._shape)) for op in self.pieces]
        return tuple(found)

    # --- running ------------------------------------------------------------------------------------------------------------
    def potential(self, tape: Tape, theta: Mapping[str, Node], sample: Mapping[str, Node]) -> Node:
        """<y, outputs> for the data of a sample."""
        run = Run(tape, dict(self.fixed), sample, self.multilinear)
        for name in self.graph.inputs:
            if name in self.whole:
                low, high = self.whole[name]
                numbers = low + sample[f"x:{name}"].value[0, 0] % (high - low + 1)
                run.env[name] = Sampled(torch.from_numpy(np.ascontiguousarray(numbers)))
            elif name not in self.switches:
                run.env[name] = sample[f"x:{name}"]
        for value, name in self.graph.parameters.items():
            run.env[value] = self._plain(tape, theta[name], self._shape(value))
        for op in self.ops:
            run.env[op.name] = self._run(run, op)
        total: Node | None = None
        for name in self.graph.outputs:
            letters = "abcdefghijkl"[: len(self._shape(name))]
            part = tape.einsum(f"{letters},{letters}->", run.node(run.env[name]), sample[f"y:{name}"])
            total = part if total is None else tape.add(total, part)
        assert total is not None
        return total

    @staticmethod
    def _plain(tape: Tape, node: Node, shape: tuple[int, ...]) -> Node:
        """A number is kept as a vector of one."""
        if node.value.shape[3:] == shape:
            return node
        return tape.linear(node, lambda v: v.reshape(*v.shape[:3], *shape), lambda bar: bar.reshape(*bar.shape[:3], 1))

    def _run(self, run: Run, op: Op) -> Any:
        if op.name not in self.jets:
            return run.evaluate(op)
        if op.packet == "getitem":
            return run[op.args[0]][op.args[1]]
        if op.packet in MOVING:
            return self.moves(run, op)
        if op.packet in LINEAR:
            return self.sums(run, op)
        if op.packet == "aten.dropout":
            return run[op.args[0]]
        form = POINTWISE.get(op.packet) or PIECEWISE.get(op.packet) or PRODUCTS[op.packet]
        if op.packet not in KEEPING and any(n in run.dead for n in op.inputs):
            raise Undecided(f"{op.packet} (in {op.module or 'the model'}) of minus infinity")
        return form(run, op)

    # --- what free values rest on -------------------------------------------------------------------------------------------
    def generic(self, rng: np.random.Generator, prime: int) -> str:
        """That no integer relation holds between the arguments of exponentials, in words; raises Undecided where one may."""
        number = self._arguments(rng, prime, 1).shape[1]
        if not number:
            return ""
        points = number + BEYOND
        if points * points > ROOM:
            raise Undecided(f"{number // TOGETHER} exponentials per sample are too many to ask for relations between them: "
                            "count a smaller copy of the network")
        most = max(1, HELD // max(self.entries, 1))
        columns = np.concatenate([self._arguments(rng, prime, min(most, points - k)) for k in range(0, points, most)])
        if not independent(columns, prime):
            raise Undecided("the exponentials of this network have arguments between which an integer relation may hold")
        return (f"exponentials and their integrals as free values: between their {number // TOGETHER} arguments per sample no integer "
                f"relation holds, {TOGETHER} samples taken together (a rank modulo a prime)")

    def _arguments(self, rng: np.random.Generator, prime: int, points: int) -> np.ndarray:
        """Arguments of exponentials at random weights and inputs, [points, n of all samples]."""
        theta = {name: draw(rng, (1, 1, points, *(self._shape(v) or (1,))), prime) for v, name in self.graph.parameters.items()}
        found = []
        for _ in range(TOGETHER):
            tape = Tape(1, prime)
            sample = {name: tape.data(draw(rng, (1, 1, points, *shape), prime)) for name, shape in self.data()}
            self.potential(tape, {n: tape.data(t) for n, t in theta.items()}, sample)
            found += [np.broadcast_to(a, (points, a.shape[1])) for a in tape.arguments]
        return np.concatenate(found, axis=1) if found else np.zeros((points, 0), np.int64)


KEEPING = frozenset({"aten.softmax", "aten._softmax", "aten.scaled_dot_product_attention", "getitem"})


def _wide(t: Tensor) -> Tensor:
    return t.detach().double() if t.is_floating_point() else t.detach()


