"""Conserved quantities through steps of SGD: predicted from gradients and momentum buffers alone.

A symmetry says B(g, theta) + c(g) = 0 for every correct gradient g. A step of SGD moves weights, buffer v and gradient
linearly, (theta, v) -> A (theta, v, g) with numbers A made of learning rate, decay and momentum, so the values of B on
(theta, v) and of c on them follow from those before the step, from B(g, g), B(g, v) and c(g): no differential equation
and no small step is assumed (arXiv:2012.04728 gives the limit of small steps). With plain momentum weights move along
the new buffer, theta' = theta - eta v', and B(v', v') alone says the same. Where the parameters of one symmetry move with
different A (parameter groups), what the others do differently from the largest is added from their own values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from symdisc.torchside.pieces import Law, Piece, Tensors

__all__ = ["Ledger", "Motion", "Seen", "motion_of"]

Three = tuple[float, float, float]


class Motion(NamedTuple):
    """One step of one parameter: theta' and v' as combinations of (theta, v, g); ``heavy``: theta' = theta - rate v'."""

    theta: Three
    buffer: Three
    rate: float
    heavy: bool


def motion_of(s: Mapping[str, Any], buffer: bool, gradient: bool) -> Motion:
    """The step of torch.optim.SGD with settings ``s`` for a parameter: has it a momentum buffer, and a gradient?"""
    if not gradient:
        return Motion((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 0.0, False)
    rate, decay, beta = float(s["lr"]), float(s["weight_decay"]), float(s["momentum"])
    v: Three = (0.0, 1.0, 0.0)
    u: Three = (decay, 0.0, 1.0)
    if beta:
        kept = 1 - float(s["dampening"]) if buffer else 1.0  # a new buffer is the gradient itself
        v = (kept * decay, beta if buffer else 0.0, kept)
        u = (decay + beta * v[0], beta * v[1], 1 + beta * v[2]) if s["nesterov"] else v
    return Motion((1 - rate * u[0], -rate * u[1], -rate * u[2]), v, rate, bool(beta) and not s["nesterov"])


@lru_cache(maxsize=256)
def _general(m: Motion) -> Tensor:
    """[3, 6]: (TT, VV, GG, TV, GT, GV) before a step to (TT, TV, VV) after it."""
    rows = []
    for p, q in ((m.theta, m.theta), (m.theta, m.buffer), (m.buffer, m.buffer)):
        rows.append([p[0] * q[0], p[1] * q[1], p[2] * q[2], p[0] * q[1] + p[1] * q[0], p[0] * q[2] + p[2] * q[0],
                     p[1] * q[2] + p[2] * q[1]])
    return torch.tensor(rows, dtype=torch.float64)


@lru_cache(maxsize=256)
def _along(m: Motion) -> Tensor:
    """[3, 4]: (TT, TV, GT) before a heavy step and WW = B(v', v') to (TT, TV, VV) after it, by TW = B(theta, v')."""
    tw = torch.tensor([m.buffer[0], m.buffer[1], m.buffer[2], 0.0], dtype=torch.float64)
    tt, ww = (torch.tensor([float(k == i) for k in range(4)], dtype=torch.float64) for i in (0, 3))
    return torch.stack([tt - 2 * m.rate * tw + m.rate**2 * ww, tw - m.rate * ww, ww])


@lru_cache(maxsize=256)
def _first(m: Motion) -> Tensor:
    """[2, 3]: (T, V, G) before a step to (T, V) after it."""
    return torch.tensor([m.theta, m.buffer], dtype=torch.float64)


@dataclass(frozen=True)
class Seen:
    """What a step is about to use: gradients and momentum buffers (zeros where there are none) and the motions, by name."""

    gradients: Tensors
    buffers: Tensors
    motions: Mapping[str, Motion]
    moving: bool  # some buffer is not zero


@dataclass(frozen=True)
class _Run:
    """Neighbouring laws whose largest parameters move alike, and what is known of their next values before the step."""

    laws: tuple[Law, ...]
    sizes: list[int]
    where: slice
    motion: Motion
    gradient: Tensor  # c(g); by symmetry zero where there is no quadratic part
    squares: tuple[Tensor, Tensor] | None  # B(g, g) and B(g, v), where they are needed
    others: Tensor  # [5, n]: what parameters in other groups do differently


class Ledger:
    """The forms of all laws, side by side: rows B(theta, theta), B(theta, v), B(v, v), c(theta), c(v)."""

    def __init__(self, laws: Sequence[Law]) -> None:
        self.laws = tuple(laws)
        self.forms: Tensor | None = None
        self.quadratic: Tensor | None = None
        self.sizes: list[int] = []
        self._runs: list[_Run] = []

    def start(self, state: Tensors, buffers: Tensors) -> None:
        """Take the forms from weights and buffers as they are: where a prediction begins."""
        q = [law.quadratic(state) for law in self.laws]
        tt = [law.bilinear(state, state, state) for law in self.laws]
        t = [law.linear(state, state) for law in self.laws]
        self.sizes = [max(len(a), len(b)) for a, b in zip(tt, t, strict=True)]
        tv = [law.bilinear(state, buffers, state) for law in self.laws]
        vv = [law.bilinear(buffers, buffers, state) for law in self.laws]
        v = [law.linear(buffers, state) for law in self.laws]
        self.forms = torch.stack([_flat(row, self.sizes) for row in (tt, tv, vv, t, v)])
        self.quadratic = _flat(q, self.sizes)

    def before(self, seen: Seen, state: Tensors) -> None:
        """Read what the coming step uses."""
        anchors = [max(law.pieces, key=lambda p: state[p.parameter].numel()).parameter for law in self.laws]
        self._runs, start = [], 0
        for motion, group in groupby(range(len(self.laws)), lambda i: seen.motions[anchors[i]]):
            indices = list(group)
            laws, sizes = tuple(self.laws[i] for i in indices), [self.sizes[i] for i in indices]
            where = slice(start, start + sum(sizes))
            start = where.stop
            self._runs.append(self._run(laws, sizes, where, motion, seen, state))

    def _run(self, laws: tuple[Law, ...], sizes: list[int], where: slice, motion: Motion, seen: Seen, state: Tensors) -> _Run:
        assert self.quadratic is not None
        g = seen.gradients
        cg = _flat([law.linear(g, state) if law.affine else law.zero(g) for law in laws], sizes)
        cg = torch.where(self.quadratic[where], cg, 0.0)
        squares = None
        if not motion.heavy:
            squares = _squares(laws, sizes, seen, state)
        others = [_others(law, motion, seen, state) for law in laws]
        rest = torch.cat([o.to(cg.device).expand(5, n) for o, n in zip(others, sizes, strict=True)], dim=1)
        return _Run(laws, sizes, where, motion, cg, squares, rest)

    def after(self, buffers: Tensors, state: Tensors) -> None:
        """The forms after the step; ``buffers`` are the new ones."""
        assert self.forms is not None
        forms = torch.empty_like(self.forms)
        for run in self._runs:
            tt, tv, vv, t, v = self.forms[:, run.where]
            # B(g, theta) = -c(g) is what the symmetry says
            if run.squares is None:
                ww = _flat([law.bilinear(buffers, buffers, state) for law in run.laws], run.sizes)
                second = _along(run.motion).to(tt.device) @ torch.stack([tt, tv, -run.gradient, ww])
            else:
                gg, gv = run.squares
                second = _general(run.motion).to(tt.device) @ torch.stack([tt, vv, gg, tv, -run.gradient, gv])
            first = _first(run.motion).to(tt.device) @ torch.stack([t, v, run.gradient])
            forms[:, run.where] = torch.cat([second, first]) + run.others
        self.forms, self._runs = forms, []

    def predicted(self) -> list[Tensor]:
        """Q of each law, flat."""
        assert self.forms is not None
        return list((self.forms[0] / 2 + self.forms[3]).split(self.sizes))

    def state_dict(self) -> dict[str, Any]:
        return {"forms": None if self.forms is None else self.forms.clone(), "sizes": list(self.sizes),
                "quadratic": None if self.quadratic is None else self.quadratic.clone()}

    def load_state_dict(self, saved: Mapping[str, Any], device: torch.device) -> None:
        self.sizes = list(saved["sizes"])
        self.forms, self.quadratic = (None if saved[k] is None else saved[k].clone().to(device) for k in ("forms", "quadratic"))


def _flat(rows: list[Tensor], sizes: list[int]) -> Tensor:
    """One row for all laws; a single zero stands for as many as the law has entries."""
    home = rows[0].device
    return torch.cat([r.to(home) if len(r) == n else r.to(home).expand(n) for r, n in zip(rows, sizes, strict=True)])


def _squares(laws: Sequence[Law], sizes: list[int], seen: Seen, state: Tensors) -> tuple[Tensor, Tensor]:
    """B(g, g) and B(g, v) of neighbouring laws, side by side."""
    if not seen.moving:
        gg = _flat([law.bilinear(seen.gradients, seen.gradients, state) for law in laws], sizes)
        return gg, torch.zeros_like(gg)
    pairs = [law.squares(seen.gradients, seen.buffers, state) for law in laws]
    return _flat([a for a, _ in pairs], sizes), _flat([b for _, b in pairs], sizes)


def _others(law: Law, anchor: Motion, seen: Seen, state: Tensors) -> Tensor:
    """[5, n] (or [5, 1] of zeros): the steps of parameters that move otherwise, minus what the anchor's step says of them."""
    total = torch.zeros(5, 1, dtype=torch.float64)
    for piece in law.pieces:
        motion = seen.motions[piece.parameter]
        if motion != anchor:
            second, first = _own(piece, seen, state)
            true = _general(motion).to(second.device) @ second
            claimed = _general(anchor).to(second.device) @ second
            if anchor.heavy:
                claimed = _along(anchor).to(second.device) @ torch.stack([second[0], second[3], second[4], true[2]])
            linear = (_first(motion) - _first(anchor)).to(first.device) @ first
            n = max(second.shape[1], first.shape[1])
            total = total.to(second.device) + torch.cat([(true - claimed).expand(3, n), linear.expand(2, n)])
    return total


def _own(piece: Piece, seen: Seen, state: Tensors) -> tuple[Tensor, Tensor]:
    """(TT, VV, GG, TV, GT, GV) and (T, V, G) of one parameter, measured."""
    t, v, g = (values[piece.parameter] for values in (state, seen.buffers, seen.gradients))
    zero = torch.zeros(1, dtype=torch.float64, device=t.device)
    b, c = piece.bilinear, piece.linear
    second = [b(x, y, state).double() if b else zero for x, y in ((t, t), (v, v), (g, g), (t, v), (g, t), (g, v))]
    first = [c(x, x, state).double() if c else zero for x in (t, v, g)]
    return torch.stack(second), torch.stack(first)
