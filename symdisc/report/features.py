"""What an operator graph is built of: biases, positions, norms, eps, activations, gates, heads, ties. Read off operators alone.

No name of a module or class is looked at, so two models are compared by what they compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

from symdisc.archgraph import ADDITIVE
from symdisc.opgraph import Op, OpGraph, Ref

__all__ = ["Feature", "features"]

WEIGHTED = frozenset(f"aten.{n}" for n in ("linear", "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d",
                                           "conv_transpose2d", "conv_transpose3d", "addmm"))
CONTRACTIONS = frozenset(("aten.matmul", "aten.bmm", "aten.mm", "aten.einsum"))
ATTENTION = "aten.scaled_dot_product_attention"
ACTIVATIONS = frozenset(f"aten.{n}" for n in (
    "relu", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "tanh", "sigmoid", "softplus", "sin", "cos", "exp", "hardtanh",
    "hardswish", "hardsigmoid", "relu6", "logsigmoid", "erf", "prelu", "log_sigmoid", "threshold", "hardshrink", "softshrink"))
DEFAULT_EPS = 1e-5  # of LayerNorm and GroupNorm, where the call leaves it out
NORMS = {"aten.layer_norm": "LayerNorm", "aten.rms_norm": "RMSNorm", "aten.group_norm": "GroupNorm"}
SPREADS = frozenset(("aten.expand", "aten.repeat_interleave", "aten.repeat", "aten.index", "aten.index_select"))


@dataclass(frozen=True)
class Feature:
    """``value`` in words; ``parameters`` are those that the operators behind it meet first."""

    name: str
    value: str
    parameters: frozenset[str] = field(default=frozenset(), compare=False)


def features(graph: OpGraph) -> tuple[Feature, ...]:
    """All features of a graph, in fixed order; those that it lacks say so ("none")."""
    return _Reader(graph).read()


class _Reader:
    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.ops = [op for op in graph.ops if op.name in graph.live]
        self.acts = [op for op in self.ops if graph.is_activation(op.name)]

    def read(self) -> tuple[Feature, ...]:
        return (self.biases(), *self.attention(), self.positions(), *self.norms(), self.activations(), self.gates(), self.ties(),
                Feature("mode", "training" if self.graph.training else "evaluation"), *self.sizes())

    # --- walking ------------------------------------------------------------------------------------------------------
    def above(self, name: str, through: Iterable[str]) -> Iterator[Op]:
        """Operators met going up from a value, each once; only those in ``through`` are passed."""
        allowed, seen, frontier = set(through), {name}, [name]
        while frontier:
            op = self.graph.by_name.get(frontier.pop())
            if op is None:
                continue
            yield op
            new = [n for n in dict.fromkeys(op.inputs) if op.packet in allowed and n not in seen and self.graph.varies(n)]
            seen.update(new)
            frontier += new

    def stored(self, op: Op) -> list[str]:
        """State_dict names of the parameters behind an operator's operands, seen through operators of parameters alone."""
        found = []
        for name in op.inputs:
            while name in self.graph.by_name and self.graph.roles[name] == {"theta"} and self.graph.by_name[name].inputs:
                name = self.graph.by_name[name].inputs[0]
            found += [self.graph.parameters[name]] if name in self.graph.parameters else []
        return found

    def writers(self, names: Iterable[str]) -> frozenset[str]:
        """Parameters of the first weights, gains and tables above some values."""
        passed = ADDITIVE | {"aten.mul", "aten.div", "aten.pow", "aten.repeat_interleave"} | ACTIVATIONS
        return frozenset(p for name in names for op in self.above(name, passed) for p in self.stored(op))

    # --- features -----------------------------------------------------------------------------------------------------
    def biases(self) -> Feature:
        """Linear maps that add a constant vector of their own."""
        maps = [op for op in self.acts if op.packet in WEIGHTED and self.stored(op)]
        held = [op for op in maps if len(self.stored(op)) > 1]
        return Feature("biases of linear maps", _share(len(held), len(maps)), frozenset(self.stored(op)[1] for op in held))

    def attention(self) -> Iterator[Feature]:
        cores = list(self.cores())
        sides = [n for _, q, k, _ in cores for n in (q, k)]
        turned = [n for n in sides if self.is_rotary(n)]
        normed = [n for n in sides if any(self.norm_kind(op) for op in self.above(n, self.layout() | {"aten.mul", "aten.add", "aten.cat"}))]
        heads = Counter(f"attention with {h} heads" + (f" on {kv} key/value heads" if kv != h else "")
                        for h, kv in ((self.heads(q), self.heads(k) // self.spread(k)) for _, q, k, _ in cores))
        yield Feature("attention", _counted(heads), self.writers(n for _, q, k, v in cores for n in (q, k, v)))
        yield Feature("rotary positions", _share(len(turned), len(sides), "queries and keys"), self.writers(turned))
        yield Feature("norm of queries and keys", _share(len(normed), len(sides), "queries and keys"), self.writers(normed))

    def cores(self) -> Iterator[tuple[Op, str, str, str]]:
        """(operator, query, key, value) of every attention, fused or written out."""
        for op in self.acts:
            if op.packet == ATTENTION:
                q, k, v = (a.name for a in op.args[:3] if isinstance(a, Ref))
                yield op, q, k, v
            elif op.packet == "aten.softmax":
                scores = next((o for o in self.above(op.inputs[0], self.layout() | {"aten.mul", "aten.div", "aten.where", "aten.add"})
                               if o.packet in CONTRACTIONS and self.two(o)), None)
                mixed = next((u for u in self.below(op.name) if u.packet in CONTRACTIONS and self.two(u)), None)
                if scores is not None and mixed is not None:
                    yield op, scores.inputs[0], scores.inputs[1], mixed.inputs[1]

    def two(self, op: Op) -> bool:
        return len(op.inputs) >= 2 and all(self.graph.is_activation(n) for n in op.inputs[:2])

    def below(self, name: str) -> Iterator[Op]:
        frontier = [name]
        while frontier:
            for op in self.graph.users.get(frontier.pop(), ()):
                yield op
                frontier += [op.name] if op.packet in self.layout() else []

    @staticmethod
    def layout() -> frozenset[str]:
        return ADDITIVE - {"aten.add", "aten.sub", "aten.rsub", "aten.cat", "aten.stack", "aten.mean", "aten.sum", "aten.cumsum"} | {
            "aten.repeat_interleave", "aten.dropout", "aten.masked_fill"}

    def heads(self, name: str) -> int:
        shape = self.graph.shape(name) or ()
        return shape[-3] if len(shape) > 3 else 1

    def spread(self, name: str) -> int:
        """How often each key head is repeated before it meets the queries."""
        factor = 1
        for op in self.above(name, self.layout() | {"aten.mul", "aten.add", "aten.cat"}):
            if op.packet in SPREADS and op.shape and self.graph.is_activation(op.inputs[0]):
                factor = max(factor, prod(op.shape) // max(prod(self.graph.shape(op.inputs[0]) or (1,)), 1))
        return factor

    def is_rotary(self, name: str) -> bool:
        """Turned entry by entry: a sum of two products of the vector with different tables that hold no parameter."""
        for op in self.above(name, self.layout() | {"aten.mul", "aten.add", "aten.sub", "aten.cat", "aten.stack"}):
            if op.packet in ("aten.add", "aten.sub"):
                tables = [self.table(self.graph.by_name.get(n)) for n in op.inputs]
                if len(tables) == 2 and None not in tables and tables[0] != tables[1]:
                    return True
            elif op.packet == "aten.mul" and op.dtype.startswith("complex"):
                return True
        return False

    def table(self, op: Op | None) -> str | None:
        """The parameter-free factor of a product with an activation, where it is a tensor."""
        if op is None or op.packet != "aten.mul":
            return None
        free = [n for n in op.inputs if not self.graph.varies(n) and (self.graph.shape(n) or (1,))[-1] > 1]
        return free[0] if len(free) == 1 and len(op.inputs) == 2 else None

    def positions(self) -> Feature:
        """Parameters added to activations at every place of their own: tables of positions, by index or written out."""
        found = []
        for op in self.acts:
            if op.packet == "aten.add":
                alone = [n for n in op.inputs if self.graph.roles[n] == {"theta"} and sum(s > 1 for s in self.graph.shape(n) or ()) > 1]
                found += self.stored(op) if alone else []
        return Feature("learned positions", "yes" if found else "none", frozenset(found))

    def norms(self) -> Iterator[Feature]:
        kinds: Counter[str] = Counter()
        eps: Counter[str] = Counter()
        met: set[str] = set()
        for op in self.acts:
            if kind := self.norm_kind(op):
                kinds[kind[0]] += 1
                eps[kind[1]] += 1
                met |= self.writers(n for n in op.inputs if self.graph.is_activation(n)) | self.gains(op)
        yield Feature("norms", _counted(kinds), frozenset(met))
        yield Feature("eps of norms", _counted(eps), frozenset(met))

    def gains(self, op: Op) -> frozenset[str]:
        """The norm's own gain and bias: parameters that meet what it gives, entry by entry."""
        found: set[str] = set()
        frontier = [op.name]
        while frontier:
            for user in self.graph.users.get(frontier.pop(), ()):
                own = self.stored(user)
                if user.packet in ("aten.mul", "aten.add") and (own or (user.packet == "aten.mul" and user.inputs[-1] == op.name)):
                    found.update(own)
                    frontier.append(user.name)
        return frozenset(found)

    def norm_kind(self, op: Op) -> tuple[str, str] | None:
        """(kind, eps) where a norm's scale is made; None for other operators."""
        if op.packet in NORMS:
            number = [a for a in (*op.args, *(v for _, v in op.kwargs)) if isinstance(a, float)]
            return NORMS[op.packet], f"{number[0] if number else DEFAULT_EPS:g}"
        if op.packet == "aten.rsqrt" and self.graph.is_activation(op.name):
            above = list(self.above(op.inputs[0], {"aten.add", "aten.mean"}))
            if any(o.packet == "aten.mean" for o in above):
                added = [a for o in above if o.packet == "aten.add" for a in o.args[1:] if isinstance(a, (int, float))]
                return "RMSNorm", f"{sum(added):g}"
        if op.packet in ("aten.mul", "aten.sub") and not any(self.graph.varies(n) for n in op.inputs[1:]):
            spread = self.graph.by_name.get(op.inputs[1]) if len(op.inputs) > 1 else None
            if spread is not None and any(o.packet == "aten.rsqrt" for o in self.made_of(spread)):
                added = [a for o in self.made_of(spread) if o.packet == "aten.add" for a in o.args[1:] if isinstance(a, (int, float))]
                return "BatchNorm with running statistics", f"{sum(added):g}"
        return None

    def made_of(self, op: Op) -> Iterator[Op]:
        """The operators behind a value made of buffers and constants."""
        frontier = [op.name]
        while frontier:
            found = self.graph.by_name.get(frontier.pop())
            if found is not None and not self.graph.roles[found.name]:
                yield found
                frontier += found.inputs

    def activations(self) -> Feature:
        """Nonlinear operators that act entry by entry."""
        found = [op for op in self.acts if op.packet in ACTIVATIONS or (op.packet == "aten.pow" and not self.inside_norm(op))]
        return Feature("activations", _counted(Counter(op.packet.removeprefix("aten.") for op in found)),
                       self.writers(op.inputs[0] for op in found))

    def inside_norm(self, op: Op) -> bool:
        return any(u.packet == "aten.mean" for u in self.graph.users.get(op.name, ()))

    def gates(self) -> Feature:
        """Products of two activations of one shape, entry by entry."""
        found = [op for op in self.acts if op.packet == "aten.mul" and self.two(op) and op.inputs[0] != op.inputs[1]
                 and self.graph.shape(op.inputs[0]) == self.graph.shape(op.inputs[1])]
        return Feature("gates (products of activations)", str(len(found) or "none"), self.writers(n for op in found for n in op.inputs))

    def ties(self) -> Feature:
        stored = set(self.graph.parameters.values())
        tied = {a: c for a, c in self.graph.aliases.items() if c in stored}
        return Feature("tied parameters", ", ".join(f"{a} = {c}" for a, c in sorted(tied.items())) or "none",
                       frozenset(tied.values()) | frozenset(tied))

    def sizes(self) -> Iterator[Feature]:
        shapes = {n: self.graph.shapes[v] for v, n in self.graph.parameters.items()}
        maps = sum(op.packet in WEIGHTED for op in self.acts)
        yield Feature("linear maps", str(maps))
        yield Feature("parameters", f"{sum(prod(s) for s in shapes.values()):,}")


def _share(part: int, total: int, of: str = "") -> str:
    if not part:
        return "none"
    return "all" if part == total else f"{part} of {total}" + (f" {of}" if of else "")


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{n} × {name}" if n > 1 else name for name, n in sorted(found.items())) or "none"
