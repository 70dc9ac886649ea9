"""Experts, graphs, edges with a basis, factorised and generated weights, and other structures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, Fn, add, floats, mlp, network, several


class Experts(nn.Module):
    """Mixture of experts with a dense gate, experts as stacked tensors or as modules."""

    def __init__(self, gate: str, act: Callable[[Tensor], Tensor], shared: bool = False, n: int = 3) -> None:
        super().__init__()
        self.router, self.gate, self.act = nn.Linear(4, n), gate, act
        self.up, self.down = nn.Parameter(0.4 * torch.randn(n, 3, 4)), nn.Parameter(0.4 * torch.randn(n, 5, 3))
        self.shared = nn.Linear(4, 5) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        w = self.router(x)
        w = w.softmax(-1) if self.gate == "softmax" else torch.sigmoid(w)
        if self.gate == "normalised":
            w = w / w.sum(-1, keepdim=True)
        h = self.act(torch.einsum("efd,bd->bef", self.up, x))
        y = torch.einsum("edf,bef,be->bd", self.down, h, w)
        return y if self.shared is None else y + self.shared(x)


add("moe_softmax_gelu", lambda: (Experts("softmax", F.gelu), floats(4)), 5, "common logit 4 + 1")
add("moe_softmax_relu", lambda: (Experts("softmax", F.relu), floats(4)), 5 + 9, "common logit; scales per expert")
add("moe_sigmoid_relu", lambda: (Experts("sigmoid", F.relu), floats(4)), 9, "scales only")
add("moe_normalised_tanh", lambda: (Experts("normalised", torch.tanh), floats(4)), 0,
    "sigmoids over their sum: nothing")  # fmt: skip
add("moe_shared_linear", lambda: (Experts("softmax", lambda h: h, shared=True), floats(4)), 46,
    "common logit 5; gl(3) per expert 27; a common linear map that each rank 3 expert can carry, 20 "
    "- 3 * 2, against the shared path")


class ExpertModules(nn.Module):
    """Experts as a module list of MLPs, gate softmax, stacked outputs."""

    def __init__(self, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.router = nn.Linear(4, 2, bias=False)
        self.experts = nn.ModuleList(mlp((4, 3, 5), act) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        w = self.router(x).softmax(-1)
        return sum(w[..., i : i + 1] * e(x) for i, e in enumerate(self.experts))


add("moe_modules_relu", lambda: (ExpertModules(nn.ReLU), floats(4)), 4 + 6, "common logit; scales")
add("moe_modules_tanh", lambda: (ExpertModules(nn.Tanh), floats(4)), 4, "common logit")

ADJACENCY = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 0]]).float()


class Graph(nn.Module):
    """Message passing over a fixed graph: act(A h W + h V) twice, then a read-out."""

    def __init__(self, kind: str, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kind, self.act = kind, act
        self.self1, self.nb1 = nn.Linear(3, 4), nn.Linear(3, 4, bias=False)
        self.self2, self.nb2 = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
        self.head = nn.Linear(3, 4)
        a = ADJACENCY + torch.eye(5) if kind == "gcn" else ADJACENCY
        self.register_buffer("A", a / a.sum(1, keepdim=True) if kind in ("gcn", "mean") else a)

    def layer(self, h: Tensor, own: nn.Linear, nb: nn.Linear) -> Tensor:
        around = self.A.to(h.dtype) @ nb(h)
        return self.act(around if self.kind == "gcn" else around + own(h))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(self.layer(x, self.self1, self.nb1), self.self2, self.nb2)
        return self.head(h.mean(1) if self.kind == "pool" else h)


add("gnn_sum_relu", lambda: (Graph("sum", F.relu), floats(5, 3)), 7, "scales")
add("gnn_mean_tanh", lambda: (Graph("mean", torch.tanh), floats(5, 3)), 0, "nothing")
add("gnn_gcn_relu", lambda: (Graph("gcn", F.relu), floats(5, 3)), 7 + 16 + 15,
    "scales; the own-node layers are unused 31")  # fmt: skip
add("gnn_pool_relu", lambda: (Graph("pool", F.relu), floats(5, 3)), 7, "scales")
add("gnn_linear", lambda: (Graph("sum", lambda h: h), floats(5, 3)), 34, "no activation: 71 parameters, 37 seen")


class EdgeAttention(nn.Module):
    """GAT: scores leaky(a_src . Wh_i + a_dst . Wh_j), softmax over neighbours."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.w, self.src, self.dst = (
            nn.Linear(3, 4, bias=bias), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        )
        self.head = nn.Linear(4, 5)
        self.register_buffer("hole", torch.where(ADJACENCY + torch.eye(5) > 0, 0.0, -1e9))

    def forward(self, x: Tensor) -> Tensor:
        h = self.w(x)
        scores = F.leaky_relu((h @ self.src)[:, :, None] + (h @ self.dst)[:, None, :], 0.2) + self.hole.to(h.dtype)
        return self.head(scores.softmax(-1) @ h)


