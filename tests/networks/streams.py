"""Residual streams and norms without attention, gated units, token mixing."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, Fn, Residual, add, floats, mlp
from .decoders import RMS, Glu

IN, W, INNER, OUT = 6, 4, 3, 6  # wide ends: the stream has no blind direction


class Stream(nn.Module):
    """Linear in, residual blocks x + f(norm x) (or norm(x + f x)), final norm, linear out."""

    def __init__(
        self,
        norm: Callable[[], nn.Module],
        bodies: int = 1,
        body: Callable[[], nn.Module] = lambda: mlp((W, INNER, W), nn.Tanh),
        post: bool = False,
        final: bool = True,
        ends: tuple[int, int] = (IN, OUT),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(ends[0], W, bias), nn.Linear(W, ends[1], bias)
        self.norms, self.bodies = (
            nn.ModuleList(norm() for _ in range(bodies)), nn.ModuleList(body() for _ in range(bodies))
        )
        self.final, self.post = norm() if final else nn.Identity(), post

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, body in zip(self.norms, self.bodies, strict=True):
            x = norm(x + body(x)) if self.post else x + body(norm(x))
        return self.last(self.final(x))


class Plus(nn.Module):
    """RMS norm with gain 1 + w, as Gemma stores it."""

    def __init__(self, d: int, eps: float) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.zeros(d)), RMS(d, eps, gain=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * (1.0 + self.weight)


class Dyt(nn.Module):
    """Dynamic tanh: gain * tanh(a x) + shift."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.a, self.gain, self.shift = (
            nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * torch.tanh(self.a * x) + self.shift


