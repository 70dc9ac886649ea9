"""Convolutional networks as modules, each in independent widths; the names of parameters follow torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet", "densenet", "efficientnet", "mobilenet_v2", "resnet", "vgg_bn"]


def conv_norm(n: int, m: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """Convolution without bias, BatchNorm, activation."""
    layers = [nn.Conv2d(n, m, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(m)]
    return nn.Sequential(*layers, *([act()] if act is not None else []))


# --- VGG --------------------------------------------------------------------------------------------------------------------
def vgg_bn(widths: Sequence[int], repeats: Sequence[int], side: int, f: int, v: int) -> nn.Module:
    """Stages of 3 x 3 convolutions with BatchNorm, each followed by a max-pool; ``side`` is that of the last map."""
    body: list[nn.Module] = []
    n = 3
    for m, count in zip(widths, repeats, strict=True):
        for _ in range(count):
            body += [nn.Conv2d(n, m, 3, padding=1), nn.BatchNorm2d(m), nn.ReLU()]
            n = m
        body.append(nn.MaxPool2d(2))
    head = nn.Sequential(nn.Linear(n * side**2, f), nn.ReLU(), nn.Dropout(), nn.Linear(f, f), nn.ReLU(), nn.Dropout(), nn.Linear(f, v))
    return _named(features=nn.Sequential(*body), flatten=nn.Flatten(), classifier=head)


def _named(**parts: nn.Module) -> nn.Sequential:
    """A chain of named parts."""
    chain = nn.Sequential()
    for name, part in parts.items():
        chain.add_module(name, part)
    return chain


def _headed(features: nn.Module, width: int, v: int) -> nn.Sequential:
    """Features, the mean over all places, and a linear classifier."""
    return _named(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(width, v))


# --- ResNet -----------------------------------------------------------------------------------------------------------------
class BasicBlock(nn.Module):
    """Two convolutions beside the identity, or beside a strided projection."""

    def __init__(self, n: int, m: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, m, 3, stride, 1, bias=False), nn.BatchNorm2d(m)
        self.conv2, self.bn2 = nn.Conv2d(m, m, 3, 1, 1, bias=False), nn.BatchNorm2d(m)
        self.downsample = conv_norm(n, m, 1, stride, act=None) if project else None

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + beside)


def resnet(widths: Sequence[int], blocks: int, v: int) -> nn.Module:
    """Four stages of ``blocks`` basic blocks behind a 7 x 7 stem; all but the first stage begin with a strided projection."""
    n = widths[0]
    stem = [nn.Conv2d(3, n, 7, 2, 3, bias=False), nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    parts = dict(zip(("conv1", "bn1", "relu", "maxpool"), stem, strict=True))
    for i, m in enumerate(widths):
        first = BasicBlock(n, m, 1 if i == 0 else 2, project=i > 0)
        parts[f"layer{i + 1}"] = nn.Sequential(first, *(BasicBlock(m, m, 1, project=False) for _ in range(blocks - 1)))
        n = m
    return _named(**parts, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(n, v))


# --- MobileNetV2 and EfficientNet -------------------------------------------------------------------------------------------
class SqueezeExcite(nn.Module):
    """x * sigmoid(W2 silu(W1 mean x))."""

    def __init__(self, c: int, r: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(c, r, 1), nn.Conv2d(r, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, (squeeze and excite,) project; ``skip``: beside the identity."""

    def __init__(self, n: int, m: int, t: int, kernel: int, stride: int, act: type[nn.Module], squeeze: int, skip: bool) -> None:
        super().__init__()
        inner = n * t
        parts: list[nn.Module] = [conv_norm(n, inner, 1, act=act)] if t else []
        inner = inner if t else n
        parts.append(conv_norm(inner, inner, kernel, stride, inner, act))
        if squeeze:
            parts.append(SqueezeExcite(inner, squeeze))
        self.conv, self.skip = nn.Sequential(*parts, conv_norm(inner, m, 1, act=None)), skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


# per stage: kernel, stride of the first block, blocks
MOBILE = ((3, 1, 1), (3, 2, 2), (3, 2, 3), (3, 2, 4), (3, 1, 3), (3, 2, 3), (3, 1, 1))
EFFICIENT = ((3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1))