add("gat", lambda: (EdgeAttention(False), floats(5, 3)), 19, "45 parameters; seen 15 + 5 of values, 3 + 3 of scores")
add("gat_bias", lambda: (EdgeAttention(True), floats(5, 3)), 22, "as gat; of the bias the scores see one number")


@network("gnn_edges", 5 + 4 + 9, "scales of the edge network 5 and of the node network 4; gl(3) of the summed messages")
def _edges() -> Built:
    class Edges(nn.Module):
        """Messages from both ends by an MLP, summed by index_add."""

        def __init__(self) -> None:
            super().__init__()
            self.message, self.update = mlp((6, 5, 3), nn.ReLU), mlp((6, 4, 3), nn.ReLU)
            src, dst = ADJACENCY.nonzero(as_tuple=True)
            self.register_buffer("src", src)
            self.register_buffer("dst", dst)

        def forward(self, x: Tensor) -> Tensor:
            m = self.message(torch.cat([x[:, self.src], x[:, self.dst]], -1))
            total = torch.zeros_like(x[..., :3]).index_add(1, self.dst, m)
            return self.update(torch.cat([x, total], -1))

    return Edges(), floats(5, 3)


class Kan(nn.Module):
    """Edges as sums over a fixed basis of functions of one input; nodes add."""

    def __init__(self, sizes: tuple[int, ...], basis: str) -> None:
        super().__init__()
        self.basis = basis
        count = {"gauss": 4, "poly": 3, "hat": 4, "fourier": 4}[basis]
        self.layers = nn.ParameterList(0.5 * torch.randn(n, m, count) for m, n in pairwise(sizes))

    def expand(self, x: Tensor) -> Tensor:
        if self.basis == "poly":
            return torch.stack([torch.ones_like(x), x, x * x], -1)
        if self.basis == "fourier":
            return torch.stack([x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos()], -1)
        centres = torch.linspace(-1.5, 1.5, 4, dtype=x.dtype)
        z = x[..., None] - centres
        return torch.exp(-2 * z**2) if self.basis == "gauss" else (1 - z.abs()).clamp_min(0)

    def forward(self, x: Tensor) -> Tensor:
        for c in self.layers:
            x = torch.einsum("oik,...ik->...o", c, self.expand(x))
        return x


add("kan_gauss", lambda: (Kan((2, 3, 2), "gauss"), floats(2)), 0, "the basis is not closed under shifts")
add("kan_poly", lambda: (Kan((2, 3, 3), "poly"), floats(2, spread=0.3)), 15,
    "constants of edges add, 3 + 6; the basis is closed under affine maps, 3 + 3")  # fmt: skip
add("kan_hat", lambda: (Kan((2, 3, 2), "hat"), floats(2, spread=1.0)), 0, "hats add up to one only inside")
add("kan_fourier", lambda: (Kan((2, 3, 2), "fourier"), floats(2)), 0, "a constant cannot be written by this basis")


