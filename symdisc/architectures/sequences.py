"""Entries of language models without attention: Mamba and RWKV; and Llama wrapped with LoRA."""

from __future__ import annotations

from torch import Tensor, nn

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes
from symdisc.architectures.decoders import EPS, GENERIC, LAYERS, LENGTH, LLAMA, LLAMA_SMALL, TIED, TOKENS, UNTIED, WORDS, llama_config
from symdisc.architectures.hf import NO_TOKENS, configured, made, tokens

__all__ = ["ENTRIES", "LowRank"]


class LowRank(nn.Module):
    """W x + (alpha / r) B A x: a linear map with an update of rank r; B starts at zero."""

    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__()
        self.base_layer, self.scaling = base, alpha / r
        self.lora_A, self.lora_B = nn.Linear(base.in_features, r, bias=False), nn.Linear(r, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scaling * self.lora_B(self.lora_A(x))


def _wrapped(s: Sizes) -> Built:
    model = made("LlamaForCausalLM", llama_config(s))
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, LowRank(getattr(layer.self_attn, name), s["r"], 16.0))
    return model.eval(), (tokens(s["v"], LENGTH),)


def _mamba(s: Sizes) -> Built:
    config = configured("MambaConfig", {**NO_TOKENS, "hidden_size": s["d"], "state_size": s["n"], "time_step_rank": s["r"],
                                        "conv_kernel": 4,
                                        "expand": 2, "num_hidden_layers": s["L"], "vocab_size": s["v"]})
    return made("MambaForCausalLM", config).eval(), (tokens(s["v"], LENGTH),)


def _rwkv(s: Sizes) -> Built:
    config = configured("RwkvConfig", {**NO_TOKENS, "hidden_size": s["d"], "attention_hidden_size": s["d"], "intermediate_size": s["f"],
                                       "num_hidden_layers": s["L"], "vocab_size": s["v"], "context_length": 1024, "rescale_every": 0})
    return made("RwkvForCausalLM", config).eval(), (tokens(s["v"], LENGTH),)


D = {"d": "model width"}
MAMBA_SMALL = ({"d": 3, "n": 2, "r": 2, "L": 1, "v": 7}, {"d": 4, "n": 3, "r": 2, "L": 1, "v": 9}, {"d": 3, "n": 2, "r": 2, "L": 2, "v": 8})
RWKV_SMALL = ({"d": 3, "f": 4, "L": 2, "v": 7}, {"d": 3, "f": 5, "L": 3, "v": 8}, {"d": 4, "f": 5, "L": 2, "v": 9})

ENTRIES = (
    Architecture("llama-lora", "Llama with LoRA on queries and values", LLAMA | {"r": "rank of an update"}, _wrapped,
                 tuple(s | {"r": r} for s, r in zip(LLAMA_SMALL, (1, 2, 2), strict=True)),
                 ("Llama-2-7B with LoRA of rank 8", {"d": 4096, "h": 32, "k": 128, "f": 11008, "L": 32, "v": 32000, "r": 8}),
                 (sources.defines("Hu et al., LoRA, ICLR 2022, arXiv:2106.09685"), sources.LINEAR, sources.ROTARY_GAUGE, sources.STREAM),
                 (GENERIC, EPS, UNTIED, TOKENS, "frozen and trained matrices are all parameters; B has left its zero start")),
    Architecture("mamba", "Mamba", {**D, "n": "state of a channel", "r": "rank of the time steps", **LAYERS, **WORDS}, _mamba, MAMBA_SMALL,
                 ("Mamba-130M", {"d": 768, "n": 16, "r": 48, "L": 24, "v": 50280}),
                 (sources.defines("Gu, Dao, Mamba, 2023, arXiv:2312.00752"),), (GENERIC, EPS, TIED, TOKENS)),
    Architecture("rwkv", "RWKV-4", {**D, "f": "width of the channel mixing", **LAYERS, **WORDS}, _rwkv, RWKV_SMALL,
                 ("RWKV-4-Pile-169M", {"d": 768, "f": 3072, "L": 12, "v": 50277}),
                 (sources.defines("Peng et al., RWKV, EMNLP 2023, arXiv:2305.13048"),),
                 (GENERIC, EPS, UNTIED, TOKENS)),
)
