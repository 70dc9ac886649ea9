"""Convolutions of every shape, with the norms and pools that live beside them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, Fn, Residual, add, floats


def seq(*layers: nn.Module, shape: tuple[int, ...], batch: int = 3, train: bool = False, spread: float = 0.7) -> Built:
    """A sequential network in eval (or train) mode and its inputs."""
    return nn.Sequential(*layers).train(train), floats(*shape, batch=batch, spread=spread)


def head(channels: int, out: int = 4, dims: int = 2) -> list[nn.Module]:
    """Global average pool, flatten, linear."""
    pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims]
    return [pool(1), nn.Flatten(), nn.Linear(channels, out)]


# plain
add("conv1d_relu", lambda: seq(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 2), shape=(2, 7)), 4, "scales")
add("conv2d_relu_pool", lambda: seq(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2),
    nn.Tanh(),
    *head(3), shape=(2, 5, 5)), 4, "scales through the max pool")  # fmt: skip
add("conv3d_leaky", lambda: seq(nn.Conv3d(1, 3, 2), nn.LeakyReLU(0.2), *head(3, dims=3), shape=(1, 3, 4, 3)), 3,
    "scales")  # fmt: skip
add("conv2d_tanh_flatten", lambda: seq(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3), shape=(1, 3,
    3)), 0, "nothing")  # fmt: skip
add("conv2d_relu_flatten", lambda: seq(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3), shape=(1, 3,
    3)), 3,
    "a channel's scale goes to its block of 4 columns")  # fmt: skip
add("conv2d_avgpool_linear", lambda: seq(nn.Conv2d(3, 4, 2), nn.AvgPool2d(2), *head(4, 5), shape=(3, 5, 5)), 20,
    "no activation: gl(4) and translations 4")  # fmt: skip
add("conv2d_strided_dilated", lambda: seq(nn.Conv2d(2, 3, 2, stride=2), nn.ReLU(), nn.Conv2d(3, 3, 2, dilation=2,
    padding=1), nn.ReLU(),
    *head(3), shape=(2, 6, 6)), 6, "scales")  # fmt: skip
add("conv2d_reflect", lambda: seq(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU(),
    nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"), shape=(2, 4, 4)), 3, "scales")  # fmt: skip
add("conv_transpose2d", lambda: seq(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.ConvTranspose2d(3, 2, 2, stride=2), nn.ReLU(),
    nn.ConvTranspose2d(2, 2, 2), shape=(2, 3, 3)), 5, "scales")  # fmt: skip
add("conv_transpose1d_grouped", lambda: seq(nn.Conv1d(2, 4, 2), nn.ReLU(), nn.ConvTranspose1d(4, 4, 3, groups=2),
    shape=(2, 5)), 4, "scales")  # fmt: skip
add("conv_upsample", lambda: seq(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(3, 2, 2),
    shape=(1, 4, 4)), 3, "scales")  # fmt: skip
add("conv_bilinear_up", lambda: seq(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"),
    nn.Conv2d(3, 2, 2),
    shape=(1, 4, 4)), 3, "scales")  # fmt: skip
add("conv_pixel_shuffle", lambda: seq(nn.Conv2d(2, 8, 2), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(2, 3, 2), shape=(2,
    4, 4)), 2,
    "four channels become one: one scale each")  # fmt: skip
add("conv_softmax2d", lambda: seq(nn.Conv2d(2, 4, 2), nn.Softmax2d(), *head(4, 3), shape=(2, 4, 4)), 9 + 3,
    "common logit 8 + 1; common column against the bias 3")  # fmt: skip

# grouped and depthwise
add("conv_grouped", lambda: seq(nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 4, 2, groups=2), nn.Tanh(),
    *head(4),
    shape=(4, 4, 4)), 6, "scales")  # fmt: skip
add("conv_grouped_linear", lambda: seq(nn.Conv2d(4, 4, 2, groups=2), nn.Conv2d(4, 6, 1, groups=2), nn.Tanh(), *head(6),
    shape=(4, 4, 4)), 2 * 4 + 4, "gl(2) per group, translations 4")  # fmt: skip
add("conv_depthwise_separable", lambda: seq(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4),
    nn.Conv2d(4, 3, 1),
    nn.ReLU(), *head(3), shape=(2, 4, 4)), 4 + 8 + 3,
    "scales; depthwise against pointwise, scale and bias; scales")  # fmt: skip
add("conv_depthwise_relu", lambda: seq(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(),
    nn.Conv2d(4, 3, 1),
    shape=(2, 4, 4)), 8, "scales either side")  # fmt: skip
add("conv_depthwise_multiplier", lambda: seq(nn.Conv1d(2, 2, 2), nn.ReLU(), nn.Conv1d(2, 6, 2, groups=2), nn.ReLU(),
    nn.Conv1d(6, 2, 1),
    shape=(2, 6)), 8, "scales")  # fmt: skip
add("conv_linear_chain_padded", lambda: seq(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), *head(4),
    shape=(3, 4, 4)), 9,
    "gl(3); zero padding forbids the translation")  # fmt: skip
add("conv_linear_chain", lambda: seq(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3), nn.Tanh(), *head(4), shape=(3, 4, 4)), 12,
    "gl(3) and translations 3: no padding")  # fmt: skip
add("conv_pointwise_chain", lambda: seq(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False), shape=(3, 2,
    2)), 4, "scales")  # fmt: skip

# batch norm
BN = nn.BatchNorm2d
for _mode, _train in (("eval", False), ("train", True)):
    add(f"bn_{_mode}", lambda t=_train: seq(nn.Conv2d(2, 4, 2, bias=False), BN(4), nn.ReLU(), *head(4), shape=(2, 4,
        4), batch=5, train=t),
        4 if _train else 8,
        "relu scales" + ("; eps keeps the writer's scale" if _train else ", and weight against gain"))  # fmt: skip
    add(f"bn_{_mode}_bias", lambda t=_train: seq(nn.Conv2d(2, 4, 2), BN(4), nn.ReLU(), *head(4), shape=(2, 4, 4),
        batch=5, train=t),
        8 if _train else 12, "the bias before the norm is one more per channel")  # fmt: skip
    add(f"bn_{_mode}_no_affine", lambda t=_train: seq(nn.Conv2d(2, 4, 2), BN(4, affine=False), nn.ReLU(), *head(4),
        shape=(2, 4, 4),
        batch=5, train=t), 4, "train: the bias; eval: the scale")  # fmt: skip
    add(f"bn1d_{_mode}_mlp", lambda t=_train: seq(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 4),
        shape=(3,), batch=6, train=t),
        5 if _train else 10, "writer's bias; in eval also its scale against the gain")  # fmt: skip
    add(f"bn_{_mode}_after_relu", lambda t=_train: seq(nn.Conv2d(2, 4, 2), nn.ReLU(), BN(4), *head(4, 3), shape=(2, 4,
        4), batch=5, train=t),
        8 if _train else 12, "gain and shift into the head 8; in eval relu scale against the gain 4")  # fmt: skip

add("bn_eval_eps0", lambda: seq(nn.Conv2d(2, 3, 2), BN(3, eps=0.0), nn.Tanh(), *head(3), shape=(2, 4, 4)), 6,
    "per channel: scale and bias of the writer")  # fmt: skip
add("bn_no_running", lambda: seq(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(),
    *head(3), shape=(2, 4, 4),
    batch=5), 6, "batch statistics even in eval: bias 3, relu scales 3")  # fmt: skip
add("bn_fused_chain", lambda: seq(nn.Conv2d(2, 3, 2), BN(3), BN(3), nn.Tanh(), *head(3), shape=(2, 4, 4)), 12,
    "two affine maps after a biased writer: 2 and 2 per channel")  # fmt: skip


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn + x, relu (post-activation) or not."""

    def __init__(self, c: int, inner: int, last: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, inner, 3, padding=1, bias=False), BN(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, c, 3, padding=1, bias=False), BN(c)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y) if self.last else y


