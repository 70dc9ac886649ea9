"""Smaller lengths for the same structure."""

from __future__ import annotations

from collections.abc import Mapping

from symdisc.opgraph import OpGraph
from symdisc.sizes.infer import Inferred

__all__ = ["parameter_count", "shrink_sizes"]

SMALLEST = 3  # of a length that had room: 1 and 2 are special to norms, rotations and softmax
COUNT = 2  # of heads, groups, halves: factors of a length that are not its last
DATA = 4  # tokens, samples: enough for attention to differ from place to place
MOST_STEPS = 400  # of the repair; each makes one length larger by one


def shrink_sizes(graph: OpGraph, inferred: Inferred, least: Mapping[int, int] | None = None) -> dict[int, int]:
    """New values of the free atoms, by root: small, in the order that they had, wide maps wide and narrow ones narrow.

    Lengths of data alone shrink to a few places. ``least`` gives lower bounds by root (rows of a table that fixed indices
    reach). Pinned atoms keep their values and are left out.
    """
    sizes = inferred.sizes
    held = {leaf for v in graph.parameters for a in inferred.axes[v] for leaf in sizes.leaves(a)}
    free = [r for r in range(len(sizes.values)) if sizes.root(r) == r and sizes.parts(r)[0] == "free" and not sizes.is_pinned(r)]
    ranks = {v: SMALLEST + k for k, v in enumerate(sorted({sizes.values[r] for r in free if r in held and sizes.values[r] > SMALLEST}))}
    inner = _inner_factors(inferred)
    chosen = {}
    for r in free:
        value = sizes.values[r]
        small = inner.get(r, ranks.get(value, value)) if r in held else DATA
        chosen[r] = min(max(small, (least or {}).get(r, 0)), value)
    return _keep_order(graph, inferred, chosen)


def _inner_factors(inferred: Inferred) -> dict[int, int]:
    """Leaves inside products, with small values: of every product the last free factor is a size, the others are counts."""
    sizes = inferred.sizes
    small: dict[int, int] = {}
    for axes in inferred.axes.values():
        for a in axes:
            *counts, last = [sizes.leaves(f) for f in sizes.factors(a)] or [[]]
            if counts:
                small.update({leaf: min(small.get(leaf, COUNT), COUNT) for group in counts for leaf in group})
                small.update({leaf: min(small.get(leaf, SMALLEST), SMALLEST if len(last) == 1 else COUNT) for leaf in last})
    return small


def _keep_order(graph: OpGraph, inferred: Inferred, chosen: dict[int, int]) -> dict[int, int]:
    """Enlarge lengths until every matrix is wide, square or tall as it was, or nothing more can be done."""
    sizes = inferred.sizes
    pairs = list(dict.fromkeys(
        (sizes.root(inferred.axes[v][0]), sizes.root(inferred.axes[v][1])) for v in graph.parameters if len(inferred.axes[v]) > 1))
    for _ in range(MOST_STEPS):
        wrong = next(((a, b) for a, b in pairs if _sign(sizes.value(a), sizes.value(b)) != _sign(
            sizes.evaluate(a, chosen), sizes.evaluate(b, chosen))), None)
        if wrong is None:
            break
        a, b = wrong
        old, new = sizes.value(a) - sizes.value(b), sizes.evaluate(a, chosen) - sizes.evaluate(b, chosen)
        grow = a if new < old and (new < 0 or old > 0) else b
        room = [leaf for leaf in sizes.leaves(grow) if leaf in chosen and chosen[leaf] < sizes.values[leaf]]
        if not room:
            break
        least = min(room, key=lambda leaf: (chosen[leaf], leaf))
        chosen[least] += 1
    return chosen


def _sign(a: int, b: int) -> int:
    return (a > b) - (a < b)


def parameter_count(graph: OpGraph, inferred: Inferred, chosen: Mapping[int, int]) -> int:
    """D of the network at the lengths ``chosen``, tied tensors once."""
    total, seen = 0, set()
    for value, name in graph.parameters.items():
        name = graph.aliases.get(name, name)
        if name not in seen:
            seen.add(name)
            count = 1
            for n in inferred.shape(value, chosen):
                count *= n
            total += count
    return total
