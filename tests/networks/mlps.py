"""Multilayer perceptrons: every activation of torch, with and without biases, narrow ends, residuals, linear nets."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Fn, Residual, add, floats, mlp

H = 5  # hidden units of the one-hidden-layer cases

# what each activation leaves per hidden unit of an MLP with biases
PER_UNIT: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "relu": (1, nn.ReLU),
    "leaky_relu": (1, lambda: nn.LeakyReLU(0.1)),
    "rrelu": (1, lambda: nn.RReLU().eval()),
    "square": (1, lambda: Fn(torch.square)),
    "cube": (1, lambda: Fn(lambda x: x**3)),
    "relu_squared": (1, lambda: Fn(lambda x: F.relu(x) ** 2)),
    "abs": (1, lambda: Fn(torch.abs)),
    "exp": (1, lambda: Fn(torch.exp)),
    "relu6": (0, nn.ReLU6),
    "hardtanh": (0, nn.Hardtanh),
    "hardsigmoid": (0, nn.Hardsigmoid),
    "hardswish": (0, nn.Hardswish),
    "softshrink": (0, nn.Softshrink),
    "tanh": (0, nn.Tanh),
    "sigmoid": (0, nn.Sigmoid),
    "gelu": (0, nn.GELU),
    "gelu_tanh": (0, lambda: nn.GELU(approximate="tanh")),
    "silu": (0, nn.SiLU),
    "mish": (0, nn.Mish),
    "softplus": (0, nn.Softplus),
    "elu": (0, nn.ELU),
    "selu": (0, nn.SELU),
    "celu": (0, lambda: nn.CELU(0.7)),
    "logsigmoid": (0, nn.LogSigmoid),
    "tanhshrink": (0, nn.Tanhshrink),
    "softsign": (0, nn.Softsign),
    "sin": (0, lambda: Fn(torch.sin)),
    "cos": (0, lambda: Fn(torch.cos)),
    "gauss": (0, lambda: Fn(lambda x: torch.exp(-(x**2)))),
    "erf": (0, lambda: Fn(torch.erf)),
    "log1p_abs": (0, lambda: Fn(lambda x: torch.log1p(x.abs()))),
    "snake": (0, lambda: Fn(lambda x: x + torch.sin(x) ** 2)),
}
SPREAD = {"relu6": 2.0, "hardsigmoid": 2.0, "hardswish": 1.5, "hardtanh": 1.0}  # so that every unit meets both ends
ROOMY = 6  # outputs: enough of them that no hidden quadratic form survives

for _name, (_per, _act) in PER_UNIT.items():
    add(f"mlp_{_name}", lambda a=_act, n=_name: (mlp((4, H, ROOMY), a), floats(4, spread=SPREAD.get(n, 0.7))),
        _per * H, f"{_per} per hidden unit")  # fmt: skip

for _name in ("relu", "leaky_relu", "tanh", "gelu", "square", "exp"):
    _per, _act = PER_UNIT[_name]
    add(f"mlp_{_name}_no_bias", lambda a=_act: (mlp((4, H, ROOMY), a, bias=False), floats(4)),
        0 if _name == "exp" else _per * H, "exp without a bias has no translation to trade")  # fmt: skip

for _name in ("relu", "leaky_relu", "tanh", "silu", "elu", "softplus"):
    _per, _act = PER_UNIT[_name]
    add(f"mlp_{_name}_deep", lambda a=_act: (mlp((3, 6, 6, 3), a), floats(3, spread=1.2)), _per * 12,
        "all hidden units")  # fmt: skip
    add(f"mlp_{_name}_narrow_in", lambda a=_act: (mlp((1, 4, 4, 2), a), floats(1, spread=1.2)), _per * 8,
        "input width 1")  # fmt: skip
    add(f"mlp_{_name}_one_out", lambda a=_act: (mlp((3, 5, 1), a), floats(3)), _per * 5, "output width 1")

# discontinuous: the tangent is blind to the jumps
JUMPS: dict[str, Callable[[], nn.Module]] = {
    "hardshrink": nn.Hardshrink, "threshold": lambda: nn.Threshold(0.3, 0.1), "floor": lambda: Fn(torch.floor),
    "step_gate": lambda: Fn(lambda x: x * (x > 1.0)),
}  # fmt: skip
for _name, _act in JUMPS.items():
    add(f"mlp_{_name}", lambda a=_act: (mlp((4, H, ROOMY), a), floats(4)), None,
        "jumps pin the scale, the derivative does not see them: the true continuous group has dimension 0",
        True)  # fmt: skip

add("mlp_square_one_out", lambda: (mlp((5, 4, 1), PER_UNIT["square"][1], bias=False), floats(5)), 10,
    "4 scales and so(p, q) of the hidden quadratic form, 6")  # fmt: skip
add("mlp_square_one_out_bias", lambda: (mlp((5, 4, 1), PER_UNIT["square"][1]), floats(5)), 10,
    "form of rank 4 in (x, 1): 4 scales and so(p, q) 6")  # fmt: skip

add("mlp_prelu_shared", lambda: (mlp((4, H, ROOMY), nn.PReLU), floats(4)), H, "one learned slope for all: scales")
add("mlp_prelu_each", lambda: (mlp((4, H, ROOMY), lambda: nn.PReLU(H)), floats(4)), H, "a slope per unit: scales")
add("mlp_prelu_each_narrow", lambda: (mlp((1, H, 2), lambda: nn.PReLU(H)), floats(1)), 8,
    "scales 5; 5 slopes feed only 1*2 linear coefficients: 3 more")  # fmt: skip
add("mlp_glu", lambda: (nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 4)), floats(4)), 3, "value half scales")
add("mlp_softmax_hidden", lambda: (mlp((4, H, 3), lambda: nn.Softmax(-1)), floats(4)), 5 + 3,
    "in: common logit, 4 columns and a bias; out: a common column, the bias absorbing, 3")  # fmt: skip
add("mlp_softmax_hidden_no_bias", lambda: (mlp((4, H, 3), lambda: nn.Softmax(-1), bias=False), floats(4)), 4,
    "common logit")  # fmt: skip
add("mlp_softmin", lambda: (mlp((4, H, 3), lambda: nn.Softmin(-1)), floats(4)), 8, "as softmax")
add("mlp_log_softmax_hidden", lambda: (mlp((4, H, 3), lambda: nn.LogSoftmax(-1)), floats(4)), 5, "common logit only")
add("softmax_head", lambda: (nn.Sequential(*mlp((3, 5, 4), nn.Tanh), nn.Softmax(-1)), floats(3)), 6,
    "common logit: 5 + 1")  # fmt: skip
add("log_softmax_head", lambda: (nn.Sequential(*mlp((3, 5, 4), nn.ReLU), nn.LogSoftmax(-1)), floats(3)), 11,
    "6 and scales 5")  # fmt: skip
add("sigmoid_head", lambda: (nn.Sequential(*mlp((3, 5, 1), nn.ReLU), nn.Sigmoid()), floats(3)), 5, "scales")
add("identity_act", lambda: (mlp((4, 3, 5), nn.Identity), floats(4)), 12, "gl(3) and translations 3")


class Maxout(nn.Module):
    """max over k affine pieces per unit."""

    def __init__(self, m: int, n: int, k: int) -> None:
        super().__init__()
        self.n, self.k, self.pieces = n, k, nn.Linear(m, n * k)

    def forward(self, x: Tensor) -> Tensor:
        return self.pieces(x).view(*x.shape[:-1], self.n, self.k).amax(-1)


add("maxout", lambda: (nn.Sequential(Maxout(3, 4, 2), nn.Linear(4, 4)), floats(3)), 8, "scale and shift per unit")
add("maxout_three", lambda: (nn.Sequential(Maxout(3, 3, 3), nn.Linear(3, 4, bias=False)), floats(3)), 3,
    "scales; no bias to shift into")  # fmt: skip
add("maxout_many_units", lambda: (nn.Sequential(Maxout(2, 6, 2), nn.Linear(6, 2)), floats(2)), 20,
    "scale per unit 6; affine parts common to the pieces, 18, and 2 biases feed only 2*3 coefficients")  # fmt: skip

# linear networks
add("linear_one", lambda: (nn.Linear(4, 3), floats(4)), 0, "a single layer")
add("linear_deep", lambda: (mlp((4, 5, 3, 4), nn.Identity), floats(4)), 40, "group 42 with stabiliser 2")
add("linear_deep_no_bias", lambda: (mlp((4, 5, 3, 4), nn.Identity, bias=False), floats(4)), 32, "rank 3: 47 - 15")
add("linear_wide", lambda: (mlp((3, 6, 2), nn.Identity), floats(3)), 30, "38: all but the 2x3 matrix and 2 biases")
add("linear_bottleneck", lambda: (mlp((6, 2, 5), nn.Identity, bias=False), floats(6)), 4, "gl(2)")
add("linear_mixed_bias", lambda: (nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 5)), floats(4)), 9, "gl(3)")
add("linear_scalar_chain", lambda: (mlp((1, 1, 1, 1), nn.Identity), floats(1)), 4, "6 parameters, a x + b")

# residuals
add("res_relu", lambda: (nn.Sequential(Residual(*mlp((4, 5, 4), nn.ReLU)), Residual(*mlp((4, 3, 4), nn.ReLU))),
    floats(4)), 12,
    "scales 8; the stream after the first block may be shifted, 4")  # fmt: skip
add("res_tanh_ends", lambda: (nn.Sequential(nn.Linear(3, 4), Residual(*mlp((4, 5, 4), nn.Tanh)), nn.Linear(4, 6)),
    floats(3)), 29,
    "stream gl(4) 16, two translations 8, a blind functional of the embedding for 5 readers")  # fmt: skip
add("res_gelu_ends_wide", lambda: (nn.Sequential(nn.Linear(5, 3), Residual(*mlp((3, 4, 3), nn.GELU)), nn.Linear(3,
    4)), floats(5)), 15,
    "stream gl(3) 9, translation 3, constant of the inner writer against the embedding bias 3")  # fmt: skip
add("res_narrow_head", lambda: (nn.Sequential(nn.Linear(3, 4), Residual(*mlp((4, 5, 4), nn.Tanh)), nn.Linear(4, 2)),
    floats(3)), 37,
    "75 parameters, 38 seen: stream of 4 fed by 3 and read by 2")  # fmt: skip
add("res_outer_relu", lambda: (nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 5)),
    floats(4)), 8,
    "the skip crosses a rectified branch: scales 4, translation 4")  # fmt: skip
add("res_scaled", lambda: (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Residual(nn.Linear(4, 4), nn.Tanh()),
    nn.Linear(4, 5)), floats(4)),
    0, "relu then a skip around tanh: scales fail")  # fmt: skip


class Wave(nn.Module):
    """Sine layers with their own frequency factor, as in implicit representations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 5), nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sin(2.0 * self.b(torch.sin(3.0 * self.a(x)))))


