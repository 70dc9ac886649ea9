"""Models of transformers: every config at width 8, one layer, two heads of four, a vocabulary of 13."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from symdisc.architectures.hf import NO_TOKENS
from symdisc.architectures.hf import configured as _config
from symdisc.architectures.hf import made as _model
from symdisc.coverage.builders import Built

__all__ = ["MODELS"]

VOCABULARY, WIDTH, HEADS, INNER, LENGTH, TARGET = 13, 8, 2, 6, 5, 3
WIDER = 6  # narrower than the stream, as in the published models, but not than a head
MANY = 40  # where an MLP reads the embedding itself, beside the attention: at fewer tokens it is seen at too few points


def _ids(length: int = LENGTH, low: int = 3) -> torch.Tensor:
    return torch.randint(low, VOCABULARY, (2, length))  # every draw of the checks ranges over the whole vocabulary


def _text(name: str, kind: str, *, mask: bool = False, positions: int = 0, length: int = LENGTH,
          prepare: Callable[[Any], Any] | None = None, **settings: Any) -> Callable[[], Built]:
    """A model of token ids; ``settings`` are those of the config beside the usual small sizes."""
    def made() -> Built:
        usual = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": HEADS,
                 "intermediate_size": INNER, **NO_TOKENS}
        model = _model(name, _config(kind, {**usual, **settings}))
        ids = _ids(length)
        kwargs = {"input_ids": ids, **({"attention_mask": torch.ones_like(ids)} if mask else {})}
        if positions:  # counted from the padding id on: as inputs they reach every row of the table
            kwargs["position_ids"] = torch.randint(0, positions, ids.shape)
        return Built(model if prepare is None else prepare(model), (), kwargs)

    return made


def _decoder(family: str, **settings: Any) -> Callable[[], Built]:
    """A causal language model with the usual names of the llama family."""
    usual = {"num_key_value_heads": HEADS, "head_dim": 4, "max_position_embeddings": 16}
    return _text(f"{family}ForCausalLM", f"{family}Config", **{**usual, **settings})


def _pair(name: str, kind: str, mask: bool = True, **settings: Any) -> Callable[[], Built]:
    """An encoder-decoder pair on token ids."""
    def made() -> Built:
        usual = {"vocab_size": VOCABULARY, "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": HEADS,
                 "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER, "max_position_embeddings": LENGTH,
                 "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None}
        model = _model(name, _config(kind, {**usual, **settings}))
        ids, target = _ids(), _ids(TARGET)
        masks = {"attention_mask": torch.ones_like(ids), "decoder_attention_mask": torch.ones_like(target)} if mask else {}
        return Built(model, (), {"input_ids": ids, "decoder_input_ids": target, **masks})

    return made


def _vision(name: str, kind: str, side: int = 8, **settings: Any) -> Callable[[], Built]:
    """A model of images with patches of 4."""
    def made() -> Built:
        usual = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": INNER,
                 "image_size": side, "patch_size": 4, "num_channels": 2}
        return Built(_model(name, _config(kind, {**usual, **settings})), (), {"pixel_values": torch.randn(2, settings.get(
            "num_channels", 2), side, side)})

    return made


def _clip() -> Built:
    tower = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS, "projection_dim": 4}
    text = {**tower, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**tower, "image_size": 8, "patch_size": 4, "num_channels": 2}
    config = _config("CLIPConfig", {"text_config": text, "vision_config": vision, "projection_dim": 4})
    ids = _ids()
    ids[:, -1] = 2
    return Built(_model("CLIPModel", config), (), {"input_ids": ids, "pixel_values": torch.randn(2, 2, 8, 8),
                                                   "attention_mask": torch.ones_like(ids)})


def _clipseg() -> Built:
    tower = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS}
    text = {**tower, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = _config("CLIPSegConfig", {
        "text_config": text, "vision_config": {**tower, "image_size": 8, "patch_size": 4, "num_channels": 2}, "projection_dim": 4,
        "reduce_dim": 4, "extract_layers": [0], "decoder_num_attention_heads": 2, "decoder_intermediate_size": 6,
        "conditional_layer": 0})
    ids = _ids()
    ids[:, -1] = 2
    return Built(_model("CLIPSegForImageSegmentation", config), (), {
        "input_ids": ids, "pixel_values": torch.randn(2, 2, 8, 8), "attention_mask": torch.ones_like(ids)})


def _audio(name: str, kind: str) -> Callable[[], Built]:
    def made() -> Built:
        config = _config(kind, {
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": HEADS,
            "intermediate_size": INNER, "conv_dim": [WIDTH, WIDTH], "conv_stride": [2, 2], "conv_kernel": [4, 3],
            "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False})
        return Built(_model(name, config), (), {"input_values": torch.randn(2, 41)})

    return made


def _whisper() -> Built:
    config = _config("WhisperConfig", {
        "vocab_size": VOCABULARY, "num_mel_bins": 3, "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER,
        "max_source_positions": 5, "max_target_positions": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1, "begin_suppress_tokens": None})
    return Built(_model("WhisperForConditionalGeneration", config), (), {
        "input_features": torch.randn(2, 3, 10), "decoder_input_ids": _ids(3)})


def _siglip() -> Built:
    config = _config("SiglipVisionConfig", {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS, "image_size": 8,
        "patch_size": 4, "num_channels": 2})
    return Built(_model("SiglipVisionModel", config), (), {"pixel_values": torch.randn(2, 2, 8, 8)})


def _blip() -> Built:
    config = _config("BlipVisionConfig", {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS, "image_size": 8,
        "patch_size": 4})
    return Built(_model("BlipVisionModel", config), (), {"pixel_values": torch.randn(2, 3, 8, 8)})


def _mae() -> Built:
    config = _config("ViTMAEConfig", {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS, "image_size": 12,
        "patch_size": 4, "num_channels": 2, "mask_ratio": 0.5, "decoder_hidden_size": WIDTH, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": HEADS, "decoder_intermediate_size": INNER})
    return Built(_model("ViTMAEModel", config), (), {"pixel_values": torch.randn(2, 2, 12, 12),
                                                     "noise": torch.linspace(0.0, 1.0, 18).reshape(2, 9)})


def _swin() -> Built:
    config = _config("SwinConfig", {"image_size": 16, "patch_size": 2, "num_channels": 2, "embed_dim": 4, "depths": [1, 1],
                                    "num_heads": [2, 2], "window_size": 4, "mlp_ratio": 1.5})
    return Built(_model("SwinModel", config), (), {"pixel_values": torch.randn(2, 2, 16, 16)})


def _segformer() -> Built:
    config = _config("SegformerConfig", {
        "num_channels": 2, "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [4, 6],
        "patch_sizes": [3, 3], "strides": [2, 2], "num_attention_heads": [2, 2], "mlp_ratios": [1, 1], "decoder_hidden_size": 5,
        "num_labels": 3})
    return Built(_model("SegformerForSemanticSegmentation", config), (), {"pixel_values": torch.randn(2, 2, 16, 16)})


def _resnet() -> Built:
    config = _config("ResNetConfig", {"num_channels": 2, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1],
                                      "layer_type": "basic", "num_labels": 3})
    return Built(_model("ResNetForImageClassification", config), (), {"pixel_values": torch.randn(2, 2, 16, 16)})


def _detr() -> Built:
    backbone = _config("ResNetConfig", {"num_channels": 3, "embedding_size": 4, "hidden_sizes": [4, 4], "depths": [1, 1],
                                        "layer_type": "basic", "out_features": ["stage2"]})
    config = _config("DetrConfig", {
        "backbone_config": backbone, "use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False, "d_model": WIDTH,
        "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER, "num_queries": 3, "num_labels": 3})
    return Built(_model("DetrForObjectDetection", config), (), {"pixel_values": torch.randn(2, 3, 32, 32),
                                                                "pixel_mask": torch.ones(2, 32, 32, dtype=torch.int64)})


def _patchtst() -> Built:
    config = _config("PatchTSTConfig", {
        "num_input_channels": 2, "context_length": 30, "patch_length": 10, "patch_stride": 5, "num_hidden_layers": 1, "d_model": WIDTH,
        "num_attention_heads": HEADS, "ffn_dim": INNER, "prediction_length": 9})
    return Built(_model("PatchTSTForPrediction", config), (), {"past_values": torch.randn(3, 30, 2)})


def _lora() -> Built:
    import peft

    built = _decoder("Llama", num_attention_heads=4, head_dim=4, num_key_value_heads=2)()
    options = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return Built(peft.get_peft_model(built.model, options), (), built.kwargs)


def _experts(kind: str) -> Callable[[Any], Any]:
    def prepare(model: Any) -> Any:
        model.set_experts_implementation(kind)
        return model

    return prepare


def _clamped(model: Any) -> Any:
    """Experts that clamp at 0.3, not at 7, which small inputs never reach."""
    for module in model.modules():
        if hasattr(module, "limit"):
            module.limit = 0.3
    return model


def _gpt2(name: str, kind: str, **more: Any) -> Callable[[], Built]:
    return _text(name, kind, n_embd=WIDTH, n_layer=1, n_head=HEADS, n_inner=INNER, n_positions=LENGTH, **more)


GROUPED: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
MOE: dict[str, Any] = {"num_local_experts": 3, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 4}
MAMBA: dict[str, Any] = {"state_size": 3, "expand": 1, "conv_kernel": 3, "time_step_rank": 2}
DEEPSEEK: dict[str, Any] = {
    "q_lora_rank": 4, "kv_lora_rank": 4, "qk_rope_head_dim": 2, "qk_nope_head_dim": 2, "v_head_dim": 3, "n_routed_experts": 4,
    "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 4, "first_k_dense_replace": 0,
    "n_shared_experts": 1, "head_dim": 2}
BERT: dict[str, Any] = {"max_position_embeddings": LENGTH, "type_vocab_size": 2}
ROBERTA: dict[str, Any] = {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
XLNET: dict[str, Any] = {"d_model": WIDTH, "n_layer": 1, "n_head": HEADS, "d_inner": INNER}
HYBRID: dict[str, Any] = {
    "num_hidden_layers": 2, **MOE, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    "mamba_d_state": 3, "mamba_d_conv": 3, "mamba_expand": 1, "mamba_dt_rank": 2, "use_mamba_kernels": False}
NEXT: dict[str, Any] = {
    "num_hidden_layers": 2, **GROUPED, **MOE, "shared_expert_intermediate_size": 4, "linear_num_value_heads": 2, "head_dim": 8,
    "linear_num_key_heads": 1, "linear_key_head_dim": 3, "linear_value_head_dim": 3, "linear_conv_kernel_dim": 3,
    "layer_types": ["linear_attention", "full_attention"]}

MODELS: Mapping[str, Callable[[], Built]] = {
    "bert": _text("BertModel", "BertConfig", **BERT),
    "roberta": _text("RobertaModel", "RobertaConfig", type_vocab_size=1, positions=LENGTH + 2, **ROBERTA),
    "albert": _text("AlbertModel", "AlbertConfig", embedding_size=WIDER, **BERT),
    "distilbert": _text("DistilBertModel", "DistilBertConfig", dim=WIDTH, n_layers=1, n_heads=HEADS, hidden_dim=INNER,
                        max_position_embeddings=LENGTH, pad_token_id=0),
    "electra": _text("ElectraModel", "ElectraConfig", embedding_size=WIDER, **BERT),
    "deberta_v2": _text("DebertaV2ForMaskedLM", "DebertaV2Config", relative_attention=True, pos_att_type=["p2c", "c2p"],
                        position_buckets=6, max_relative_positions=7, position_biased_input=False, type_vocab_size=0,
                        pad_token_id=0, length=8),  # every one of the twelve distances occurs, more than the width
    "modernbert": _text("ModernBertForMaskedLM", "ModernBertConfig", max_position_embeddings=16, pad_token_id=0, cls_token_id=1,
                        sep_token_id=2, mask=True),
    "mpnet": _text("MPNetForMaskedLM", "MPNetConfig", relative_attention_num_buckets=32, positions=LENGTH + 2, **ROBERTA),
    "esm": _text("EsmForMaskedLM", "EsmConfig", position_embedding_type="rotary", mask_token_id=2, **ROBERTA, mask=True),
    "fnet": _text("FNetForMaskedLM", "FNetConfig", max_position_embeddings=LENGTH, type_vocab_size=2, pad_token_id=0),
    "xlnet": _text("XLNetLMHeadModel", "XLNetConfig", **XLNET),
    "gpt2": _gpt2("GPT2LMHeadModel", "GPT2Config"),
    "gpt_neo": _text("GPTNeoForCausalLM", "GPTNeoConfig", num_layers=1, num_heads=HEADS, attention_types=[[["global"], 1]],
                     max_position_embeddings=LENGTH, window_size=3),
    "gptj": _gpt2("GPTJForCausalLM", "GPTJConfig", rotary_dim=2, vocab_size=MANY),
    "gpt_neox": _text("GPTNeoXForCausalLM", "GPTNeoXConfig", max_position_embeddings=16, rotary_pct=0.5, vocab_size=MANY),
    "opt": _text("OPTForCausalLM", "OPTConfig", ffn_dim=INNER, max_position_embeddings=LENGTH, word_embed_proj_dim=WIDTH, pad_token_id=1),
    "xglm": _text("XGLMForCausalLM", "XGLMConfig", d_model=WIDTH, num_layers=1, attention_heads=HEADS, ffn_dim=INNER,
                  max_position_embeddings=LENGTH, pad_token_id=1),
    "bloom": _text("BloomForCausalLM", "BloomConfig", n_layer=1, n_head=HEADS),
    "mpt": _text("MptForCausalLM", "MptConfig", d_model=WIDTH, n_layers=1, n_heads=HEADS, expansion_ratio=1, max_seq_len=8),
    "falcon": _text("FalconForCausalLM", "FalconConfig", num_kv_heads=1, new_decoder_architecture=True, ffn_hidden_size=INNER,
                    max_position_embeddings=16, vocab_size=MANY),
    "falcon_alibi": _text("FalconForCausalLM", "FalconConfig", alibi=True, multi_query=True, new_decoder_architecture=False,
                          ffn_hidden_size=INNER, vocab_size=MANY),
    "phi": _decoder("Phi", partial_rotary_factor=0.5, vocab_size=MANY),
    "phi3": _decoder("Phi3", num_key_value_heads=1),
    "starcoder2": _decoder("Starcoder2"),
    "stablelm": _decoder("StableLm", partial_rotary_factor=0.5),
    "llama_gqa": _decoder("Llama", **GROUPED),
    "llama_tied": _decoder("Llama", tie_word_embeddings=True),
    "llama_mask": _text("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=HEADS, head_dim=4, max_position_embeddings=16, mask=True),
    "llama_eager": _decoder("Llama", attn_implementation="eager"),
    "llama_lora": _lora,
    "llama4_text": _text("Llama4ForCausalLM", "Llama4TextConfig", **GROUPED, **MOE, head_dim=4, intermediate_size_mlp=INNER,
                         max_position_embeddings=16, attention_chunk_size=16),
    "mistral": _decoder("Mistral", **GROUPED, sliding_window=3),
    "mixtral": _decoder("Mixtral", **MOE),
    "mixtral_batched_mm": _text("MixtralForCausalLM", "MixtralConfig", prepare=_experts("batched_mm"), num_key_value_heads=HEADS,
                                head_dim=4, **MOE),
    "mixtral_grouped_mm": _text("MixtralForCausalLM", "MixtralConfig", prepare=_experts("grouped_mm"), num_key_value_heads=HEADS,
                                head_dim=4, **MOE),
    "qwen2": _decoder("Qwen2", **GROUPED),
    "qwen3_qknorm": _decoder("Qwen3", **GROUPED),
    "qwen3_moe": _decoder("Qwen3Moe", **GROUPED, **MOE),
    "qwen3_next": _text("Qwen3NextForCausalLM", "Qwen3NextConfig", **NEXT),
    "gemma": _decoder("Gemma"),
    "gemma2": _decoder("Gemma2", **GROUPED, query_pre_attn_scalar=4),
    "gemma3": _text("Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, head_dim=4, query_pre_attn_scalar=4, max_position_embeddings=16),
    "gpt_oss": _decoder("GptOss", num_attention_heads=4, num_key_value_heads=2, **MOE, prepare=_clamped),
    "granite": _decoder("Granite"),
    "nemotron": _decoder("Nemotron"),
    "glm4": _decoder("Glm4", **GROUPED),
    "cohere2": _decoder("Cohere2", **GROUPED, sliding_window=3, vocab_size=MANY),
    "olmo2": _decoder("Olmo2"),
    "olmoe": _decoder("Olmoe", **MOE),
    "smollm3": _decoder("SmolLM3", **GROUPED),
    "deepseek_v3": _decoder("DeepseekV3", **DEEPSEEK),
    "lfm2": _decoder("Lfm2", layer_types=["conv", "full_attention"], num_hidden_layers=2, block_auto_adjust_ff_dim=False,
                    vocab_size=MANY),
    "jamba": _text("JambaForCausalLM", "JambaConfig", num_key_value_heads=1, **HYBRID),
    "mamba": _text("MambaForCausalLM", "MambaConfig", **MAMBA),
    "mamba2": _text("Mamba2ForCausalLM", "Mamba2Config", state_size=3, expand=1, conv_kernel=3, num_heads=2, head_dim=4, n_groups=1,
                    chunk_size=4),
    "rwkv": _text("RwkvForCausalLM", "RwkvConfig", attention_hidden_size=WIDTH, context_length=8, num_hidden_layers=2, rescale_every=0),
    "recurrent_gemma": _text("RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", num_hidden_layers=2, lru_width=WIDTH, head_dim=4,
                             num_key_value_heads=1, conv1d_width=3, block_types=["recurrent", "attention"],
                             attention_window_size=16),
    "t5": _pair("T5ForConditionalGeneration", "T5Config", d_kv=4, d_ff=INNER, num_layers=1, num_decoder_layers=1, num_heads=HEADS,
                relative_attention_num_buckets=4, relative_attention_max_distance=6),
    "bart": _pair("BartForConditionalGeneration", "BartConfig"),
    "pegasus": _pair("PegasusForConditionalGeneration", "PegasusConfig"),
    "marian": _pair("MarianMTModel", "MarianConfig"),
    "whisper": _whisper,
    "wav2vec2": _audio("Wav2Vec2Model", "Wav2Vec2Config"),
    "hubert": _audio("HubertModel", "HubertConfig"),
    "patchtst": _patchtst,
    "vit": _vision("ViTForImageClassification", "ViTConfig"),
    "deit": _vision("DeiTModel", "DeiTConfig"),
    "dinov2": _vision("Dinov2Model", "Dinov2Config", mlp_ratio=1),
    "beit": _vision("BeitModel", "BeitConfig", use_relative_position_bias=True, use_mean_pooling=False),
    "vit_mae": _mae,
    "siglip": _siglip,
    "blip_vqa_vision": _blip,
    "clip": _clip,
    "vilt_like_clipseg": _clipseg,
    "hf_swin": _swin,
    "segformer": _segformer,
    "hf_resnet": _resnet,
    "detr": _detr,
}