class Scale(nn.Module):
    """x * gain, a learned number per channel (layer scale) or for all."""

    def __init__(self, d: int = 1, value: float = 0.5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((d,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def layer(eps: float = 1e-5, affine: bool = True, bias: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.LayerNorm(W, eps=eps, elementwise_affine=affine, bias=bias)


def rms(eps: float = 1e-5, gain: bool = True) -> Callable[[], nn.Module]:
    return lambda: RMS(W, eps, gain)


def stream(norm: Callable[[], nn.Module], spread: float = 0.7, **options: object) -> Built:
    """A Stream and its inputs."""
    net = Stream(norm, **options)  # type: ignore[arg-type]
    return net, floats(net.first.in_features, spread=spread)


add("stream_rms", lambda: stream(rms()), 6 + 8, "so(4), two gains")
add("stream_rms_eps0", lambda: stream(rms(0.0)), 6 + 8 + 1, "so(4), two gains, scale")
add("stream_rms_plain", lambda: stream(rms(0.0, False)), 6 + 1, "so(4), scale")
add("stream_rms_deep", lambda: stream(rms(), bodies=3), 6 + 16, "so(4), four gains")
add("stream_rms_linear_read", lambda: stream(rms(), final=False), 6 + 4 + 4,
    "so(4), gain, the last writer's bias against the head's")  # fmt: skip
add("stream_rms_torch", lambda: stream(lambda: nn.RMSNorm(W, eps=1e-4)), 6 + 8, "so(4), two gains")
add("stream_rms_plus_one", lambda: stream(lambda: Plus(W, 1e-5)), 6 + 8, "the gain is 1 + w")
add("stream_rms_glu", lambda: stream(rms(0.0), bodies=2, body=lambda: Glu(W, INNER), bias=False), 6 + 12 + 1 + 6,
    "so(4), gains, scale, glu 6")  # fmt: skip
add("stream_layer", lambda: stream(layer()), 16 + 3 + 11 + 9,
    "gain and shift of two norms 16; so(3); writers 11; readers 9")  # fmt: skip
add("stream_layer_eps0", lambda: stream(layer(0.0)), 40, "as stream_layer, and the scale")
add("stream_layer_plain", lambda: stream(layer(affine=False)), 3 + 11 + 9, "so(3); writers; readers")
add("stream_layer_no_shift", lambda: stream(layer(bias=False)), 8 + 3 + 11 + 9, "gains 8; so(3); writers; readers")
add("stream_layer_no_bias", lambda: stream(layer(), bias=False, body=lambda: mlp((W, INNER, W), nn.GELU, bias=False)),
    9 + 3 + 16, "writers 9; so(3); eight per norm, the reader along 1/gain being one with the shift")  # fmt: skip
add("stream_layer_narrow_in", lambda: stream(layer(), ends=(2, 5)), 34,
    "16; so(3); writers 7; readers 8; centred, the input still spans")  # fmt: skip
add("stream_layer_narrow_out", lambda: stream(layer(), ends=(5, 1)), 33, "16; so(3); writers 10; readers 4")
add("stream_rms_narrow_in", lambda: stream(rms(), ends=(2, 5)), 6 + 8 + 3 + 1,
    "so(4), gains; a functional blind to the input for 3 readers; before the body the embedding "
    "bias turns about the embedded plane")  # fmt: skip
add("stream_rms_narrow_both", lambda: stream(rms(0.0), ends=(3, 2), bodies=2), 6 + 12 + 1,
    "so(4), gains, scale: the norm sees all of the stream")  # fmt: skip
add("stream_post_layer", lambda: stream(layer(), post=True, final=False), 29,
    "so(3); stream 1 l^T 4 and translation 4; last writer 4; gain and shift 8; reader 6")  # fmt: skip
add("stream_post_layer_deep", lambda: stream(layer(), post=True, final=False, bodies=2), 38,
    "as stream_post_layer without so(3), 26; inner shift 4 and reader along 1/gain 3, writer 4; and "
    "one more: 4 inner gains "
    "have 3 singular values on the complement of 1, rotations of both sides make up the difference")  # fmt: skip
add("stream_post_rms", lambda: stream(rms(), post=True, final=False), 6 + 4 + 4, "so(4), last gain, translation 4")
add("stream_post_rms_deep", lambda: stream(rms(), post=True, final=False, bodies=2), 8,
    "translation 4, last gain 4; inner gains sit on the stream")  # fmt: skip
add("stream_dyt", lambda: stream(lambda: Dyt(W)), 17,
    "gains and shifts 16; the scale of the stream through the inner factors")  # fmt: skip
add("stream_unit", lambda: stream(lambda: Fn(lambda x: F.normalize(x, dim=-1, eps=0.0))), 6 + 1,
    "unit vectors: so(4), scale")  # fmt: skip
add("stream_batch_eval", lambda: (stream(lambda: nn.BatchNorm1d(W))[0].eval(), floats(IN)), 40,
    "gl(4) 16; translations 8; gain and shift 16")  # fmt: skip
add("stream_batch_train", lambda: (stream(lambda: nn.BatchNorm1d(W))[0].train(), floats(IN, batch=7)), 24,
    "two biases 8; gain and shift 16")  # fmt: skip
add("stream_layer_scale", lambda: stream(rms(), body=lambda: nn.Sequential(mlp((W, INNER, W), nn.Tanh), Scale(W))),
    6 + 8 + 4,
    "so(4) through the layer scale, which trades with its writer 4")  # fmt: skip
add("stream_rezero", lambda: stream(rms(), body=lambda: nn.Sequential(mlp((W, INNER, W), nn.Tanh), Scale(1))),
    6 + 8 + 1, "one number against its writer")  # fmt: skip
add("stream_relu_rms", lambda: stream(rms(), body=lambda: mlp((W, INNER, W), nn.ReLU)), 6 + 8 + 3, "and relu scales")
add("stream_group", lambda: stream(lambda: nn.GroupNorm(2, W, eps=0.5)), 56,
    "a group of two keeps one number: readers 14 + 20, writers 14 + 8 unseen")  # fmt: skip
add("norm_first", lambda: (nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5)), floats(5)),
    10 + 4,
    "gain and shift 10; the reader along 1/gain 4")  # fmt: skip
add("norm_last", lambda: (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.LayerNorm(5)), floats(3)), 5,
    "mean of the writer 5")  # fmt: skip
add("norm_last_rms", lambda: (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), RMS(5, 0.0)), floats(3)), 1,
    "scale only")  # fmt: skip
add("norm_relu", lambda: (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 5)), floats(3)),
    4 + 4, "writer 4, relu scales 4")  # fmt: skip
add("norm_twice", lambda: (nn.Sequential(nn.Linear(3, 4), RMS(4, 0.0), RMS(4, 0.0), nn.Linear(4, 5)), floats(3)),
    6 + 1 + 4 + 4, "so(4) and scale of the writer behind the inner gain 4; outer gain 4")  # fmt: skip

# gated units on a fixed input
GATES: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "swiglu": (1, F.silu), "geglu": (1, F.gelu), "reglu": (2, F.relu), "bilinear": (2, lambda g: g), "sigmoid": (1,
    torch.sigmoid),
    "tanh": (1, torch.tanh), "relu_squared": (2, lambda g: F.relu(g) ** 2), "leaky": (2, F.leaky_relu),
}  # fmt: skip
for _name, (_per, _act) in GATES.items():
    for _bias in (False, True):
        add(f"glu_{_name}" + ("_bias" if _bias else ""), lambda a=_act, b=_bias: (Glu(5, INNER, a, b), floats(5)),
            _per * INNER,
            f"{_per} per hidden unit")  # fmt: skip
