"""Classes of transformers built from settings of their configs; imported only when one of them is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["NO_TOKENS", "configured", "made", "tokens"]

NO_TOKENS: dict[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def configured(kind: str, settings: Mapping[str, Any], width: int | None = None) -> Any:
    """The config class ``kind`` at ``settings``, without a cache among the outputs (it would stop the export).

    ``width`` replaces the width of the stream afterwards: some configs demand a multiple of the number of heads at first, though
    nothing in their models does.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    config = getattr(transformers, kind)(**settings)
    if width is not None:
        config.hidden_size = width
    for part in (config, getattr(config, "text_config", None)):
        if part is not None:
            part.use_cache = False
    return config


def made(name: str, config: Any) -> Any:
    """The model class ``name`` for ``config``, with transformers' initial weights."""
    import transformers

    if any(hasattr(config, key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        _without_grouped_kernel()
    return getattr(transformers, name)(config)


def _without_grouped_kernel() -> None:
    """torch's grouped product takes no float64; transformers' own loop over experts, which export sees anyway, does."""
    from transformers.integrations import moe

    moe._can_use_grouped_mm = lambda *_, **__: False


def tokens(vocabulary: int, length: int, batch: int = 2) -> torch.Tensor:
    """Random token ids, [batch, length]."""
    return torch.randint(0, vocabulary, (batch, length))
