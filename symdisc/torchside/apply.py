"""Apply a group element to a state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from symdisc.errors import BadInput, StateMismatch
from symdisc.generators import exponentiate
from symdisc.normed import pulled
from symdisc.symmetry import Discrete, Element, Symmetry
from symdisc.torchside.kernels import run_moves

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["act", "apply_element", "check_state", "within_range"]

PULLS = 12  # steps of log scale 1 into the ball: enough for gains of 1e-5


def check_state(cat: Catalog, state: Mapping[str, Tensor]) -> None:
    """Names, shapes and values must fit the catalog; raises StateMismatch with one line."""
    expected = {**cat.parameters, **cat.buffers}
    moved = {p for s in cat.symmetries for p in s.parameters} | {p for d in cat.discrete for p in d.parameters}
    for name, shape in expected.items():
        found = _lookup(cat, state, name)
        if found is None:
            if name in cat.buffers and name not in moved:
                continue  # a buffer that is not saved
            raise StateMismatch(f"the state_dict lacks {name}, which the catalog's model has; is it the checkpoint of this model?")
        if tuple(found.shape) != shape:
            raise StateMismatch(f"{name} has shape {list(found.shape)}, but the catalog's model has {list(shape)}")
        if found.is_meta:
            raise StateMismatch(f"{name} is on the meta device and holds no numbers; load the weights first")
        if name in moved and found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise StateMismatch(f"{name} holds NaN or infinite values; a symmetry cannot be applied to it")
    known = set(expected) | set(cat.aliases)
    strange = [n for n in state if n not in known]
    if strange:
        raise StateMismatch(f"the state_dict has {strange[0]}, which the catalog's model lacks; is it the checkpoint of this model?")


def act(symmetry: Symmetry | Discrete, array: np.ndarray, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """New tensors for the parameters that the element ``array`` of one symmetry changes."""
    if isinstance(symmetry, Symmetry) and symmetry.generators:
        values = {n: state[n].double().cpu().numpy() for n in symmetry.parameters}
        new = exponentiate(symmetry.generators, array, values)
        return {n: torch.from_numpy(v).to(state[n]) for n, v in new.items()}
    return run_moves(symmetry.moves, array, state)


def _lookup(cat: Catalog, state: Mapping[str, Tensor], name: str) -> Tensor | None:
    if name in state:
        return state[name]
    return next((state[a] for a, c in cat.aliases.items() if c == name and a in state), None)


def _in_range(family: Symmetry | Discrete, new: Mapping[str, Tensor]) -> None:
    """Raises BadInput where an element takes a function of a parameter out of its range."""
    for move in family.moves:
        if move.kind.startswith("normed_") and not bool(torch.isfinite(new[move.parameter]).all()):
            raise BadInput(f"{family.name}: this element takes the norm of rows of {move.parameter} out of the ball that a norm with eps "
                           "reaches; take one that makes gains larger, draw it by Catalog.sample, or keep the weights in a wider dtype")
        if move.kind == "curved_scale" and not bool(torch.isfinite(new[move.parameter]).all()):
            raise BadInput(f"{family.name}: this element takes {move.rep} of {move.parameter} out of its range; take one nearer to 1, or "
                           "draw it by random_element, which stays inside")


def within_range(cat: Catalog, g: Element) -> Element:
    """``g`` with larger scales where it takes rows of a table out of the ball of a norm, at the weights of the captured model."""
    assert cat.captured is not None
    work: dict[str, Tensor] = dict(cat.captured.parameters)
    work.update({n: cat.captured.tensors[v] for v, n in cat.captured.graph.buffers.items() if v in cat.captured.tensors})
    if any(t.is_meta for t in work.values()):
        return g
    factors = []
    for factor in g.factors:
        if factor.kind != "flow":
            family = (cat.discrete if factor.kind == "discrete" else cat.symmetries)[factor.which]
            table = next((m for m in family.moves if m.kind == "normed_table"), None)
            new = act(family, factor.array, work)
            for _ in range(PULLS if table is not None else 0):
                assert table is not None
                if bool(torch.isfinite(new[table.parameter]).all()):
                    break
                factor = replace(factor, array=pulled(table.rep, factor.array, table.index.size))
                new = act(family, factor.array, work)
            work.update(new)
        factors.append(factor)
    return replace(g, factors=tuple(factors))


def apply_element(cat: Catalog, state: Mapping[str, Tensor], g: Element) -> dict[str, Tensor]:
    """``state`` transformed by all factors of ``g`` in order; tied names receive the same tensor."""
    check_state(cat, state)
    names = [*cat.parameters, *cat.buffers]
    work: dict[str, Tensor] = {}
    for name in names:
        found = _lookup(cat, state, name)
        if found is not None:
            work[name] = found.detach()
    changed: set[str] = set()
    with torch.no_grad():
        for factor in g.factors:
            if factor.kind == "flow":
                from symdisc.torchside.flow import run_flow

                new = run_flow(cat, factor, work)
            else:
                family = (cat.discrete if factor.kind == "discrete" else cat.symmetries)[factor.which]
                new = act(family, factor.array, work)
                _in_range(family, new)
            work.update(new)
            changed.update(new)
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        canonical = cat.aliases.get(name, name)
        out[name] = work[canonical].clone() if canonical in changed else tensor.detach().clone()
    return out
