"""Layers as people write them by hand: gates, distances, generated weights, shared scores, norms of one's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, floats, network, several, tokens
from .strangers import Of, parameter


@network("hunted_euclidean_prototypes", 10, "relu units 4; translations 3 and rotations 3 of the space of distances")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        return -torch.cdist(m.b(F.relu(m.a(x))), m.p)

    return Of(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 3), p=parameter(4, 3)), floats(3)


@network("hunted_bumps_at_prototypes", 4, "translations 2, rotation 1, scale against the widths 1")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        return m.o(torch.exp(-m.width.exp() * torch.cdist(m.a(x), m.p).square()))

    return Of(forward, a=nn.Linear(3, 2), p=parameter(4, 2), width=parameter(4), o=nn.Linear(4, 2)), floats(3)


@network("hunted_gates_between_skip_and_layer")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h, t = m.i(x), torch.sigmoid(m.g)
        return m.o(t * F.relu(m.a(h)) + (1 - t) * h)

    return Of(forward, i=nn.Linear(3, 4), a=nn.Linear(4, 4), g=parameter(1), o=nn.Linear(4, 2)), floats(3)


@network("hunted_scores_with_places", 16, "q, k gl(2) per head with the place vectors; v, o gl(2) per head")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 2)) for f in (m.q, m.k, m.v))
        i = torch.arange(3)
        places = m.r(torch.sin(torch.arange(20.0, dtype=x.dtype).view(5, 4) ** 1.5)).unflatten(-1, (2, 2))[i[:, None] - i + 2]
        content = torch.einsum("bihd,bjhd->bhij", q + m.u, k)
        position = torch.einsum("bihd,ijhd->bhij", q + m.w, places)
        return m.o(torch.einsum("bhij,bjhd->bihd", (content + position).softmax(-1), v).flatten(2))

    maps = {n: nn.Linear(4, 4, bias=False) for n in "qkvro"}
    return Of(forward, **maps, u=parameter(2, 2), w=parameter(2, 2)), floats(3, 4)


@network("hunted_difference_of_attentions", 14)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        (a, b), (c, d) = m.q(x).chunk(2, -1), m.k(x).chunk(2, -1)
        weights = (a @ c.mT).softmax(-1) - m.share * (b @ d.mT).softmax(-1)
        return m.o(m.norm(weights @ m.v(x)))

    maps = {"q": nn.Linear(4, 4, bias=False), "k": nn.Linear(4, 4, bias=False), "v": nn.Linear(4, 3, bias=False)}
    return Of(forward, **maps, share=parameter(1), norm=nn.RMSNorm(3, eps=1e-6), o=nn.Linear(3, 4, bias=False)), floats(3, 4)


@network("hunted_cosine_scores_with_offsets", 29)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        bias = torch.cat((m.qb, torch.zeros_like(m.qb), m.vb))
        q, k, v = F.linear(x, m.qkv, bias).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * m.size.clamp(max=4.6).exp() + m.offsets
        return x + m.norm(m.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))

    tensors = {"qkv": parameter(12, 4), "qb": parameter(4), "vb": parameter(4), "size": parameter(2, 1, 1), "offsets": parameter(2, 3, 3)}
    return Of(forward, **tensors, o=nn.Linear(4, 4), norm=nn.LayerNorm(4)), floats(3, 4)


@network("hunted_generated_weights", 3, "one scale for each hidden unit of the net that is generated")
def _() -> Built:
    def forward(m: Of, x: Tensor, c: Tensor) -> Tensor:
        z = torch.tanh(m.h(c))
        first, second = m.w1(z).unflatten(-1, (3, 3)), m.w2(z).unflatten(-1, (2, 3))
        return (second @ F.relu(first @ x[..., None]))[..., 0]

    return Of(forward, h=nn.Linear(2, 3), w1=nn.Linear(3, 9), w2=nn.Linear(3, 6)), several((3,), (2,))


@network("hunted_masked_by_sigmoids", 16, "each entry trades its two factors 12, relu units 4")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        return m.o(F.relu(F.linear(x, m.w * torch.sigmoid(m.m))))

    return Of(forward, w=parameter(4, 3), m=parameter(4, 3), o=nn.Linear(4, 2)), floats(3)


@network("hunted_positive_weights", 0, "softplus of a weight lets no scale through")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        return F.linear(F.softplus(F.linear(x, F.softplus(m.a), m.c)), F.softplus(m.b))

    return Of(forward, a=parameter(4, 3), c=parameter(4), b=parameter(2, 4)), floats(3)


@network("hunted_learned_parabolas", 12, "affine maps of each input 6, of each value 6")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.o(m.p + m.q * h + m.r * h * h)

    return Of(forward, a=nn.Linear(3, 3), p=parameter(3), q=parameter(3), r=parameter(3), o=nn.Linear(3, 2)), floats(3)


@network("hunted_quaternions", 1)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        r, i, j, k = m.q.unbind(0)
        rows = ((r, -i, -j, -k), (i, r, -k, j), (j, k, r, -i), (k, -j, i, r))
        return m.o(F.relu(F.linear(x, torch.cat([torch.cat(row, 1) for row in rows]), m.b)))

    return Of(forward, q=parameter(4, 1, 1), b=parameter(4), o=nn.Linear(4, 2)), floats(4)


@network("hunted_capsules", 6)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        u, b = torch.einsum("bi,ijd->bijd", x, m.w), x.new_zeros(len(x), 3, 2)
        for _ in range(2):
            v = (b.softmax(2)[..., None] * u).sum(1)
            n = v.square().sum(-1, keepdim=True)
            v = v * n / (1 + n) / (n + 1e-8).sqrt()
            b = b + (u * v[:, None]).sum(-1)
        return v.square().sum(-1).sqrt()

    return Of(forward, w=parameter(3, 2, 3)), floats(3)


@network("hunted_crossed_features", 5)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        y = x
        for w, b in ((m.w1, m.b1), (m.w2, m.b2)):
            y = x * (y @ w)[:, None] + b + y
        return m.o(y)

    return Of(forward, w1=parameter(3), b1=parameter(3), w2=parameter(3), b2=parameter(3), o=nn.Linear(3, 1)), floats(3)


@network("hunted_relations_tied_both_ends", 3, "entities scale twice, relations once")
def _() -> Built:
    def forward(m: Of, t: Tensor) -> Tensor:
        return m.e(t[:, 0]) * m.r(t[:, 1]) @ m.e.weight.mT

    return Of(forward, e=nn.Embedding(5, 3), r=nn.Embedding(5, 3)), tokens(5, 2)


@network("hunted_one_less_degree_of_freedom", 9, "relu units 4; mean of the rows 3 and of the biases 1, scale of what is normed 1")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.o(F.relu((h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True) * m.g + m.b))

    return Of(forward, a=nn.Linear(3, 4), g=parameter(4), b=parameter(4), o=nn.Linear(4, 2)), floats(3)


@network("hunted_spectral_mixing", 51)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = m.p(x)
        z = torch.fft.rfft(h, dim=1)[:, :3]
        z = torch.fft.irfft(torch.einsum("bkc,kcd->bkd", z, torch.view_as_complex(m.w)), n=6, dim=1)
        return m.q(F.gelu(z + m.l(h)))

    return Of(forward, p=nn.Linear(1, 3), w=parameter(3, 3, 3, 2), l=nn.Linear(3, 3), q=nn.Linear(3, 1)), floats(6, 1)


@network("hunted_funnel", 4)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.o(torch.maximum(h, m.d(h)).mean((2, 3)))

    return Of(forward, a=nn.Conv2d(1, 3, 1), d=nn.Conv2d(3, 3, 3, padding=1, groups=3), o=nn.Linear(3, 2)), floats(1, 3, 3)


@network("hunted_kernels_mixed_by_attention", 6)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        kernels = torch.einsum("be,eoik->boik", m.r(x.mean(-1)).softmax(-1), m.w)
        return m.o(F.relu(torch.einsum("bitk,boik->bot", x.unfold(-1, 2, 1), kernels)).mean(-1))

    return Of(forward, r=nn.Linear(2, 3), w=parameter(3, 3, 2, 2), o=nn.Linear(3, 2)), floats(2, 5)


@network("hunted_both_sides_of_a_sigmoid", 10, "heads of s and of 1 - s trade 8, their biases 2")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = torch.sigmoid(m.a(x))
        return m.b(h) + m.c(1 - h)

    return Of(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(4, 2)), floats(3)


@network("hunted_learned_fractions", 2, "numerator against the map that reads it; argument against its coefficients")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.o((m.p[0] + m.p[1] * h + m.p[2] * h * h) / (1 + (m.q[0] * h + m.q[1] * h * h).abs()))

    return Of(forward, a=nn.Linear(2, 3), p=parameter(3), q=parameter(2), o=nn.Linear(3, 2)), floats(2)


def _table(norm: nn.Module, between: Callable[[Of, Tensor], Tensor] | None = None, words: int = 5, **more: nn.Module) -> Built:
    """Words through a table and a norm, then a function that sees every number of the result."""

    def forward(m: Of, i: Tensor) -> Tensor:
        x = m.n(m.e(i)) if between is None else between(m, i)
        return m.o(torch.tanh(x.cumsum(1) + torch.sin(x)))

    return Of(forward, e=nn.Embedding(words, 3), n=norm, o=nn.Linear(3, 4), **more), tokens(words, 4)


@network("hunted_table_behind_layer_norm", 8, "means of rows 5; gain's scale 1 and shifts 2 that the rows make up for")
def _() -> Built:
    return _table(nn.LayerNorm(3))


@network("hunted_table_behind_rms_norm", 3, "gains that the rows make up for 3")
def _() -> Built:
    return _table(nn.RMSNorm(3, eps=1e-5))


@network("hunted_table_behind_rms_norm_without_eps", 5, "lengths of rows 5, and nothing else: they lie on a sphere")
def _() -> Built:
    return _table(nn.RMSNorm(3, eps=0.0))


@network("hunted_table_and_places_behind_layer_norm", 11, "means of words 5 and places 4, words against places 2; the gain stays")
def _() -> Built:
    return _table(nn.LayerNorm(3), lambda m, i: m.n(m.e(i) + m.p(torch.arange(4))), p=nn.Embedding(4, 3))


@network("hunted_table_beside_its_norm", 6, "gain and shift 6: rows e with any norm(e) + e make up for them, in no closed form")
def _() -> Built:
    return _table(nn.LayerNorm(3), lambda m, i: m.n(m.e(i)) + m.e(i))


@network("hunted_table_behind_layer_norm_and_stream", 36, "2 d - 1 of the table; means and readers as in any stream of centring norms")
def _() -> Built:
    def forward(m: Of, i: Tensor) -> Tensor:
        x = m.n(m.e(i))
        return m.o(m.m(x + m.b(torch.tanh(m.a(m.l(x)).cumsum(1)))))

    norms = {k: nn.LayerNorm(3) for k in "nlm"}
    return Of(forward, e=nn.Embedding(5, 3), **norms, a=nn.Linear(3, 4), b=nn.Linear(4, 3), o=nn.Linear(3, 3)), tokens(5, 4)
