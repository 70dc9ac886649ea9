"""Hugging Face configs to models: read the JSON, find the class, build it on the meta device or with values, make inputs."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.errors import BadInput

__all__ = ["inputs_for", "open_config", "read_config"]

# Up to this many parameters a config is given values even if only the catalog is asked for: then each family is run, not only
# derived. Beyond it, random float64 copies of the weights would take gigabytes.
VALUES_LIMIT = 50_000_000

# distinct primes, so that no data axis can be mistaken for another one or for a width
BATCH, LENGTH, TARGET_LENGTH = 2, 5, 3

POSITIONS = re.compile(r"(^|[._])(wpe|pos(ition)?s?_?emb\w*|embed_positions?|position_?embeddings?)$")

Opened = tuple[nn.Module, tuple[Any, ...], Path | None, tuple[str, ...]]


def open_config(path: Path, values: bool | None, seed: int) -> Opened:
    """(model, inputs, folder of the weights or None, notes) of a config file or of a folder with a config.json."""
    file = path / "config.json" if path.is_dir() else path
    config = read_config(file)
    made = _class_of(config)
    with _quiet():
        model = _build(made, config, file, meta=True)
    count = sum(p.numel() for p in model.parameters())
    folder = file.parent if _weights_in(file.parent) else None
    notes: tuple[str, ...] = (f"{type(model).__name__} on the meta device: {count:,} parameters without values",)
    if values or (values is None and count <= VALUES_LIMIT):
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _build(made, config, file, meta=False) if folder is None else _load(made, config, folder)
        notes = (f"{type(model).__name__} with the weights of {folder}" if folder
                 else f"{type(model).__name__} with random weights (seed {seed})",)
    model.eval()
    device = next(model.parameters()).device
    return model, inputs_for(model, config, device, seed), folder, notes


def read_config(file: Path) -> Any:
    """The transformers config in a JSON file; raises BadInput saying what is missing."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{file.parent} has no config.json: a folder is a source only with a Hugging Face config in it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {getattr(error, 'strerror', None) or 'not a text file'}") from error
    except json.JSONDecodeError as error:
        raise BadInput(f"{file} is not JSON: {error.msg} in line {error.lineno}") from error
    if isinstance(data, dict) and "symmetries" in data:
        raise BadInput(f"{file} is a catalog, not a model; a source is a model (only latex takes catalogs)")
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
        raise BadInput(f"{file} is not a Hugging Face config: it has no \"model_type\"")
    if "auto_map" in data:
        raise BadInput(f"{file} needs program code from its folder (auto_map), which is not run; write a factory instead: file.py:factory")
    transformers = _transformers()
    if data["model_type"] not in transformers.CONFIG_MAPPING:
        raise BadInput(f"{file}: transformers {transformers.__version__} does not know model_type {data['model_type']!r}")
    try:
        with _quiet():
            config = transformers.CONFIG_MAPPING[data["model_type"]].from_dict(data)
    except Exception as error:
        raise BadInput(f"{file}: transformers refuses this config: {_first_line(error)}") from error
    for part in (config, getattr(config, "text_config", None), getattr(config, "decoder", None)):
        if part is not None and hasattr(part, "use_cache"):
            part.use_cache = False  # a cache among the outputs stops the export
    return config


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise BadInput("a Hugging Face config needs the transformers package: pip install 'symdisc[hf]'") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


class _quiet(warnings.catch_warnings):
    """Advice that transformers gives to people who train is no news here."""

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")


def _class_of(config: Any) -> Any:
    """The class named by ``architectures``, else the one that AutoModel would take."""
    transformers = _transformers()
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if inspect.isclass(found) and issubclass(found, nn.Module):
            return found
    try:
        return transformers.AutoModel._model_mapping[type(config)]
    except (KeyError, AttributeError) as error:
        raise BadInput(f"transformers has no model for model_type {config.model_type!r}") from error


def _build(made: Any, config: Any, file: Path, meta: bool) -> nn.Module:
    try:
        if meta:
            with torch.device("meta"):
                return made(config)
        return made(config)
    except MemoryError:
        raise
    except Exception as error:
        raise BadInput(f"{file}: {getattr(made, '__name__', 'the model')} cannot be built from it: {_first_line(error)}") from error