def _inverted(stages: Sequence[tuple[int, int, int]], widths: Sequence[int], t: int, last: int, act: type[nn.Module],
              squeeze: Sequence[int], v: int) -> nn.Module:
    """``squeeze`` [stages]: the squeezed channels of blocks that are given the width of the stem, of stage 1, 2, ...; none: no squeeze.

    All blocks of a stage but the first have a skip. (The first ones would, where their stride is 1 and two neighbouring stages are of
    one width; the published models have no such stages.)
    """
    body: list[nn.Module] = [conv_norm(3, widths[0], 3, 2, act=act)]
    for i, ((n, m), (kernel, stride, count)) in enumerate(zip(pairwise(widths), stages, strict=True)):
        for k in range(count):
            come = m if k else n
            body.append(InvertedResidual(come, m, t if i else 0, kernel, 1 if k else stride, act,
                                         squeeze[i + bool(k)] if squeeze else 0, skip=k > 0))
    return _headed(nn.Sequential(*body, conv_norm(widths[-1], last, 1, act=act)), last, v)


def mobilenet_v2(widths: Sequence[int], t: int, last: int, v: int) -> nn.Module:
    """Stem and seven stages of inverted residuals with ReLU6; the first does not expand."""
    return _inverted(MOBILE, widths, t, last, nn.ReLU6, (), v)


def efficientnet(widths: Sequence[int], squeeze: Sequence[int], t: int, last: int, v: int) -> nn.Module:
    """As MobileNetV2 with SiLU, larger kernels, and squeeze-and-excitation (in the published models to a quarter of a block's input)."""
    return _inverted(EFFICIENT, widths, t, last, nn.SiLU, squeeze, v)


# --- DenseNet ---------------------------------------------------------------------------------------------------------------
class DenseLayer(nn.Module):
    """Norm, ReLU, 1 x 1 convolution to 4 g; norm, ReLU, 3 x 3 convolution to g; beside everything before it."""

    def __init__(self, n: int, g: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(n), nn.Conv2d(n, 4 * g, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * g), nn.Conv2d(4 * g, g, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))], 1)


def densenet(stem: int, g: int, layers: Sequence[int], transitions: Sequence[int], v: int) -> nn.Module:
    """Four dense blocks of growth ``g``; between them 1 x 1 convolutions to the widths of ``transitions`` and mean pools."""
    body: dict[str, nn.Module] = {"conv0": nn.Conv2d(3, stem, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(stem), "relu0": nn.ReLU(),
                                  "pool0": nn.MaxPool2d(3, 2, 1)}
    n = stem
    for k, count in enumerate(layers, 1):
        body[f"denseblock{k}"] = nn.Sequential(*(DenseLayer(n + i * g, g) for i in range(count)))
        n += count * g
        if k <= len(transitions):
            after = transitions[k - 1]
            body[f"transition{k}"] = _named(norm=nn.BatchNorm2d(n), relu=nn.ReLU(), conv=nn.Conv2d(n, after, 1, bias=False),
                                            pool=nn.AvgPool2d(2))
            n = after
    return _headed(_named(**body, norm5=nn.BatchNorm2d(n), relu5=nn.ReLU()), n, v)


# --- U-Net ------------------------------------------------------------------------------------------------------------------
class UNet(nn.Module):
    """Five levels of two convolutions; halved by max-pools on the way down, doubled by transposed convolutions on the way up."""

    def __init__(self, widths: Sequence[int], v: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(self._twice(n, m) for n, m in pairwise([1, *widths]))
        climb = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(n, m, 2, stride=2) for n, m in climb)
        self.merge = nn.ModuleList(self._twice(2 * m, m) for _, m in climb)
        self.head = nn.Conv2d(widths[0], v, 1)

    @staticmethod
    def _twice(n: int, m: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(n, m, 3, padding=1), nn.ReLU(), nn.Conv2d(m, m, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, merge, beside in zip(self.up, self.merge, reversed(kept[:-1]), strict=True):
            x = merge(torch.cat([beside, up(x)], 1))
        return self.head(x)
