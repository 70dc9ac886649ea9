"""The operators on the path of a network with the equivariance condition of each solved: its pairs (M, N)."""

from __future__ import annotations

import re
from functools import cache

from symdisc import archgraph
from symdisc.entry import Node
from symdisc.equivariance import Equivariance, equivariance
from symdisc.errors import SymdiscError
from symdisc.opgraph import Op, OpGraph
from symdisc.rulebook import rulebook

__all__ = ["nodes"]

SIZE = 4  # at which operators are solved that are not elementwise, as in catalog/operators.md


def nodes(graph: OpGraph) -> tuple[Node, ...]:
    """One record for each kind of operator that is not affine in the activations, in order of appearance."""
    counts: dict[str, int] = {}
    targets: dict[str, str] = {}
    for op in graph.ops:
        if op.name in graph.live and graph.is_activation(op.name) and not archgraph.is_linear(graph, op):
            name = _rule(op)
            counts[name] = counts.get(name, 0) + 1
            targets.setdefault(name, op.packet)
    return tuple(_node(name, targets[name], n) for name, n in counts.items())


@cache
def _by_target() -> dict[str, str]:
    return {t: rule.name for rule in rulebook() if not rule.params for t in rule.torch}


def _rule(op: Op) -> str:
    """The rule that solves an operator: a power by its own exponent, others by their name; the operator itself where there is none."""
    if op.packet == "aten.pow" and len(op.args) > 1 and isinstance(op.args[1], (int, float)):
        return f"x**{op.args[1]:g}" if op.args[1] == int(op.args[1]) and op.args[1] > 0 else op.packet
    return _by_target().get(op.target, op.packet)


def _node(name: str, packet: str, count: int) -> Node:
    found = _solved(name)
    if found is None:
        return Node(packet, "", None, (), "no rule solves it alone: it stands inside a larger piece, or is run as it is", count)
    solutions = [(f.name, _braced(f.latex)) for f in found.families] + [(d.kind, _braced(d.latex)) for d in found.discrete]
    return Node(packet, _braced(found.formula_latex()), found.size, tuple(solutions), found.status, count)


def _braced(latex: str) -> str:
    r"""``\mathbb R`` as ``\mathbb{R}``, groups upright, the transpose as in all other formulas: what the writers read."""
    latex = re.sub(r"\\(mathbb|mathbf|mathsf|mathrm) +(\w)", r"\\\1{\2}", latex).replace(r"\mathsf{T}", r"\top ")
    return re.sub(r"(?<![A-Za-z{\\])(GL|SO)\(", r"\\mathrm{\1}(", latex)


@cache
def _solved(name: str) -> Equivariance | None:
    rule = rulebook().get(name)
    if rule is None and not name.startswith("x**"):
        return None
    try:
        return equivariance(name) if rule is None or rule.elementwise else equivariance(name, size=SIZE)
    except SymdiscError:
        return None