def _weights_in(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file()


def _load(made: Any, config: Any, folder: Path) -> nn.Module:
    """The folder's safetensors, never a pickle, never the network; every parameter must be in the file."""
    try:
        loaded, info = made.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True,
                                            dtype=torch.float32, output_loading_info=True)
    except Exception as error:
        raise BadInput(f"the weights in {folder} cannot be loaded: {_first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise BadInput(f"the weights in {folder} lack {len(missing)} tensors of {type(loaded).__name__}, first {missing[0]}")
    for name, tensor in loaded.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"the weights in {folder} hold NaN or infinite values in {name}")
    return loaded


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# --- inputs -----------------------------------------------------------------------------------------------------------------
def inputs_for(model: nn.Module, config: Any, device: torch.device, seed: int = 0) -> tuple[Any, ...]:
    """Positional inputs with small sizes: token ids, pixels, or both; encoder-decoder pairs get both ids and a mask.

    Learned positions and token types are drawn as inputs too: otherwise the rows that short sequences do not reach would pass
    for unused, and a transformation that is free there would ruin longer ones.
    """
    wanted = list(inspect.signature(model.forward).parameters)
    text = getattr(config, "text_config", None) or config
    generator = torch.Generator().manual_seed(seed)
    named: dict[str, Tensor] = {}
    if "input_ids" in wanted and isinstance(getattr(text, "vocab_size", None), int):
        named = _text_inputs(model, config, text, wanted, generator)
    if "pixel_values" in wanted:
        vision = getattr(config, "vision_config", None) or config
        side = getattr(vision, "image_size", 32)
        height, width = side if isinstance(side, (tuple, list)) else (side, side)
        named["pixel_values"] = torch.randn(BATCH, getattr(vision, "num_channels", 3), height, width, generator=generator)
    if not named:
        first = getattr(model, "main_input_name", wanted[0] if wanted else "nothing")
        raise BadInput(f"{type(model).__name__} takes {first}, for which no inputs are made; write a factory that returns (model, inputs)")
    last = max(wanted.index(n) for n in named)
    return tuple(named[n].to(device) if n in named else None for n in wanted[: last + 1])


def _text_inputs(model: nn.Module, config: Any, text: Any, wanted: list[str], generator: torch.Generator) -> dict[str, Tensor]:
    rows = [m.num_embeddings for n, m in model.named_modules() if isinstance(m, nn.Embedding) and POSITIONS.search(n)]
    free = "position_ids" in wanted
    limit = getattr(text, "max_position_embeddings", None) or (min(rows) if rows else LENGTH)
    length = min(LENGTH, max(limit, 2)) if free or not rows else max(min(min(rows), limit), 2)
    length = max(length, (getattr(text, "relative_attention_max_distance", None) or 0) + 2)  # every bucket of distances is met
    named = {"input_ids": _ids(text, (BATCH, length), generator)}
    types = getattr(text, "type_vocab_size", 0) or 0
    if "token_type_ids" in wanted and types > 1:
        named["token_type_ids"] = torch.randint(0, types, named["input_ids"].shape, generator=generator)
    pair = getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in wanted
    if rows and free:
        named["position_ids"] = torch.randint(0, min(min(rows), limit), named["input_ids"].shape, generator=generator)
    if pair:
        named["decoder_input_ids"] = _ids(text, (BATCH, TARGET_LENGTH if length == LENGTH else length), generator)
    if (pair or "position_ids" in named) and "attention_mask" in wanted:
        # without a mask transformers takes a jump in the positions for the start of another sequence
        named["attention_mask"] = torch.ones_like(named["input_ids"])
    return named


def _ids(text: Any, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random token ids; the padding token is left out, since models skip its position."""
    ids = torch.randint(0, text.vocab_size, shape, generator=generator)
    pad = getattr(text, "pad_token_id", None)
    return torch.where(ids == pad, (ids + 1) % text.vocab_size, ids) if isinstance(pad, int) else ids
