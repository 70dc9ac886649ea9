"""One conserved quantity through steps of SGD: its forms predicted from the gradients alone.

Every quantity of at most second degree is Q(theta) = 1/2 B(theta, theta) + c(theta), and a symmetry says
B(g, theta) + c(g) = 0 for every correct gradient. Steps of SGD are linear in theta, g and the momentum buffer v, so
B(theta, theta), B(theta, v), B(v, v), c(theta) and c(v) after a step follow from those before it, from B(g, g), B(g, v)
and c(g): no differential equation and no small step is assumed (arXiv:2012.04728 gives the limit of small steps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symdisc.conserved import ConservedQuantity
from symdisc.conserved.algebra import project
from symdisc.conserved.linear import pairings
from symdisc.conserved.pairing import pairing

__all__ = ["Law", "moved_by", "norm"]

Tensors = Mapping[str, Tensor]


@dataclass
class Law:
    """One symmetry under watch: its bilinear form B and linear form c, and their values as predicted."""

    quantity: ConservedQuantity
    predicts: bool
    label: str
    forms: dict[str, Tensor] = field(default_factory=dict)
    quadratic: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def moved(self) -> tuple[str, ...]:
        return moved_by(self.quantity)

    @property
    def homogeneous(self) -> bool:
        """No translation in it: c = 0, and need not be computed."""
        if self.quantity.form == "linear":
            return all(p.axis >= 0 for g in self.quantity.generators for p in g.parts)
        return all(t.move.kind in ("matmul", "scale") for t in self.quantity.terms)

    @property
    def additive(self) -> bool:
        """Nothing but translations: B = 0."""
        if self.quantity.form == "linear":
            return all(p.axis < 0 for g in self.quantity.generators for p in g.parts)
        return all(t.move.kind in ("add", "outer", "outer_bias") for t in self.quantity.terms)

    # --- the two forms ------------------------------------------------------------------------------------------------
    def moment(self, x: Tensors, y: Tensors, state: Tensors) -> Tensor:
        """<x, X_a(y)> over the part of the algebra that has a Q; affine in y."""
        q = self.quantity
        if q.form == "linear":
            return torch.as_tensor(pairings(q.generators, y, x)).double()
        total = sum(pairing(t.move, x[n], y[n], state, q.symmetry.shape) * t.weight
                    for t in q.terms for n in [t.move.parameter])
        return torch.as_tensor(project(q.part, total, q.zero_sum)).double()

    def linear(self, x: Tensors, state: Tensors) -> Tensor:
        """c(x)."""
        if self.homogeneous:
            return torch.zeros((), dtype=torch.float64, device=next(iter(x.values())).device)
        return self.moment(x, {n: t * 0 for n, t in x.items()}, state)

    def bilinear(self, x: Tensors, y: Tensors, state: Tensors) -> Tensor:
        """B(x, y)."""
        if self.additive:
            return torch.zeros((), dtype=torch.float64, device=next(iter(x.values())).device)
        if self.homogeneous:
            return self.moment(x, y, state)
        return self.moment(x, y, state) - self.linear(x, state)

    def start(self, state: Tensors, buffers: Tensors | None) -> None:
        """Take the forms from the weights (and momentum buffers) as they are: where a prediction begins."""
        theta = {n: state[n] for n in self.moved}
        self.forms = {"tt": self.bilinear(theta, theta, state), "t": self.linear(theta, state)}
        if buffers is not None:
            self.forms |= {"tv": self.bilinear(theta, buffers, state), "vv": self.bilinear(buffers, buffers, state),
                           "v": self.linear(buffers, state)}
        # two parameters of one shape must not cancel in the probe
        draw = torch.Generator().manual_seed(11)
        probe = {n: torch.randn(t.shape, dtype=torch.float64, generator=draw).to(t) for n, t in theta.items()}
        self.quadratic = self.bilinear(probe, probe, state) != 0

    # --- one step of SGD ----------------------------------------------------------------------------------------------
    def advance(self, g: Tensors, buffers: Tensors | None, state: Tensors, s: Mapping[str, Any]) -> None:
        """The forms after a step with gradients ``g``, from those before it and B(g, g), B(g, v), c(g)."""
        f, rate, decay = self.forms, float(s["lr"]), float(s["weight_decay"])
        beta, kept = float(s["momentum"]), 1 - float(s["dampening"])
        # B(g, theta) = -c(g) is what the symmetry says; where there is no quadratic part it says c(g) = 0
        cg = torch.where(self.quadratic, self.linear(g, state), 0.0) if bool(self.quadratic.any()) else 0.0 * f["t"]
        gg = self.bilinear(g, g, state)
        td = -cg + decay * f["tt"]
        dd = gg - 2 * decay * cg + decay**2 * f["tt"]
        d = cg + decay * f["t"]
        if not beta:
            tu, uu, u = td, dd, d
        else:
            if buffers is None:
                tv, vv, v, dv = td, dd, d, dd
            else:
                dv0 = self.bilinear(g, buffers, state) + decay * f["tv"]
                tv, v = beta * f["tv"] + kept * td, beta * f["v"] + kept * d
                vv = beta**2 * f["vv"] + 2 * beta * kept * dv0 + kept**2 * dd
                dv = beta * dv0 + kept * dd
            tu, uu, u, uv = tv, vv, v, vv
            if s["nesterov"]:
                tu, u = td + beta * tv, d + beta * v
                uu, uv = dd + 2 * beta * dv + beta**2 * vv, dv + beta * vv
            f |= {"tv": tv - rate * uv, "vv": vv, "v": v}
        f["tt"], f["t"] = f["tt"] - 2 * rate * tu + rate**2 * uu, f["t"] - rate * u

    def predicted(self) -> Tensor:
        """Q from the forms."""
        return self.forms["tt"] / 2 + self.forms["t"]

    # --- orthogonality ------------------------------------------------------------------------------------------------
    def size(self, state: Tensors) -> float:
        """What Q is a difference of: the scale of its round-off."""
        length = max(float(norm([state[n] for n in self.moved])), 1e-3)
        return length**2 / 2 if bool(self.quadratic.any()) else length

    def orthogonality(self, g: Tensors, state: Tensors) -> tuple[float, float]:
        """Cosine between gradient and generator, of the element a that the gradient sees most; and its <g, X_a> / |X_a|."""
        leaves = {n: t.detach().requires_grad_() for n, t in g.items()}
        with torch.enable_grad():
            seen = self.quantity.residual(state, leaves)
            a = seen.detach() / seen.detach().norm().clamp_min(torch.finfo(seen.dtype).tiny)
            if not float(a.norm()):
                return 0.0, 0.0
            field_ = torch.autograd.grad((seen * a).sum(), list(leaves.values()), allow_unused=True)
        length = float(norm([t for t in field_ if t is not None]))
        pull = float(seen.detach().norm()) / length if length else 0.0
        if not math.isfinite(pull):
            return math.inf, math.inf
        size = float(norm(list(g.values())))
        return (pull / size if size else 0.0), pull


def moved_by(q: ConservedQuantity) -> tuple[str, ...]:
    """Parameters and buffers that the symmetry moves (not those that it only reads)."""
    s = q.symmetry
    return tuple(dict.fromkeys([*(m.parameter for m in s.moves), *(n for g in s.generators for n in g.parameters)]))


def norm(tensors: list[Tensor]) -> Tensor:
    """Length of all tensors together, in float64."""
    return torch.stack([torch.linalg.vector_norm(t.detach(), dtype=torch.float64) for t in tensors]).norm() if tensors else torch.zeros(())