class Fourier(nn.Module):
    """sin and cos of one shared linear map: rotations of each pair."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(3, 4, bias=bias), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        return self.c(torch.cat([torch.sin(z), torch.cos(z)], -1))


class Radial(nn.Module):
    """x f(|x|): commutes with rotations."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(5, d), nn.Linear(d, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        return self.c(z * torch.tanh(z.norm(dim=-1, keepdim=True)))


class PairSoftplus(nn.Module):
    """softplus(z) - softplus(-z) = z: an activation that is linear in disguise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(3, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        return self.c(F.softplus(z) - F.softplus(-z))


add("siren", lambda: (Wave(), floats(2, spread=0.3)), 0, "no continuous symmetry")
add("fourier_pairs", lambda: (Fourier(True), floats(3)), 4, "a phase per pair against the readers")
add("fourier_pairs_no_bias", lambda: (Fourier(False), floats(3)), 0, "no phase to shift")
add("radial", lambda: (Radial(4), floats(5)), 6, "so(4)")
add("linear_in_disguise", lambda: (PairSoftplus(), floats(3)), 21, "the pair is the identity: 41 parameters, 20 seen")
add("power_even_scaled", lambda: (nn.Sequential(nn.Linear(3, 4), Fn(lambda x: x**4 / math.pi), nn.Linear(4, 5)),
    floats(3, spread=0.3)),
    4, "degree 4")  # fmt: skip
