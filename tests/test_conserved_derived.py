"""A second way to every answer of ``cat.conserved``: the first derived system of the one-forms of a symmetry, by numbers alone.

A function that all flows orthogonal to X_1, ..., X_r keep has its differential in the span of the forms <X_a, .>, and among them in those
whose derivative vanishes between directions orthogonal to the X_a. That derivative is the curvature of the projector Pi on the span,
F(u, v) = Pi (D_u Pi v - D_v Pi u); r - rank F bounds the number of functions from above. Where nothing is kept it must be 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from brute import randomise
from networks import ready
from networks.base import floats
from torch import Tensor, nn

import symdisc
from symdisc.symmetry import Symmetry
from symdisc.torchside.remainder import float64_state, tangents

STEP, CUT = 1e-3, 1e-5


def projector(symmetries: Sequence[Symmetry], state: dict[str, Tensor], layout: Sequence[str]) -> np.ndarray:
    """Onto the span of the generators at these weights."""
    _, sizes, basis = np.linalg.svd(tangents(symmetries, state, layout), full_matrices=False)
    kept = basis[sizes > 1e-6 * sizes[0]]
    return np.asarray(kept.T @ kept)


def left(symmetries: Sequence[Symmetry], state: dict[str, Tensor], layout: Sequence[str]) -> int:
    """r - rank F."""
    flat = torch.cat([state[n].reshape(-1) for n in layout]).numpy()
    here, rng = projector(symmetries, state, layout), np.random.default_rng(0)
    r = round(float(np.trace(here)))

    def at(point: np.ndarray) -> np.ndarray:
        moved, start = dict(state), 0
        for n in layout:
            moved[n] = torch.tensor(point[start:start + state[n].numel()].reshape(state[n].shape))
            start += state[n].numel()
        return projector(symmetries, moved, layout)

    def along(w: np.ndarray) -> np.ndarray:
        return (at(flat + STEP * w) - at(flat - STEP * w)) / (2 * STEP)

    rows = []
    for _ in range(r + 3):
        u, v = ((w - here @ w) / np.linalg.norm(w - here @ w) for w in rng.standard_normal((2, len(flat))))
        rows.append(here @ (along(u) @ v - along(v) @ u))
    return r - int((np.linalg.svd(np.array(rows), compute_uv=False) > CUT).sum())


def answers(model: nn.Module, inputs: Callable[[int], tuple[Tensor, ...]]) -> list[tuple[str, int, int]]:
    """(name, numbers kept by the catalog, room that the derived system leaves) for each symmetry of trained parameters."""
    cat = symdisc.discover(model, inputs(0), solve=False)
    state, layout = float64_state(cat.captured), list(cat.captured.parameters)
    mine = [q for q in cat.conserved if q.symmetry.counts and {m.parameter for m in q.symmetry.moves} <= set(layout)]
    return [(q.name, q.dimension, left([q.symmetry], state, layout)) for q in mine]


@pytest.mark.parametrize("name", [
    "mlp_relu", "weight_norm_whole", "weight_norm_reader", "linear_bottleneck", "attn_rotary_half", "lora_only", "gn_relu",
    "bn_eval", "ssm_dense", "two_way_bias", "stream_layer_narrow_in", "maxout", "trap_product_and_factor"])
def test_as_many_numbers_as_the_derived_system_leaves(name: str) -> None:
    model, inputs, _ = ready(name)
    found = answers(model, inputs)
    assert found and [(n, room) for n, _, room in found] == [(n, kept) for n, kept, _ in found]


@pytest.mark.parametrize("make, width", [
    (lambda: nn.Sequential(nn.Linear(2, 4), nn.GroupNorm(2, 4), nn.Linear(4, 3)), 2),
    (lambda: nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 3)), 2),
    (lambda: nn.Sequential(nn.Linear(2, 5), nn.LayerNorm(5), nn.Linear(5, 3)), 2),
], ids=["pairs", "a pair", "five"])
def test_rotations_that_fix_1_begin_in_three_dimensions(make: Callable[[], nn.Module], width: int) -> None:
    """No family of dimension zero is listed, whose quantity could not be asked."""
    torch.manual_seed(0)
    model, inputs = randomise(make(), 2), floats(width, spread=1.0)
    assert all(s.dimension for s in symdisc.discover(model, inputs(0), solve=False).symmetries)
    assert all(kept == room for _, kept, room in answers(model, inputs))