add("glu_exp_bias", lambda: (Glu(5, INNER, torch.exp, True), floats(5, spread=0.3)), 6,
    "gate bias and value scale both trade: 2 per unit")  # fmt: skip
add("glu_same_width_one_out", lambda: (Glu(4, 4, lambda g: g), floats(4)), 8, "bilinear, square")


class FusedGlu(nn.Module):
    """gate_up in one matrix, cut by chunk, by interleaving, or by a view of two."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        self.gate_up, self.down, self.cut = nn.Linear(5, 6), nn.Linear(3, 4), cut

    def forward(self, x: Tensor) -> Tensor:
        z = self.gate_up(x)
        if self.cut == "chunk":
            g, u = z.chunk(2, -1)
        elif self.cut == "interleave":
            g, u = z[..., 0::2], z[..., 1::2]
        else:
            g, u = z.unflatten(-1, (2, 3)).unbind(-2)
        return self.down(F.silu(g) * u)


for _cut in ("chunk", "interleave", "view"):
    add(f"glu_fused_{_cut}", lambda c=_cut: (FusedGlu(c), floats(5)), 3, "value rows")


class Highway(nn.Module):
    """g * h(x) + (1 - g) * x."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.gate, self.h, self.last, self.act = (
            nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5), act
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        g = torch.sigmoid(self.gate(x))
        return self.last(g * self.act(self.h(x)) + (1 - g) * x)


add("highway_relu", lambda: (Highway(F.relu), floats(5)), 4, "a scale per stream channel, the carry and the relu alike")
add("highway_tanh", lambda: (Highway(torch.tanh), floats(5)), 0, "nothing")
add("highway_linear", lambda: (Highway(lambda h: h), floats(5)), 8, "diagonal scale and translation per channel")


class Mixer(nn.Module):
    """MLP-Mixer: tokens mixed, then channels mixed, in a residual stream."""

    def __init__(self, norm: bool, act: Callable[[], nn.Module], blocks: int = 1, tokens: int = 3,
        width: int = 4) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(5, width), nn.Linear(width, 5)
        self.norm1 = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(blocks))
        self.norm2 = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(blocks))
        self.across = nn.ModuleList(mlp((tokens, 4, tokens), act) for _ in range(blocks))
        self.within = nn.ModuleList(mlp((width, 3, width), act) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for n1, a, n2, w in zip(self.norm1, self.across, self.norm2, self.within, strict=True):
            x = x + a(n1(x).transpose(1, 2)).transpose(1, 2)
            x = x + w(n2(x))
        return self.last(x)


add("mixer_relu", lambda: (Mixer(False, nn.ReLU), floats(3, 5)), 14,
    "scales 7; scale of the stream 1; constant tensors 2; last bias 4")  # fmt: skip
add("mixer_gelu_norm", lambda: (Mixer(True, nn.GELU), floats(3, 5)), 19,
    "inner norm: 8 and 3; outer norm: gain scale, constant shift; constants 2; last bias 4")  # fmt: skip
add("mixer_gelu_deep", lambda: (Mixer(True, nn.GELU, blocks=2), floats(3, 5)), 36,
    "13 per block; constants 4, token biases against each other 2; last bias 4")  # fmt: skip
add("mixer_tanh", lambda: (Mixer(False, nn.Tanh), floats(3, 5)), 7,
    "scale of the stream 1; constant tensors 2; last bias 4")  # fmt: skip


class TwoBias(nn.Module):
    """A linear map over tokens and one over channels, both with bias, then a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.channel, self.token, self.head = nn.Linear(4, 3), nn.Linear(4, 4), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.token(self.channel(x).transpose(1, 2)).transpose(1, 2)
        return self.head(torch.tanh(y))


add("two_way_bias", lambda: (TwoBias(), floats(4, 4)), 2,
    "one factor between the maps; the constant belongs to both biases")  # fmt: skip
add("residual_of_norm", lambda: (nn.Sequential(nn.Linear(5, 4), Residual(RMS(4, 0.0)), nn.Linear(4, 5)), floats(5)),
    1, "x + gain * x/|x|: the scale")  # fmt: skip
add("residual_twice", lambda: (nn.Sequential(nn.Linear(5, 4), Residual(Residual(nn.Linear(4, 4), nn.Tanh(),
    nn.Linear(4, 4))), nn.Linear(4, 5)),
    floats(5)), 24, "gl(4) 16, translations of the stream before and after 8")  # fmt: skip
