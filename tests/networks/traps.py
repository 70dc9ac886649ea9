"""Places where lists of rules go wrong: products of a thing with itself, masks, unused and shared parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .base import Fn, add, floats, mlp, network, several, tokens


def two_layers(fn: Callable[[Tensor], Tensor], m: int = 4, h: int = 4, n: int = 6, bias: bool = True) -> tuple:
    """b(fn(a(x)))."""
    return nn.Sequential(nn.Linear(m, h, bias), Fn(fn), nn.Linear(h, n, bias)), floats(m)


add("trap_h_times_h", lambda: two_layers(lambda h: h * h), 4, "degree two: c and c^-2, not two free factors")
add("trap_h_times_relu", lambda: two_layers(lambda h: h * F.relu(h)), 4, "degree two, positive scales only")
add("trap_h_times_sigmoid", lambda: two_layers(lambda h: h * torch.sigmoid(h)), 0, "silu written out")
add("trap_h_times_rolled", lambda: two_layers(lambda h: h * h.roll(1, -1)), 8, "(h1, h3) times (h2, h4): gl(2) twice")
add("trap_h_minus_mean", lambda: two_layers(lambda h: torch.tanh(h - h.mean(-1, keepdim=True))), 5,
    "mean of the writers: 4 + 1")  # fmt: skip
add("trap_h_over_norm", lambda: two_layers(lambda h: h / h.norm(dim=-1, keepdim=True)), 7, "so(4) and scale")
add("trap_h_over_sum", lambda: two_layers(lambda h: h.exp() / h.exp().sum(-1, keepdim=True)), 11,
    "softmax written out: 5 + 6")  # fmt: skip
add("trap_relu_plus_linear", lambda: two_layers(lambda h: F.relu(h) + 0.5 * h), 4, "a leaky relu in disguise")
add("trap_tanh_plus_linear", lambda: two_layers(lambda h: torch.tanh(h) + h), 0, "nothing")
add("trap_flip", lambda: two_layers(lambda h: F.relu(h).flip(-1)), 4, "scales through a reversal")
add("trap_sort", lambda: two_layers(lambda h: h.sort(-1).values), 3, "common scale and shift, and the sum added to all")
add("trap_max", lambda: two_layers(lambda h: h.cummax(-1).values), 3,
    "common scale and shift, and the first unit added to all")  # fmt: skip
add("trap_cumsum", lambda: two_layers(lambda h: F.relu(h).cumsum(-1)), 4, "relu, then a fixed mixing")
add("trap_fixed_matrix", lambda: two_layers(lambda h: h @ torch.tensor([[1.0, 2, 0, 0], [0, 1, 0, 3], [1, 0, 1, 0],
    [0, 0, 0, 1]],
    dtype=h.dtype)), 20, "linear with a fixed matrix between: gl(4) and translations 4")  # fmt: skip
add("trap_product_and_factor", lambda: (nn.Sequential(nn.Linear(4, 4), Fn(lambda h: torch.cat([h[..., :2] * h[...,
    2:], h[..., :2]], -1)), nn.Linear(4, 6)), floats(4)),
    6, "a scale each, and the second factor may be shifted")  # fmt: skip


class Masked(nn.Module):
    """weight * mask: the masked entries do nothing, the pattern ties what can be mixed."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.c, self.act = nn.Linear(4, 5), nn.Linear(5, 4), act
        self.register_buffer("mask", (torch.arange(20).view(5, 4) % 3 > 0).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(F.linear(x, self.a.weight * self.mask, self.a.bias)))


add("masked_relu", lambda: (Masked(F.relu), floats(4)), 5 + 7, "scales, and 7 masked entries")
add("masked_tanh", lambda: (Masked(torch.tanh), floats(4)), 7, "7 masked entries")
add("masked_linear", lambda: (Masked(lambda h: h), floats(4)), 29, "49 parameters, 20 seen")


class Autoregressive(nn.Module):
    """Strictly triangular masks in two layers, as in MADE."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(3, 6), nn.Linear(6, 3)
        degree = torch.arange(6) % 2 + 1
        self.register_buffer("one", (degree[:, None] >= torch.arange(1, 4)[None]).float())
        self.register_buffer("two", (torch.arange(1, 4)[:, None] > degree[None]).float())

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(F.linear(x, self.a.weight * self.one, self.a.bias))
        return F.linear(h, self.c.weight * self.two, self.c.bias)


add("masked_autoregressive", lambda: (Autoregressive(), floats(3)), 6 + 9 + 9, "scales 6, masked entries 9 and 9")


class Unused(nn.Module):
    """A layer nobody calls, a bias nobody adds, a row nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.idle = nn.Linear(3, 5), nn.Linear(4, 4), nn.Linear(3, 2)
        self.extra = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.a(x)[..., :4]))


add("unused", lambda: (Unused(), floats(3)), 8 + 4 + 4, "idle layer 8, extra 4, fifth row and bias 4")


class SharedTwice(nn.Module):
    """One square layer applied twice between two others."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.mid, self.c, self.act = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 5), act

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.a(x))
        return self.c(self.act(self.mid(self.act(self.mid(h)))))


add("shared_twice_relu", lambda: (SharedTwice(F.relu), floats(3, spread=1.0)), 4, "both uses share the scale of a unit")
add("shared_twice_tanh", lambda: (SharedTwice(torch.tanh), floats(3)), 0, "nothing")
add("shared_twice_linear", lambda: (SharedTwice(lambda h: h), floats(3)), 41, "61 parameters, 20 seen")
add("shared_twice_exp", lambda: (SharedTwice(lambda h: torch.exp(-(h**2)) * h), floats(3)), 0, "nothing")


class Transposed(nn.Module):
    """Tied autoencoder: the decoder is the encoder's transpose."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(0.5 * torch.randn(3, 5))
        self.b, self.c, self.act = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(5)), act

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.act(F.linear(x, self.w, self.b)), self.w.t(), self.c)


