"""A small network of the same structure as a Hugging Face model: its config shrunk and built again, with generic weights.

What decides the symmetry stays: the kinds of layers, how many query heads share a key head, the part of a head that is
rotated, ties, activations, eps, biases. What only counts units shrinks: width, heads, vocabulary, positions, layers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.errors import BadInput

__all__ = ["epsilons", "make_decidable", "miniature", "randomise", "shrink_config"]

LAYERS, HEADS, HEAD_SIZE, INNER, TOKENS = 1, 2, 4, 3, 3
SPARE_ROWS = 4  # of the vocabulary beyond the width of the stream, so that embeddings reach every direction
WIDTH = ("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim")
HEAD_COUNT = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
              "decoder_attention_heads")
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
         "num_decoder_layers")
INNERS = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
EPSILONS = ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps", "eps", "epsilon", "variance_epsilon")  # of configs, modules
EPSILON = 0.05  # of BERT's 1e-12 no rank in float64 could tell that it breaks the scale of a stream
TOKEN_IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "sep_token_id", "cls_token_id", "pad_token_id")


def miniature(source: Any, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """(model, example inputs): the network of ``source`` (a transformers model or config), small, float64, generic weights.

    A model keeps its class (with or without heads); a config is built by ``AutoModel``. The model is in eval mode. Raises
    BadInput where ``source`` carries no config, or where the shrunken config cannot be built.
    """
    config = getattr(source, "config", source)
    if not hasattr(config, "to_dict"):
        raise BadInput(f"{type(source).__name__} carries no Hugging Face config; a miniature needs one to shrink")
    small = shrink_config(config)
    try:
        model = _build(source, small)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"no miniature of {type(config).__name__}: the shrunken config cannot be built ({reason})") from error
    model = model.double().eval()
    randomise(model, seed)
    rows = _tokens(small, seed)
    if getattr(small, "is_encoder_decoder", False):
        return model, (rows, torch.ones_like(rows), rows)  # input_ids, attention_mask, decoder_input_ids
    return model, (rows,)


def _build(source: Any, small: Any) -> nn.Module:
    small._attn_implementation = getattr(getattr(source, "config", source), "_attn_implementation", None) or "sdpa"
    if isinstance(source, nn.Module):
        kind: Any = type(source)
        return kind(small)
    from transformers import AutoModel

    return AutoModel.from_config(small)


def shrink_config(config: Any) -> Any:
    """A copy of ``config`` with small sizes; sizes derived from others (head size, grouped heads) keep their ratios."""
    small = copy.deepcopy(config)
    heads = _first(config, HEAD_COUNT, 1)
    new_heads = min(heads, HEADS)
    key_heads = getattr(config, "num_key_value_heads", None)
    if isinstance(key_heads, int) and 0 < key_heads < heads:
        new_heads, new_key_heads = (2, 1) if key_heads == 1 else (4, 2)
        small.num_key_value_heads = new_key_heads
    elif isinstance(key_heads, int):
        small.num_key_value_heads = new_heads
    width, size = _first(config, WIDTH, 1), _head_size(config, heads)
    new_width = new_heads * HEAD_SIZE
    _set(small, WIDTH, new_width)
    _set(small, HEAD_COUNT, new_heads)
    _set(small, DEPTH, LAYERS)
    _set(small, INNERS, INNER)
    for name in ("head_dim", "d_kv"):
        if isinstance(getattr(config, name, None), int):
            # head sizes that do not fill the stream (heads * size != width) keep doing so
            setattr(small, name, HEAD_SIZE if heads * size == width else HEAD_SIZE + 2)
    if isinstance(getattr(config, "embedding_size", None), int):
        small.embedding_size = new_width if config.embedding_size == width else new_width // 2
    _set(small, POSITIONS, TOKENS + 2 + (getattr(config, "pad_token_id", None) or 0 if _offset(config) else 0))
    _vocabulary(small, new_width + SPARE_ROWS)
    for name in ("layer_types", "attention_types"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, (list, tuple)):
            setattr(small, name, list(kinds[:LAYERS]))
    for name in ("sliding_window", "window_size"):
        if isinstance(getattr(config, name, None), int):
            setattr(small, name, 2)
    for name in EPSILONS:
        if isinstance(getattr(config, name, None), float) and getattr(config, name) > 0.0:
            setattr(small, name, EPSILON)
    small.use_cache = False
    return small


def _offset(config: Any) -> bool:
    """RoBERTa's kind counts positions from the padding id on."""
    return "roberta" in str(getattr(config, "model_type", "")) or getattr(config, "model_type", "") == "camembert"


def _head_size(config: Any, heads: int) -> int:
    for name in ("head_dim", "d_kv"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    return int(_first(config, WIDTH, 1)) // heads


def _vocabulary(small: Any, rows: int) -> None:
    small.vocab_size = rows
    if not _offset(small) and not getattr(small, "is_encoder_decoder", False):
        small.pad_token_id = None  # an embedding gives its padding row no gradient, and the row would count as unused
    for name in TOKEN_IDS:
        value = getattr(small, name, None)
        if isinstance(value, int) and value >= rows:
            setattr(small, name, rows - 1)


def _first(config: Any, names: tuple[str, ...], default: int) -> int:
    return next((v for v in (getattr(config, n, None) for n in names) if isinstance(v, int)), default)


def _set(small: Any, names: tuple[str, ...], value: int) -> None:
    """Sets what the config has; names that transformers maps to one attribute are set once more without harm."""
    for name in names:
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, value)


def _tokens(small: Any, seed: int) -> Tensor:
    """[2, TOKENS] ids that avoid padding."""
    g = torch.Generator().manual_seed(seed)
    allowed = [i for i in range(small.vocab_size) if i != getattr(small, "pad_token_id", None)]
    return torch.tensor(allowed)[torch.randint(0, len(allowed), (2, TOKENS), generator=g)]


def make_decidable(model: nn.Module) -> None:
    """In place: every eps > 0 is raised to EPSILON, and padding rows of embeddings get gradients like the others."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
    for module, key in epsilons(model):
        if getattr(module, key) is None or 0.0 < getattr(module, key) < EPSILON:
            setattr(module, key, EPSILON)


def epsilons(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The modules and attributes that hold the eps of norms; None is that of the number format, above zero."""
    return [(m, k) for m in model.modules() for k in EPSILONS
            if isinstance(getattr(m, k, None), float) or (isinstance(m, nn.RMSNorm) and k == "eps")]


def randomise(model: nn.Module, seed: int) -> None:
    """Generic parameters in place: gains near their constant, biases of size 0.4, weights of variance 1 / fan-in."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)
            low, high = float(p.min()), float(p.max())
            if low == high != 0.0:  # layer scales begin at 1e-4 and less, where a branch would drown in rounding
                p.copy_((low if abs(low) > 0.1 else 1.0) * (1.0 + 0.25 * noise.clamp(-2.5, 2.5)))
            elif p.dim() >= 2:
                p.copy_(noise / max(p[0].numel(), 1) ** 0.5)
            else:
                p.copy_(0.4 * noise)
