"""Image classifiers of timm at a few channels and one or two blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from symdisc.coverage.builders import Built
from symdisc.coverage.builders.narrow import narrow

__all__ = ["MODELS"]

CLASSES = 3


def _of(name: str, side: int = 32, factor: int = 1, **settings: Any) -> Callable[[], Built]:
    def built() -> Built:
        import timm

        with narrow(factor):
            model = timm.create_model(name, num_classes=CLASSES * factor, **settings)
        return Built(model, (torch.randn(2, 3, side, side),))

    return built


def _class(module: str, name: str, side: int = 32, prepare: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None,
           **settings: Any) -> Callable[[], Built]:
    """The class behind a model of timm, where the model's own settings cannot be overridden by name."""
    def built() -> Built:
        import timm

        found = getattr(timm.models, module)
        options = settings if prepare is None else prepare(found, settings)
        return Built(getattr(found, name)(**{"num_classes": CLASSES, **options}), (torch.randn(2, 3, side, side),))

    return built


def _uncached(*args: Any, **settings: Any) -> Callable[[], Built]:
    """In evaluation mode LeViT keeps the score tables of its first call, whatever becomes of the parameters; read anew here."""
    def built() -> Built:
        made = _class(*args, **settings)()
        for module in made.model.modules():
            if hasattr(module, "attention_bias_cache"):
                module.get_attention_biases = lambda device, m=module: m.attention_biases[:, m.attention_bias_idxs]
        return made

    return built


def _byob(module: str, name: str, side: int = 32, stages: int = 2, channels: int = 8) -> Callable[[], Built]:
    """A model of timm's block language: the first stages of its own settings, one block of a few channels each."""
    def built() -> Built:
        from dataclasses import replace

        import timm
        from timm.models import byobnet

        config = getattr(timm.models, module).model_cfgs[name]
        blocks = tuple(_small(b, channels) for b in config.blocks[:stages])
        config = replace(config, blocks=blocks, stem_chs=channels, num_features=0)
        return Built(byobnet.ByobNet(config, num_classes=CLASSES), (torch.randn(2, 3, side, side),))

    return built


def _small(block: Any, channels: int) -> Any:
    from dataclasses import replace

    if isinstance(block, (list, tuple)):
        return tuple(_small(b, channels) for b in block)
    narrow_block = replace(block, d=1, c=channels, gs=None if block.gs is None else 1)
    sizes = {"transformer_dim": channels, "transformer_depth": 1, "num_heads": 2, "dim_head": 4, "block_size": 2, "halo_size": 1, "r": 3}
    options = {k: sizes.get(k, v) for k, v in (narrow_block.block_kwargs or {}).items()}
    layer = {k: sizes.get(k, v) for k, v in (narrow_block.self_attn_kwargs or {}).items()} if hasattr(block, "self_attn_kwargs") else None
    return replace(narrow_block, block_kwargs=options, **({} if layer is None else {"self_attn_kwargs": layer}))


def _residual(found: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with layers, told by name, from the module of the model."""
    return {k: getattr(found, v) if isinstance(v, str) else v for k, v in settings.items()}


def _config(kind: str) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
    return lambda found, settings: {"cfg": getattr(found, kind)(**settings)}


def _maxxvit(found: Any, settings: dict[str, Any]) -> dict[str, Any]:
    inner = found.MaxxVitTransformerCfg(dim_head=4, expand_ratio=1.0, window_size=(4, 4), grid_size=(4, 4))
    conv = found.MaxxVitConvCfg(expand_ratio=1.0, init_values=None)
    return {"img_size": 32, "cfg": found.MaxxVitCfg(stem_width=8, transformer_cfg=inner, conv_cfg=conv, **settings)}


def _resnest(found: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "block": found.ResNestBottleneck}


def _poolformer(found: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What tells PoolFormer from the other networks of its class."""
    return {**settings, "downsample_norm": None, "mlp_act": torch.nn.GELU, "mlp_bias": True, "norm_layers": found.GroupNorm1,
            "layer_scale_init_values": 1.0, "res_scale_init_values": (None, None), "use_mlp_head": False}


def _as_given(channels: float, *_: Any, **__: Any) -> int:
    """Channels as the blocks name them, where the library would round them up to multiples of eight."""
    return int(channels)


def _efficientnet(found: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Blocks in the library's own words, one a stage."""
    from timm.models._efficientnet_builder import decode_arch_def

    rest = {k: v for k, v in settings.items() if k != "blocks"}
    return {**rest, "block_args": decode_arch_def([[b] for b in settings["blocks"]]), "act_layer": torch.nn.SiLU}


def _mobilenet(found: Any, settings: dict[str, Any]) -> dict[str, Any]:
    from functools import partial

    from timm.models._efficientnet_blocks import SqueezeExcite

    squeeze = partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=torch.nn.ReLU, rd_round_fn=lambda c: max(int(c), 2))
    return {**_efficientnet(found, settings), "act_layer": torch.nn.Hardswish, "se_layer": squeeze}


def _regnety() -> Built:
    from timm.models import regnet

    with narrow({4: 2, 8: 3, 16: 4, 32: 6, 64: 6}):
        config = regnet.RegNetCfg(depth=4, w0=8, wa=12.6, wm=2.0, group_size=8, se_ratio=0.25, stem_width=8)
        model = regnet.RegNet(config, num_classes=CLASSES)
    return Built(model, (torch.randn(2, 3, 64, 64),))


def _groups(found: Any, settings: dict[str, Any]) -> dict[str, Any]:
    from functools import partial

    return {**settings, "norm_layer": partial(found.GroupNormAct, num_groups=2)}


VIT: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}
MLP: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "num_blocks": 1}