class PreActivation(nn.Module):
    """x + conv(relu(bn x))."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.bn, self.conv = BN(c), nn.Conv2d(c, c, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.bn(x)))


class ConvStem(nn.Sequential):
    """conv-bn-relu on two input channels."""

    def __init__(self, c: int) -> None:
        super().__init__(nn.Conv2d(2, c, 2, bias=False), BN(c), nn.ReLU())


add("resnet_eval", lambda: seq(ConvStem(3), BasicBlock(3, 4, True), BasicBlock(3, 2, True), *head(3, 5), shape=(2, 5,
    5)), 15 + 6 + 3,
    "weight against gain 3+4+3+2+3; inner scales 4+2; one scale per stream channel 3")  # fmt: skip
add("resnet_train", lambda: seq(ConvStem(3), BasicBlock(3, 4, True), *head(3, 5), shape=(2, 4, 4), batch=5,
    train=True), 4 + 3,
    "inner scales 4, stream 3; eps keeps the rest")  # fmt: skip
add("resnet_preact_eval", lambda: seq(nn.Conv2d(2, 3, 1), PreActivation(3), PreActivation(3), BN(3), nn.ReLU(),
    *head(3, 5), shape=(2, 4, 4)),
    15, "relu scales 9; the stream is linear up to elementwise norms: 3 scales, 3 translations")  # fmt: skip
add("resnet_preact_train", lambda: seq(nn.Conv2d(2, 3, 1), PreActivation(3), BN(3), nn.ReLU(), *head(3, 5), shape=(2,
    4, 4), batch=5,
    train=True), 9, "the writer's bias 3 and the relu scales 6")  # fmt: skip


class Downsample(nn.Module):
    """A projection shortcut: relu(bn(conv x) + bn(1x1 x))."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 4, 2, stride=2, bias=False), BN(4)
        self.b, self.nb = nn.Conv2d(3, 4, 1, stride=2, bias=False), BN(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.na(self.a(x)) + self.nb(self.b(x)))


add("resnet_projection", lambda: seq(ConvStem(3), Downsample(), *head(4, 5), shape=(2, 5, 5)), 34,
    "weight against gain 11; the two shifts add 4; relu scales 3 + 4; the 1x1 taps are among the "
    "2x2 ones, 12")  # fmt: skip