add("tied_autoencoder_relu", lambda: (Transposed(F.relu), floats(5)), 0, "the tie leaves only c = 1")
add("tied_autoencoder_linear", lambda: (Transposed(lambda h: h), floats(5)), 3 + 3, "so(3) and the inner bias")
add("tied_autoencoder_square", lambda: (Transposed(torch.square), floats(5)), 0, "nothing")

add("weight_norm", lambda: (nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 4)),
    floats(4)), 10,
    "scale of v per row 5, relu scale 5 through g")  # fmt: skip
add("weight_norm_both", lambda: (nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(),
    parametrizations.weight_norm(nn.Linear(5, 4))), floats(4)), 9, "scale of v per row")  # fmt: skip
add("weight_norm_reader", lambda: (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), parametrizations.weight_norm(nn.Linear(5,
    4))), floats(4)),
    9, "v scales 4; relu scales 5 act on the effective columns, which v and g can represent")  # fmt: skip
add("weight_norm_whole", lambda: (nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5), dim=None), nn.ReLU(),
    nn.Linear(5, 4)),
    floats(4)), 6, "one scale of v; scales of the units")  # fmt: skip
add("spectral_norm", lambda: (nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5,
    4)).eval(), floats(4)),
    1, "scale of the weight (the power iteration's vectors are fixed in eval)")  # fmt: skip


class Lora(nn.Module):
    """W x + B A x with frozen-shape factors, rank r."""

    def __init__(self, m: int, n: int, r: int, base: bool = True) -> None:
        super().__init__()
        self.base = nn.Linear(m, n) if base else None
        self.A, self.B = nn.Linear(m, r, bias=False), nn.Linear(r, n, bias=False)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor) -> Tensor:
        low = 0.5 * self.B(self.A(x))
        return low if self.base is None else self.base(x) + low


add("lora", lambda: (nn.Sequential(Lora(5, 4, 2), nn.Tanh(), nn.Linear(4, 3)), floats(5)), 18,
    "gl(2), and B A against the base: 18 in all")  # fmt: skip
add("lora_only", lambda: (nn.Sequential(Lora(5, 4, 2, base=False), nn.Tanh(), nn.Linear(4, 3)), floats(5)), 4, "gl(2)")
add("lora_relu", lambda: (nn.Sequential(Lora(5, 4, 2), nn.ReLU(), Lora(4, 5, 1)), floats(5)), 18 + 4 + 9,
    "factors 18 and 9; scales 4")  # fmt: skip


class Bilin(nn.Module):
    """nn.Bilinear of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(5, 2), nn.Bilinear(3, 2, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(self.a(x), self.b(y))


@network("bilinear_two_inputs", 13, "gl(3) and gl(2); no linear readers, so the translations fail")
def _bilinear() -> tuple:
    return Bilin(), several((4,), (5,))


class SelfBilinear(nn.Module):
    """nn.Bilinear of a vector with itself: only the symmetric part is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(3, 3), nn.Bilinear(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(h, h)


add("bilinear_self", lambda: (SelfBilinear(), floats(3)), 15, "antisymmetric part 6, gl(3) 9")


class TwoInputs(nn.Module):
    """Two inputs added after their own embeddings, then a head."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Linear(3, 4), nn.Linear(2, 4), join
        self.c = nn.Linear(8 if join == "cat" else 4, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        u, v = self.a(x), self.b(y)
        if self.join == "cat":
            return self.c(F.relu(torch.cat([u, v], -1)))
        return self.c(F.relu(u + v) if self.join == "add" else u * v)


add("two_inputs_add", lambda: (TwoInputs("add"), several((3,), (2,))), 4 + 4, "scales; the two biases add")
add("two_inputs_cat", lambda: (TwoInputs("cat"), several((3,), (2,))), 8, "scales")
add("two_inputs_mul", lambda: (TwoInputs("mul"), several((3,), (2,))), 8, "two factors per unit")


class Metric(nn.Module):
    """Dot product of two towers, with a learned temperature and bias."""

    def __init__(self, shared: bool, unit: bool) -> None:
        super().__init__()
        self.a = mlp((4, 5, 3), nn.Tanh)
        self.b = self.a if shared else mlp((4, 5, 3), nn.Tanh)
        self.unit, self.temperature, self.shift = unit, nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        u, v = self.a(x), self.b(y)
        if self.unit:
            u, v = F.normalize(u, dim=-1, eps=0.0), F.normalize(v, dim=-1, eps=0.0)
        return self.temperature * (u * v).sum(-1, keepdim=True) + self.shift


add("two_towers", lambda: (Metric(False, False), several((4,), (4,), batch=5)), 10,
    "gl(3) between the towers, and the temperature")  # fmt: skip
add("two_towers_unit", lambda: (Metric(False, True), several((4,), (4,), batch=5)), 5, "two scales and so(3)")
add("siamese", lambda: (Metric(True, False), several((4,), (4,), batch=5)), 4, "so(3), and scale against temperature")
add("siamese_unit", lambda: (Metric(True, True), several((4,), (4,), batch=5)), 4, "so(3) and scale")


class WordAverage(nn.Module):
    """Bag of words: mean of embeddings, then an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), mlp((4, 5, 3), nn.ReLU)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).mean(1))


add("word_average", lambda: (WordAverage(), tokens(6, 4)), 16 + 4 + 5, "gl(4), translation into the bias 4, scales 5")