MODELS: Mapping[str, Callable[[], Built]] = {
    "timm_vit_tiny_patch16_224": _of("vit_tiny_patch16_224", 8, **VIT, mlp_ratio=1.0),
    "timm_vit_small_patch14_reg4_dinov2": _of("vit_small_patch14_reg4_dinov2", 8, **VIT, mlp_ratio=1.0),
    "timm_deit3_small_patch16_224": _of("deit3_small_patch16_224", 8, **VIT, mlp_ratio=1.0),
    "timm_beit_base_patch16_224": _of("beit_base_patch16_224", 8, **VIT, mlp_ratio=1.0, global_pool=""),
    "timm_eva02_tiny_patch14_224": _of("eva02_tiny_patch14_224", 8, **VIT, mlp_ratio=0.75),
    "timm_cait_xxs24_224": _of("cait_xxs24_224", 8, **VIT, mlp_ratio=1.0),
    "timm_mixer_s32_224": _class("mlp_mixer", "MlpMixer", 8, **MLP, mlp_ratio=(0.5, 1.0)),
    "timm_gmlp_s16_224": _class("mlp_mixer", "MlpMixer", 8, _residual, **MLP, mlp_ratio=2, block_layer="SpatialGatingBlock",
                                mlp_layer="GatedMlp"),
    "timm_resmlp_12_224": _class("mlp_mixer", "MlpMixer", 8, _residual, **MLP, mlp_ratio=1, block_layer="ResBlock", mlp_layer="Mlp",
                                 norm_layer="Affine", num_classes=9),  # no fewer than channels: there is no norm before the head
    "timm_convmixer_768_32": _class("convmixer", "ConvMixer", 16, dim=6, depth=1, kernel_size=3, patch_size=4),
    "timm_convnext_atto": _class("convnext", "ConvNeXt", 64, depths=(1, 1, 1, 1), dims=(4, 4, 4, 6), kernel_sizes=3, conv_mlp=True),
    "timm_edgenext_xx_small": _of("edgenext_xx_small", 32, depths=(1, 1, 1, 1), dims=(4, 4, 8, 8), heads=(2, 2, 2, 2),
                                  d2_scales=(2, 2, 2, 2), kernel_sizes=(3, 3, 3, 3)),
    "timm_swin_tiny_patch4_window7_224": _of("swin_tiny_patch4_window7_224", 16, img_size=16, patch_size=4, window_size=2, embed_dim=4,
                                             depths=(2, 1), num_heads=(2, 2), mlp_ratio=1.5),
    "timm_davit_tiny": _of("davit_tiny", 32, depths=(1, 1), embed_dims=(4, 8), num_heads=(2, 2), window_size=4, mlp_ratio=1.5),
    "timm_focalnet_tiny_srf": _class("focalnet", "FocalNet", depths=(1, 1), embed_dim=4, focal_levels=(2, 2), focal_windows=(3, 3),
                                     mlp_ratio=1.5),
    "timm_hiera_tiny_224": _of("hiera_tiny_224", 32, img_size=(32, 32), embed_dim=4, num_heads=2, stages=(1, 1), q_pool=1,
                               mlp_ratio=1.5, mask_unit_size=(4, 4)),
    "timm_pvt_v2_b0": _of("pvt_v2_b0", 32, depths=(1, 1), embed_dims=(4, 8), num_heads=(2, 2), sr_ratios=(2, 1), mlp_ratios=(2, 2)),
    "timm_poolformer_s12": _class("metaformer", "MetaFormer", 32, _poolformer, depths=(1, 1), dims=(4, 6)),
    "timm_mambaout_femto": _of("mambaout_femto", 32, depths=(2, 1), dims=(6, 8)),  # one block would not bind what it adds
    "timm_fastvit_t8": _class("fastvit", "FastVit", 64, layers=(1, 1), embed_dims=(4, 8), mlp_ratios=(2, 2), downsamples=(False, True),
                              token_mixers=("repmixer", "repmixer"), se_downsamples=(False, False), pos_embs=(None, None)),
    "timm_xcit_nano_12_p16_224": _of("xcit_nano_12_p16_224", 32, img_size=32, patch_size=16, embed_dim=8, depth=1, num_heads=2,
                                     mlp_ratio=1.0, cls_attn_layers=1),
    "timm_volo_d1_224": _class("volo", "VOLO", 32, img_size=32, layers=(1, 1), embed_dims=(8, 8), num_heads=(2, 2), mlp_ratio=1,
                               downsamples=(False, False), outlook_attention=(True, False), stem_hidden_dim=4, post_layers=None,
                               use_aux_head=False, global_pool="avg"),
    "timm_tnt_s_patch16_224": _of("tnt_s_patch16_224", 16, img_size=16, patch_size=8, embed_dim=8, inner_dim=4, depth=2, num_heads_inner=2,
                                  num_heads_outer=2, mlp_ratio=1.0),
    "timm_crossvit_tiny_240": _class("crossvit", "CrossVit", 16, img_size=16, patch_size=(4, 8), embed_dim=(4, 4), depth=((1, 1, 0),),
                                 num_heads=(2, 2), mlp_ratio=(1, 1, 1)),
    "timm_levit_128s": _uncached("levit", "Levit", 64, img_size=64, embed_dim=(8, 8), key_dim=4, num_heads=(2, 2), depth=(1, 1)),
    "timm_maxvit_tiny_rw_224": _class("maxxvit", "MaxxVit", 32, _maxxvit, embed_dim=(8,), depths=(1,), block_type=("M",)),
    "timm_coatnet_0_rw_224": _class("maxxvit", "MaxxVit", 32, _maxxvit, embed_dim=(8, 8), depths=(1, 1), block_type=("C", "T")),
    "timm_efficientnet_b0": _class("efficientnet", "EfficientNet", 32, _efficientnet, num_features=8, stem_size=4, round_chs_fn=_as_given,
                                   blocks=("ds_r1_k3_s1_e1_c4_se0.25", "ir_r1_k3_s2_e2_c4_se0.25", "ir_r1_k5_s2_e2_c4_se0.25")),
    "timm_ghostnet_050": _class("ghostnet", "GhostNet", cfgs=[[[3, 8, 8, 0, 1]], [[3, 12, 8, 0.25, 2]]], width=0.5),
    "timm_mobilenetv3_small_050": _class("mobilenetv3", "MobileNetV3", 32, _mobilenet, num_features=8, stem_size=4, round_chs_fn=_as_given,
                                         blocks=("ds_r1_k3_s2_e1_c4_se0.25_nre", "ir_r1_k3_s2_e2_c4_nre", "ir_r1_k5_s1_e2_c4_se0.25",
                                                 "cn_r1_k1_s1_c8")),
    "timm_dla34": _of("dla34", 64, levels=(1, 1, 1, 1, 1, 1), channels=(2, 2, 3, 3, 3, 3)),
    "timm_resnest14d": _class("resnest", "ResNet", 32, _resnest, layers=(1, 1, 1, 1), channels=(4, 4, 4, 4), stem_width=4, stem_type="deep",
                              avg_down=True, base_width=64, cardinality=1, block_args={"radix": 2, "avd": True}),
    "timm_resnetv2_50x1_bit": _class("resnetv2", "ResNetV2", 32, _groups, layers=(1, 1), channels=(8, 16), stem_chs=4),
    "timm_nf_regnet_b1": _class("nfnet", "NormFreeNet", 32, _config("NfCfg"), depths=(1, 1), channels=(8, 8), group_size=4, stem_chs=4,
                                attn_layer="se", attn_kwargs={"rd_ratio": 0.5}, reg=True),
    "timm_regnety_002": _regnety,
    "timm_repvgg_a0": _byob("byobnet", "repvgg_a0"),
    "timm_mobilevit_xxs": _byob("mobilevit", "mobilevit_xxs", stages=3),
    "timm_halonet26t": _byob("byoanet", "halonet26t", 128, stages=3),
    "timm_lambda_resnet26t": _byob("byoanet", "lambda_resnet26t", 64, stages=3),
}
