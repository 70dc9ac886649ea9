"""Entries of the causal language models, all of them transformers' own classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes
from symdisc.architectures.hf import NO_TOKENS, configured, made, tokens

__all__ = ["ENTRIES", "llama_config"]

LENGTH = 5  # tokens of a call, where no table of positions asks for more

D, HEADS, SIZE, LAYERS = {"d": "model width"}, {"h": "heads"}, {"k": "size of a head"}, {"L": "layers"}
GROUPS = {"g": "key and value heads", "r": "query heads of each key head"}
INNER, WORDS, PLACES = {"f": "feed-forward width"}, {"v": "vocabulary"}, {"n": "positions"}
SQUARE = {**HEADS, **SIZE, **LAYERS}  # models whose width is h k
GENERIC = "generic weights, eval mode, no padding"
EPS = "eps > 0 in the norms: with eps = 0 every stream has one scale more"
UNTIED = "embedding and head are untied"
TIED = "embedding and head are tied"
TOKENS = "more tokens than the model is wide"


def _causal(name: str, kind: str, settings: Mapping[str, Any], width: int | None = None, length: int = LENGTH) -> Built:
    config = configured(kind, {**NO_TOKENS, **settings}, width)
    return made(name, config).eval(), (tokens(settings["vocab_size"], length),)


def _family(s: Sizes) -> dict[str, Any]:
    """Settings under the names of the Llama family; h stands for as many key heads, g and r for grouped ones."""
    heads = s["h"] if "h" in s else s["g"] * s["r"]
    return {"hidden_size": heads * s["k"], "num_attention_heads": heads, "num_key_value_heads": s.get("g", heads), "head_dim": s["k"],
            "intermediate_size": s["f"], "num_hidden_layers": s["L"], "vocab_size": s["v"], "max_position_embeddings": 4096}


def llama_config(s: Sizes) -> Any:
    """The config of a Llama at sizes d, h (or g and r), k, f, L, v."""
    return configured("LlamaConfig", {**NO_TOKENS, **_family(s)}, s["d"])


def _decoder(family: str, **more: Any) -> Any:
    """A builder of the model ``family``ForCausalLM with further settings."""
    return lambda s: _causal(f"{family}ForCausalLM", f"{family}Config", {**_family(s), **more}, s["d"])


def _gpt2(tied: bool) -> Any:
    def build(s: Sizes) -> Built:
        return _causal("GPT2LMHeadModel", "GPT2Config", {
            "n_embd": s["h"] * s["k"], "n_head": s["h"], "n_layer": s["L"], "n_inner": s["f"], "vocab_size": s["v"], "n_positions": s["n"],
            "tie_word_embeddings": tied}, length=s["n"])

    return build


def _neox(s: Sizes) -> Built:
    size = s["m"] + s["u"]
    return _causal("GPTNeoXForCausalLM", "GPTNeoXConfig", {
        "hidden_size": s["h"] * size, "num_attention_heads": s["h"], "num_hidden_layers": s["L"], "intermediate_size": s["f"],
        "vocab_size": s["v"], "rotary_pct": (s["m"] + 0.25) / size, "max_position_embeddings": 2048})


def _bloom(s: Sizes) -> Built:
    return _causal("BloomForCausalLM", "BloomConfig", {"hidden_size": s["h"] * s["k"], "n_head": s["h"], "n_layer": s["L"],
                                                       "vocab_size": s["v"]})


def _gemma2(s: Sizes) -> Built:
    return _decoder("Gemma2", query_pre_attn_scalar=s["k"])(s)


def _mixtral(s: Sizes) -> Built:
    return _decoder("Mixtral", num_local_experts=s["E"], num_experts_per_tok=2)(s)


def _deepseek(s: Sizes) -> Built:
    return _causal("DeepseekV3ForCausalLM", "DeepseekV3Config", {
        "hidden_size": s["h"], "num_attention_heads": s["h"], "num_key_value_heads": s["h"], "q_lora_rank": s["q"], "kv_lora_rank": s["c"],
        "qk_rope_head_dim": s["m"], "qk_nope_head_dim": s["u"], "v_head_dim": s["w"], "head_dim": s["m"], "intermediate_size": s["f"],
        "moe_intermediate_size": s["e"], "n_group": s["G"], "topk_group": -(-s["G"] // 2), "n_routed_experts": s["G"] * s["a"],
        "num_experts_per_tok": s["G"], "n_shared_experts": 1, "first_k_dense_replace": s["l"], "num_hidden_layers": s["l"] + s["L"],
        "vocab_size": s["v"]}, s["d"])


GPT2 = {**SQUARE, **INNER, **WORDS, **PLACES}
LLAMA = {**D, **HEADS, **SIZE, **INNER, **LAYERS, **WORDS}
GROUPED = {**D, **GROUPS, **SIZE, **INNER, **LAYERS, **WORDS}
GPT2_SMALL = ({"h": 2, "k": 2, "L": 1, "f": 5, "v": 9, "n": 5}, {"h": 2, "k": 2, "L": 2, "f": 4, "v": 7, "n": 4},
              {"h": 2, "k": 3, "L": 1, "f": 7, "v": 11, "n": 7})
LLAMA_SMALL = ({"d": 4, "h": 2, "k": 2, "f": 5, "L": 1, "v": 9}, {"d": 5, "h": 1, "k": 4, "f": 6, "L": 2, "v": 11},
               {"d": 6, "h": 2, "k": 4, "f": 7, "L": 1, "v": 13})
GROUPED_SMALL = ({"d": 4, "g": 1, "r": 2, "k": 2, "f": 5, "L": 2, "v": 9}, {"d": 5, "g": 2, "r": 2, "k": 2, "f": 6, "L": 1, "v": 11},
                 {"d": 6, "g": 1, "r": 3, "k": 4, "f": 7, "L": 1, "v": 13})
NORMED_SMALL = ({"d": 4, "g": 1, "r": 2, "k": 4, "f": 5, "L": 1, "v": 9}, {"d": 5, "g": 2, "r": 2, "k": 4, "f": 6, "L": 1, "v": 11},
                {"d": 4, "g": 1, "r": 1, "k": 6, "f": 5, "L": 2, "v": 9})
NEOX_SMALL = ({"h": 2, "m": 2, "u": 1, "L": 1, "f": 7, "v": 41}, {"h": 1, "m": 2, "u": 2, "L": 1, "f": 5, "v": 43},
              {"h": 1, "m": 4, "u": 1, "L": 1, "f": 6, "v": 47})
BLOOM_SMALL = ({"h": 2, "k": 2, "L": 1, "v": 9}, {"h": 2, "k": 2, "L": 2, "v": 7}, {"h": 2, "k": 3, "L": 1, "v": 11})
MIXTRAL_SMALL = ({"d": 4, "g": 1, "r": 2, "k": 2, "f": 5, "E": 3, "L": 1, "v": 9},
                 {"d": 3, "g": 2, "r": 1, "k": 2, "f": 4, "E": 4, "L": 1, "v": 8},
                 {"d": 4, "g": 1, "r": 2, "k": 4, "f": 4, "E": 3, "L": 2, "v": 7})
DEEPSEEK_SMALL = (
    {"d": 4, "h": 2, "q": 3, "c": 3, "m": 2, "u": 1, "w": 3, "f": 5, "e": 2, "G": 2, "a": 2, "l": 0, "L": 1, "v": 9},
    {"d": 5, "h": 2, "q": 4, "c": 4, "m": 2, "u": 2, "w": 3, "f": 6, "e": 2, "G": 2, "a": 2, "l": 1, "L": 1, "v": 11},
    {"d": 4, "h": 1, "q": 3, "c": 3, "m": 4, "u": 2, "w": 5, "f": 5, "e": 3, "G": 2, "a": 2, "l": 0, "L": 1, "v": 9})

GPT2_SOURCE = sources.defines("Radford et al., Language models are unsupervised multitask learners, 2019")
DEEPSEEK = {**D, **HEADS, "q": "rank of the queries", "c": "rank of keys and values", "m": "rotated entries of a head",
            "u": "entries of a head that are not rotated", "w": "size of a value", "f": "width of a dense feed-forward",
            "e": "width of an expert", "G": "groups of experts (as many experts are chosen, from half of the groups, rounded up)",
            "a": "experts of a group", "l": "dense layers", "L": "layers with experts", **WORDS}

ENTRIES = (
    Architecture("gpt2", "GPT-2", GPT2, _gpt2(True), GPT2_SMALL,
                 ("GPT-2 (124M)", {"h": 12, "k": 64, "L": 12, "f": 3072, "v": 50257, "n": 1024}),
                 (GPT2_SOURCE, sources.KEY_BIAS), (GENERIC, EPS, TIED, TOKENS)),
    Architecture("gpt2-untied", "GPT-2 with an untied head", GPT2, _gpt2(False), GPT2_SMALL,
                 ("GPT-2 (124M) untied", {"h": 12, "k": 64, "L": 12, "f": 3072, "v": 50257, "n": 1024}),
                 (GPT2_SOURCE, sources.KEY_BIAS, sources.STREAM), (GENERIC, EPS, UNTIED, TOKENS)),
    Architecture("gpt-neox", "GPT-NeoX (partial rotary positions, parallel branches)",
                 {**HEADS, "m": "rotated entries of a head", "u": "entries of a head that are not rotated", **LAYERS, **INNER,
                 **WORDS}, _neox,
                 NEOX_SMALL, ("GPT-NeoX-20B", {"h": 64, "m": 24, "u": 72, "L": 44, "f": 24576, "v": 50432}),
                 (sources.defines("Black et al., GPT-NeoX-20B, 2022, arXiv:2204.06745"), sources.ROTARY_GAUGE),
                 (GENERIC, EPS, UNTIED, "many more tokens than the model is wide: the feed-forward of the first layer reads embeddings")),
    Architecture("bloom", "BLOOM (ALiBi)", {**SQUARE, **WORDS}, _bloom, BLOOM_SMALL,
                 ("BLOOM-176B", {"h": 112, "k": 128, "L": 70, "v": 250880}),
                 (sources.defines("Le Scao et al., BLOOM, 2022, arXiv:2211.05100"),
                  sources.defines("Press, Smith, Lewis, Train short, test long, ICLR 2022, arXiv:2108.12409",
                  "linear biases of attention")),
                 (GENERIC, EPS, TIED, TOKENS, "slopes of heads differ, so heads do not permute")),
    Architecture("llama", "Llama (multi-head)", LLAMA, _decoder("Llama"), LLAMA_SMALL,
                 ("Llama-2-7B", {"d": 4096, "h": 32, "k": 128, "f": 11008, "L": 32, "v": 32000}),
                 (sources.defines("Touvron et al., Llama 2, 2023, arXiv:2307.09288"), sources.ROTARY_GAUGE, sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS)),
    Architecture("llama-gqa", "Llama (grouped queries)", GROUPED, _decoder("Llama"), GROUPED_SMALL,
                 ("Llama-3-8B", {"d": 4096, "g": 8, "r": 4, "k": 128, "f": 14336, "L": 32, "v": 128256}),
                 (sources.defines("Dubey et al., The Llama 3 herd of models, 2024, arXiv:2407.21783"),
                  sources.defines("Ainslie et al., GQA, EMNLP 2023, arXiv:2305.13245", "grouped queries"), sources.ROTARY_GAUGE,
                  sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS)),
    Architecture("qwen2", "Qwen2 (biases of queries, keys and values)", GROUPED, _decoder("Qwen2"), GROUPED_SMALL,
                 ("Qwen2-7B", {"d": 3584, "g": 4, "r": 7, "k": 128, "f": 18944, "L": 28, "v": 152064}),
                 (sources.defines("Yang et al., Qwen2 technical report, 2024, arXiv:2407.10671"), sources.ROTARY_GAUGE, sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS)),
    Architecture("qwen3", "Qwen3 (norms of queries and keys)", GROUPED, _decoder("Qwen3"), NORMED_SMALL,
                 ("Qwen3-8B", {"d": 4096, "g": 8, "r": 4, "k": 128, "f": 12288, "L": 36, "v": 151936}),
                 (sources.defines("Yang et al., Qwen3 technical report, 2025, arXiv:2505.09388"), sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS)),
    Architecture("gemma2", "Gemma 2 (norms behind the branches, soft caps)", GROUPED, _gemma2, GROUPED_SMALL,
                 ("Gemma-2-9B", {"d": 3584, "g": 8, "r": 2, "k": 256, "f": 14336, "L": 42, "v": 256000}),
                 (sources.defines("Gemma team, Gemma 2, 2024, arXiv:2408.00118"), sources.ROTARY_GAUGE), (GENERIC, EPS, TIED, TOKENS)),
    Architecture("phi3", "Phi-3 (fused projections)", GROUPED, _decoder("Phi3"), GROUPED_SMALL,
                 ("Phi-3-mini", {"d": 3072, "g": 32, "r": 1, "k": 96, "f": 8192, "L": 32, "v": 32064}),
                 (sources.defines("Abdin et al., Phi-3 technical report, 2024, arXiv:2404.14219"), sources.ROTARY_GAUGE, sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS)),
    Architecture("mixtral", "Mixtral (experts)", {**D, **GROUPS, **SIZE, **INNER, "E": "experts", **LAYERS, **WORDS}, _mixtral,
                 MIXTRAL_SMALL,
                 ("Mixtral-8x7B", {"d": 4096, "g": 8, "r": 4, "k": 128, "f": 14336, "E": 8, "L": 32, "v": 32000}),
                 (sources.defines("Jiang et al., Mixtral of experts, 2024, arXiv:2401.04088"), sources.ROTARY_GAUGE, sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS, "top-2 routing on the stratum where the two largest scores are apart from the rest")),
    Architecture("deepseek-v3", "DeepSeek-V3 (latent attention, experts)", DEEPSEEK, _deepseek, DEEPSEEK_SMALL,
                 ("DeepSeek-V3", {"d": 7168, "h": 128, "q": 1536, "c": 512, "m": 64, "u": 128, "w": 128, "f": 18432, "e": 2048,
                                  "G": 8, "a": 32,
                                  "l": 3, "L": 58, "v": 129280}),
                 (sources.defines("DeepSeek-AI, DeepSeek-V3 technical report, 2024, arXiv:2412.19437"), sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS, "routing on the stratum where the chosen scores are apart from the rest",
                  "without the module that predicts further tokens")),
)
