"""Entries of the convolutional networks."""

from __future__ import annotations

import torch
from torch import nn

from symdisc.architectures import convnets, sources
from symdisc.architectures.base import Architecture, Built, Sizes

__all__ = ["ENTRIES"]

EVAL = "eval mode: BatchNorm is an affine map by its running statistics, which move along with the weights"
CLASSES = "classes"


def _widths(s: Sizes, letter: str = "c") -> list[int]:
    """The sizes c0, c1, ... in their order."""
    return [n for key, n in sorted(s.items()) if key[0] == letter and key[1:].isdigit()]


def _images(model: nn.Module, side: int, channels: int = 3) -> Built:
    """``side`` is such that every tap of every kernel sees an image somewhere."""
    return model.eval(), (torch.randn(2, channels, side, side),)


def _numbered(letter: str, meaning: str, low: int, high: int) -> dict[str, str]:
    return {f"{letter}{i}": f"{meaning} {i}" for i in range(low, high + 1)}


def _all(widths: tuple[int, ...], low: int = 1, letter: str = "c", **more: int) -> dict[str, int]:
    return {f"{letter}{low + i}": n for i, n in enumerate(widths)} | more


def _vgg(s: Sizes) -> Built:
    return _images(convnets.vgg_bn(_widths(s), (1, 1, 2, 2, 2), s["s"], s["f"], s["v"]), 32 * s["s"])


def _resnet(s: Sizes) -> Built:
    return _images(convnets.resnet(_widths(s), s["b"], s["v"]), 64)


def _mobilenet(s: Sizes) -> Built:
    return _images(convnets.mobilenet_v2(_widths(s), s["t"], s["e"], s["v"]), 64)


def _efficientnet(s: Sizes) -> Built:
    return _images(convnets.efficientnet(_widths(s), _widths(s, "q"), s["t"], s["e"], s["v"]), 96)


def _densenet(s: Sizes) -> Built:
    return _images(convnets.densenet(s["c0"], s["g"], _widths(s, "n"), _widths(s, "t"), s["v"]), 64)


def _unet(s: Sizes) -> Built:
    return _images(convnets.UNet(_widths(s), s["v"]), 32, 1)


INVERTED = {"c0": "channels of the stem", **_numbered("c", "channels of stage", 1, 7), "t": "expansion", "e": "channels before the head",
            "v": CLASSES}
SQUEEZED = _all((1,) * 7, 0, "q")
SKIPS = "no skip at the first block of a stage: neighbouring stages are of different widths"

ENTRIES = (
    Architecture(
        "vgg-bn", "VGG-11 with BatchNorm",
        {**_numbered("c", "channels of stage", 1, 5), "s": "side of the last map", "f": "width of the classifier", "v": CLASSES}, _vgg,
        (_all((1, 1, 1, 2, 1), s=2, f=3, v=3), _all((2, 1, 2, 1, 2), s=2, f=2, v=4), _all((2, 2, 2, 1, 2), s=2, f=2, v=3)),
        ("VGG-11-BN", _all((64, 128, 256, 512, 512), s=7, f=4096, v=1000)),
        (sources.defines("Simonyan, Zisserman, Very deep convolutional networks, ICLR 2015, arXiv:1409.1556"), sources.POSITIVE_SCALES,
         sources.BATCH_NORM), (EVAL, "ReLU units switch on the data")),
    Architecture(
        "resnet-18", "ResNet-18", {**_numbered("c", "channels of stage", 1, 4), "b": "blocks of a stage", "v": CLASSES}, _resnet,
        (_all((2, 2, 2, 2), b=1, v=3), _all((1, 2, 2, 3), b=1, v=4), _all((1, 2, 1, 2), b=2, v=3)),
        ("ResNet-18", _all((64, 128, 256, 512), b=2, v=1000)),
        (sources.defines("He, Zhang, Ren, Sun, Deep residual learning, CVPR 2016, arXiv:1512.03385"), sources.POSITIVE_SCALES,
         sources.BATCH_NORM), (EVAL, "ReLU units switch on the data")),
    Architecture(
        "mobilenet-v2", "MobileNetV2", INVERTED, _mobilenet,
        (_all((2, 2, 1, 1, 1, 1, 1, 2), 0, t=2, e=3, v=2), _all((3, 1, 1, 1, 1, 1, 1, 2), 0, t=2, e=3, v=2),
         _all((2, 1, 2, 1, 1, 1, 1, 1), 0, t=2, e=2, v=2)),
        ("MobileNetV2 1.0", _all((32, 16, 24, 32, 64, 96, 160, 320), 0, t=6, e=1280, v=1000)),
        (sources.defines("Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2, CVPR 2018, arXiv:1801.04381"), sources.BATCH_NORM),
        (EVAL, SKIPS, "ReLU6 has no scale: its end at 6 is met on the data")),
    Architecture(
        "efficientnet", "EfficientNet-B0", INVERTED | _numbered("q", "squeezed channels of a block that is given the channels c", 0, 6),
        _efficientnet,
        (_all((1,) * 8, 0, t=2, e=3, v=2) | SQUEEZED, _all((1, 1, 1, 1, 1, 1, 2, 2), 0, t=2, e=3, v=2) | SQUEEZED,
         _all((1, 1, 2, 1, 1, 1, 1, 1), 0, t=2, e=3, v=2) | SQUEEZED),
        ("EfficientNet-B0", _all((32, 16, 24, 40, 80, 112, 192, 320), 0, t=6, e=1280, v=1000)
         | _all((8, 4, 6, 10, 20, 28, 48), 0, "q")),
        (sources.defines("Tan, Le, EfficientNet, ICML 2019, arXiv:1905.11946"), sources.BATCH_NORM),
        (EVAL, SKIPS)),
    Architecture(
        "densenet", "DenseNet-BC",
        {"c0": "channels of the stem", "g": "growth", **_numbered("n", "layers of block", 1, 4),
         **_numbered("t", "channels of transition", 1, 3), "v": CLASSES}, _densenet,
        (_all((1, 1, 1, 1), letter="n", c0=2, g=1, t1=2, t2=2, t3=2, v=3), _all((2, 1, 1, 2), letter="n", c0=1, g=1, t1=1, t2=2, t3=1, v=4),
         _all((1, 2, 1, 1), letter="n", c0=2, g=1, t1=2, t2=1, t3=2, v=2)),
        ("DenseNet-121", _all((6, 12, 24, 16), letter="n", c0=64, g=32, t1=128, t2=256, t3=512, v=1000)),
        (sources.defines("Huang, Liu, van der Maaten, Weinberger, Densely connected convolutional networks, CVPR 2017, arXiv:1608.06993"),
         sources.POSITIVE_SCALES, sources.BATCH_NORM), (EVAL, "ReLU units switch on the data")),
    Architecture(
        "u-net", "U-Net", {**_numbered("c", "channels of level", 1, 5), "v": CLASSES}, _unet,
        (_all((1, 1, 1, 2, 1), v=2), _all((2, 1, 1, 2, 1), v=2), _all((1, 2, 1, 2, 1), v=3)),
        ("U-Net of the paper", _all((64, 128, 256, 512, 1024), v=2)),
        (sources.defines("Ronneberger, Fischer, Brox, U-Net, MICCAI 2015, arXiv:1505.04597"), sources.POSITIVE_SCALES),
        ("convolutions keep the size of the map (padding 1), as most implementations do", "ReLU units switch on the data")),
)