# group, instance, layer norm on images
add("gn_relu", lambda: seq(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), *head(4), shape=(2, 4, 4)), 2 + 4,
    "a constant per group; relu scales")  # fmt: skip
add("gn_one_group", lambda: seq(nn.Conv2d(2, 4, 2), nn.GroupNorm(1, 4), nn.GELU(), *head(4), shape=(2, 4, 4)), 1,
    "one constant")  # fmt: skip
add("gn_eps0", lambda: seq(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4, eps=0.0), nn.SiLU(), *head(4), shape=(2, 4, 4)), 4,
    "constant and scale per group")  # fmt: skip
add("gn_each", lambda: seq(nn.Conv2d(2, 3, 2), nn.GroupNorm(3, 3, affine=False), nn.ReLU(), *head(3), shape=(2, 4,
    4)), 3, "bias per channel")  # fmt: skip
add("gn_grouped_conv", lambda: seq(nn.Conv2d(4, 4, 2, groups=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 2,
    groups=2), shape=(4, 4, 4)),
    6, "constant per group 2; scales 4")  # fmt: skip
add("in_affine", lambda: seq(nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3, affine=True), nn.ReLU(), *head(3), shape=(2, 5,
    5)), 6, "bias; relu scales")  # fmt: skip
add("in_plain", lambda: seq(nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3), nn.ReLU(), *head(3, dims=1), shape=(2, 6)), 3,
    "bias per channel")  # fmt: skip
add("in_tracked_eval", lambda: seq(nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    nn.Tanh(), *head(3),
    shape=(2, 4, 4)), 6, "as batch norm in eval")  # fmt: skip
add("ln_image", lambda: seq(nn.Conv2d(2, 3, 2), nn.LayerNorm([3, 3, 3]), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3),
    shape=(2, 4, 4)), 28,
    "common constant 1; a scale for each of 27 places")  # fmt: skip
add("ln_image_conv", lambda: seq(nn.Conv2d(2, 3, 2), nn.LayerNorm([3, 3, 3]), nn.ReLU(), nn.Conv2d(3, 2, 2), shape=(2,
    4, 4)), 4,
    "common constant 1; a scale per channel")  # fmt: skip
add("local_response", lambda: seq(nn.Conv2d(2, 4, 2), nn.LocalResponseNorm(3, alpha=1.0), *head(4), shape=(2, 4, 4)),
    0, "nothing")  # fmt: skip


class SqueezeExcite(nn.Module):
    """x * gate(W2 relu(W1 mean x))."""

    def __init__(self, c: int, r: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(c, r), nn.Linear(r, c)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


add("squeeze_excite", lambda: seq(nn.Conv2d(2, 4, 2), nn.ReLU(), SqueezeExcite(4, 2), nn.Conv2d(4, 3, 2), shape=(2, 4,
    4)), 6, "scales 4 + 2")  # fmt: skip
add("squeeze_excite_linear", lambda: seq(nn.Conv2d(2, 4, 2), SqueezeExcite(4, 3), nn.Conv2d(4, 3, 2), shape=(2, 4,
    4)), 7,
    "the gate multiplies channels: diagonal 4, inner 3")  # fmt: skip


class Dense(nn.Module):
    """Concatenative block: each layer sees everything before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1), nn.Conv2d(7, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.a(x))], 1)
        x = torch.cat([x, F.relu(self.b(x))], 1)
        return self.c(x)


class Unet(nn.Module):
    """Down, up, and a skip by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.c = nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Conv2d(5, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y = self.up(F.relu(self.b(F.max_pool2d(x, 2))))
        return self.c(torch.cat([x, y], 1))


add("densenet", lambda: (Dense(), floats(2, 4, 4)), 5, "scales")
add("unet", lambda: (Unet(), floats(1, 4, 4)), 3 + 4 + 4,
    "scales 7; gl(2) of the linear upward path, no translation (padding)")  # fmt: skip
add("convnext_block", lambda: seq(nn.Conv2d(2, 4, 2), Residual(nn.Conv2d(4, 4, 3, padding=1, groups=4),
    Fn(lambda x: x.permute(0, 2, 3, 1)),
    nn.LayerNorm(4), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4), Fn(lambda x: x.permute(0, 3, 1, 2))), *head(4),
    shape=(2, 4, 4)), 22,
    "stream scales against depthwise kernels 4; last bias 4; norm: gain and shift 8, mean of the "
    "writer 1, reader 5")  # fmt: skip
add("mobilenet_block", lambda: seq(nn.Conv2d(2, 3, 1, bias=False), BN(3), Residual(nn.Conv2d(3, 4, 1, bias=False),
    BN(4), nn.ReLU6(),
    nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), BN(4), nn.ReLU6(), nn.Conv2d(4, 3, 1, bias=False), BN(3)),
    *head(3),
    shape=(2, 4, 4), spread=2.5), 33,
    "weight against gain 14; gl(3) 9; translations 6; a blind functional of the stem for 4 readers")  # fmt: skip