class Factors(nn.Module):
    """A matrix given by factors: product, Kronecker product, three-way CP, tensor train."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        shapes = {"product": ((5, 2), (2, 6)), "kron": ((2, 2), (3, 3)), "cp": ((2, 3), (3, 3), (6, 3)), "train": ((2,
        2), (2, 3, 2), (2, 6)),
                  "hadamard": ((5, 6), (5, 6)), "circulant": ((6,),), "antisymmetric": ((6, 6),), "symmetric": ((6,
                  6),)}[kind]  # fmt: skip
        self.f = nn.ParameterList(0.7 * torch.randn(s) for s in shapes)
        self.head = nn.Linear(6 if kind in ("kron", "cp", "train", "circulant", "antisymmetric", "symmetric") else 5, 4)

    def matrix(self) -> Tensor:
        f = list(self.f)
        if self.kind == "product":
            return f[0] @ f[1]
        if self.kind == "kron":
            return torch.kron(f[0], f[1])
        if self.kind == "cp":
            return torch.einsum("ar,br,cr->abc", *f).reshape(6, 6)
        if self.kind == "train":
            return torch.einsum("ar,rbs,sc->abc", *f).reshape(6, 6)
        if self.kind == "hadamard":
            return f[0] * f[1]
        if self.kind == "circulant":
            return torch.stack([f[0].roll(i) for i in range(6)])
        return f[0] - f[0].t() if self.kind == "antisymmetric" else f[0] @ f[0].t()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x @ self.matrix().t()))


for _kind, _dim, _why in (
    ("product", 4, "gl(2)"), ("kron", 1, "one factor"), ("cp", 6, "two per component"), ("train", 8, "gl(2) twice"),
    ("hadamard", 30, "entry by entry"), ("circulant", 0, "nothing"), ("antisymmetric", 21, "the symmetric part"),
    ("symmetric", 15, "so(6) on the right"),
):  # fmt: skip
    add(f"factors_{_kind}", lambda k=_kind: (Factors(k), floats(6)), _dim, _why)


class Hyper(nn.Module):
    """A network whose weights another network writes from a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.coder, self.write = nn.Linear(2, 3), nn.Linear(3, 4 * 3 + 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        w = self.write(torch.tanh(self.coder(z)))
        weight, bias = w[:, :12].view(-1, 4, 3), w[:, 12:]
        return self.head(F.relu(torch.einsum("boi,bi->bo", weight, x) + bias))


add("hyper", lambda: (Hyper(), several((3,), (2,))), 4, "relu scales lifted to the rows of the writer")


class Film(nn.Module):
    """Features scaled and shifted by a second input."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.gain, self.shift, self.head, self.act = (
            nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 5), act
        )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.head(self.act(self.a(x) * (1 + self.gain(z)) + self.shift(z)))


add("film_relu", lambda: (Film(F.relu), several((3,), (2,))), 8 + 4,
    "scales 4; gain (with its 1) against features 4; bias against shift 4")  # fmt: skip
add("film_tanh", lambda: (Film(torch.tanh), several((3,), (2,))), 8,
    "gain (with its 1) against features 4; bias against shift 4")  # fmt: skip


class Operator(nn.Module):
    """DeepONet: dot product of a branch and a trunk, plus a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk, self.bias = (
            mlp((4, 5, 3), nn.Tanh), mlp((2, 5, 3), nn.Tanh), nn.Parameter(torch.zeros(1))
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.branch(x) @ self.trunk(y).t() + self.bias


add("deeponet", lambda: (Operator(), several((4,), (2,), batch=5)), 9, "gl(3)")


class Pairs(nn.Module):
    """Matrix factorisation with user and item biases."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(6, 2), nn.Embedding(5, 2)
        self.bu, self.bi, self.c = (nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(5)),
        nn.Parameter(torch.zeros(()))) if bias else (None,) * 3

    def forward(self, u: Tensor, i: Tensor) -> Tensor:
        y = (self.user(u) * self.item(i)).sum(-1)
        return y if self.bu is None else y + self.bu[u] + self.bi[i] + self.c


def pair_tokens(seed: int) -> tuple[Tensor, ...]:
    """Users and items, [7] each."""
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(0, 6, (7,), generator=gen), torch.randint(0, 5, (7,), generator=gen)


add("matrix_factors", lambda: (Pairs(False), pair_tokens), 4, "gl(2)")
add("matrix_factors_bias", lambda: (Pairs(True), pair_tokens), 4 + 4 + 2,
    "gl(2); shifts of either side into the other's biases 4; constants 2")  # fmt: skip


class Rbf(nn.Module):
    """Gaussian units with learned centres and widths."""

    def __init__(self) -> None:
        super().__init__()
        self.centre, self.width, self.head = (
            nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.ones(5)), nn.Linear(5, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        d = (x[:, None] - self.centre).square().sum(-1)
        return self.head(torch.exp(-d * self.width**2))


add("rbf", lambda: (Rbf(), floats(3, spread=0.2)), 0, "only signs of the widths")


class DeepSet(nn.Module):
    """Pooled per-element features."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.inner, self.outer, self.pool = mlp((3, 5, 4), nn.ReLU), mlp((4, 5, 3), nn.ReLU), pool

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return self.outer(h.mean(1) if self.pool == "mean" else h.amax(1) if self.pool == "max" else h.logsumexp(1))


add("deep_set_mean", lambda: (DeepSet("mean"), floats(4, 3)), 5 + 16 + 4 + 5,
    "scales 10; gl(4) and translations 4 through the mean")  # fmt: skip
add("deep_set_max", lambda: (DeepSet("max"), floats(4, 3)), 5 + 8 + 5,
    "scales 10; max commutes with scale and shift per channel 8")  # fmt: skip
add("deep_set_lse", lambda: (DeepSet("lse"), floats(4, 3)), 5 + 4 + 5, "scales 10; log-sum-exp commutes with shifts 4")


class Coupling(nn.Module):
    """Affine coupling layers of a normalising flow, halves exchanged between."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp((2, 4, 4), nn.Tanh) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, -1)
        logdet = 0.0
        for net in self.nets:
            s, t = net(a).chunk(2, -1)
            a, b = b * s.exp() + t, a
            logdet = logdet + s.sum(-1)
        return torch.cat([a, b], -1), logdet


add("coupling_flow", lambda: (Coupling(), floats(4, spread=0.3)), 0, "two outputs: the flow and its log-determinant")


class Complex(nn.Module):
    """Complex linear layers stored as real and imaginary parts, modulus activation."""

    def __init__(self) -> None:
        super().__init__()
        self.re, self.im, self.head = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sqrt(self.re(x) ** 2 + self.im(x) ** 2))


add("complex_modulus", lambda: (Complex(), floats(4)), 6, "a phase and a scale per unit")
add("product_units", lambda: (nn.Sequential(nn.Linear(4, 6), Fn(lambda h: h[..., :3] * h[..., 3:]), nn.Linear(3, 5)),
    floats(4)), 6, "two factors each")  # fmt: skip
add("log_sum_exp", lambda: (nn.Sequential(nn.Linear(3, 6), Fn(lambda h: h.unflatten(-1, (3, 2)).logsumexp(-1)),
    nn.Linear(3, 4)), floats(3)), 3,
    "a shift per pair")  # fmt: skip
add("quadratic_form", lambda: (nn.Sequential(nn.Linear(4, 3, bias=False), Fn(lambda h: h.square().sum(-1,
    keepdim=True))), floats(4)), 3, "so(3)")  # fmt: skip
add("cross_product", lambda: (nn.Sequential(nn.Linear(4, 6, bias=False), Fn(lambda h: torch.linalg.cross(h[..., :3],
    h[..., 3:])), nn.Linear(3, 4)),
    floats(4)), 12, "gl(3) on both factors, gl(2) between them, one overlap")  # fmt: skip


class Tapped(nn.Module):
    """A gated block with both halves in one matrix; with a residual, the head, narrower than the stream, reads the sum."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.enter, self.up, self.down, self.leave = nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(4, 6), nn.Linear(6, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x) if self.residual else torch.tanh(self.enter(x))
        gate, value = self.up(h).chunk(2, -1)
        y = self.down(torch.relu(gate) * value)
        return self.leave(h + y if self.residual else y)


add("glu_relu_fused", lambda: (Tapped(False), floats(5)), 44, "gates 8; 4 -> 6 -> 3 linear has 36 too many")
add("glu_relu_fused_residual", lambda: (Tapped(True), floats(5)), None, "the head sees three directions of the sum, the gates all")
