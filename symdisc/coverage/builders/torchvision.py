"""Image classifiers of torchvision at a few channels: by their own settings where they have them, else built narrower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from symdisc.coverage.builders import Built
from symdisc.coverage.builders.narrow import narrow

__all__ = ["MODELS"]

CLASSES = 3


def _of(make: Callable[[Any], nn.Module], side: int = 32, to: int | Mapping[int, int] = 1, images: int = 2) -> Callable[[], Built]:
    """The model that ``make`` makes of ``torchvision.models`` with narrower layers, and images large enough that every tap of its
    last kernels meets a pixel."""
    def built() -> Built:
        from torchvision import models

        with narrow(to):
            return Built(make(models), (torch.randn(images, 3, side, side),))

    return built


def _convnext(m: Any) -> nn.Module:
    settings = [m.convnext.CNBlockConfig(4, 6, 1), m.convnext.CNBlockConfig(6, None, 1)]
    return m.ConvNeXt(settings, num_classes=CLASSES)


def _efficientnet(m: Any) -> nn.Module:
    make = partial(m.efficientnet.MBConvConfig, width_mult=1.0, depth_mult=1.0)
    return m.EfficientNet([make(1, 3, 1, 8, 8, 1), make(2, 3, 2, 8, 8, 2)], 0.0, num_classes=CLASSES, last_channel=8)


def _mobilenet_v3(m: Any) -> nn.Module:
    make = partial(m.mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    settings = [make(8, 3, 8, 8, True, "RE", 2, 1), make(8, 3, 16, 8, False, "HS", 1, 1)]
    return m.MobileNetV3(settings, 8, num_classes=CLASSES)


def _regnet(m: Any) -> nn.Module:
    settings = m.regnet.BlockParams.from_init_params(depth=2, w_0=8, w_a=8.0, w_m=2.0, group_width=4, se_ratio=0.25)
    return m.RegNet(settings, num_classes=CLASSES, stem_width=4)


def _inception(m: Any, name: str, factor: int) -> nn.Module:
    return getattr(m, name)(num_classes=CLASSES * factor, aux_logits=False, init_weights=False)


MODELS: Mapping[str, Callable[[], Built]] = {
    "tv_resnet18": _of(lambda m: m.ResNet(m.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES), 64, {64: 3, 128: 4, 256: 4, 512: 5}),
    "tv_vgg11_bn": _of(lambda m: m.vgg11_bn(num_classes=CLASSES), 224, {64: 2, 128: 2, 256: 3, 512: 2, 25088: 98, 4096: 4}, images=1),
    "tv_mobilenet_v2": _of(lambda m: m.MobileNetV2(CLASSES, 1.0, [[1, 4, 1, 1], [2, 4, 2, 2]], 4, dropout=0.0), 32, {32: 4, 1280: 6}),
    "tv_densenet121": _of(lambda m: m.DenseNet(2, (2, 1, 1, 1), 4, bn_size=2, num_classes=CLASSES), 64),
    "tv_convnext_tiny": _of(_convnext),
    "tv_vit_b_16": _of(lambda m: m.VisionTransformer(8, 4, 2, 2, 8, 6, num_classes=CLASSES), 8),
    "tv_swin_t": _of(lambda m: m.SwinTransformer([4, 4], 4, [2, 1], [2, 2], [2, 2], 1.5, num_classes=CLASSES)),
    "tv_swin_v2_t": _of(lambda m: m.SwinTransformer([4, 4], 4, [2, 1], [2, 2], [2, 2], 1.5, num_classes=CLASSES,
                                                    block=m.swin_transformer.SwinTransformerBlockV2,
                                                    downsample_layer=m.swin_transformer.PatchMergingV2)),
    "tv_efficientnet_b0": _of(_efficientnet, 32, {8: 4, 16: 8}),
    "tv_alexnet": _of(lambda m: m.alexnet(num_classes=CLASSES), 224, {64: 2, 192: 2, 384: 3, 256: 2, 9216: 72, 4096: 4}, images=1),
    "tv_squeezenet1_1": _of(lambda m: m.squeezenet1_1(num_classes=CLASSES), 64, {
        16: 2, 32: 2, 48: 2, 64: 2, 128: 4, 192: 3, 256: 8, 384: 6, 512: 16}),
    "tv_shufflenet_v2_x0_5": _of(lambda m: m.ShuffleNetV2([1, 1, 1], [4, 4, 8, 8, 8], CLASSES), 64),
    "tv_mobilenet_v3_small": _of(_mobilenet_v3, 32, {8: 4, 16: 8, 48: 8}),
    "tv_regnet_y_400mf": _of(_regnet),
    "tv_googlenet": _of(lambda m: _inception(m, "googlenet", 8), 32, 8),
    "tv_inception_v3": _of(lambda m: _inception(m, "inception_v3", 16), 80, 16),
}
