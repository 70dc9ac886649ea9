"""How far the named families alone reach: their dimension beside the fibre, on miniatures of published architectures and on
registered networks, and where the directions lie that no name covers.

    OMP_NUM_THREADS=1 python tests/run_named.py                       # all miniatures
    OMP_NUM_THREADS=1 python tests/run_named.py 'gpt*' t5 'lstm*'     # these miniatures and registered networks
"""

from __future__ import annotations

import fnmatch
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from networks import NETWORKS, ready
from torch import Tensor, nn

import symdisc
from symdisc.errors import SymdiscError, Undecided
from symdisc.torchside.algebra import fibre
from symdisc.torchside.miniature import miniature
from symdisc.torchside.network import Network
from symdisc.torchside.remainder import float64_state, tangents

MODELS = ("bert", "gpt2", "llama", "mistral", "qwen2", "qwen3", "opt", "gemma", "gemma2", "gpt_neox", "distilbert", "roberta",
          "albert", "t5", "phi3", "phi", "falcon", "bloom", "mpt", "gptj", "vit", "deit", "whisper", "bart", "electra",
          "mobilebert", "xlm-roberta", "mamba", "convnext", "swin", "gpt_neo", "olmo2", "stablelm", "starcoder2", "cohere",
          "deberta-v2", "mixtral", "granite", "marian", "clip_text_model")

Case = tuple[nn.Module, tuple[Tensor, ...]]


def config_of(kind: str):  # type: ignore[no-untyped-def]
    """The default config of a model type, grouped heads where the family has them."""
    import transformers

    more = {"llama": {"num_key_value_heads": 8}, "t5": {"feed_forward_proj": "relu"}}.get(kind, {})
    return transformers.CONFIG_MAPPING[kind](**more)


def cases(patterns: list[str]) -> Iterator[tuple[str, Case]]:
    for kind in MODELS:
        if any(fnmatch.fnmatch(kind, p) for p in patterns or ["*"]):
            try:
                yield kind, miniature(config_of(kind))
            except (SymdiscError, KeyError, TypeError, AttributeError) as error:
                print(f"{kind:22s} {error}"[:150], flush=True)
    for name in NETWORKS:
        if any(fnmatch.fnmatch(name, p) for p in patterns):
            model, maker, _ = ready(name)
            yield name, (model, maker(0))


def survey(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[int, int, int, str]:
    """(named dimension, its rank, fibre, parameters in which what is left lies with how many directions of it)."""
    cat = symdisc.discover(model, example, solve=False)
    network = Network(cat.captured, float64_state(cat.captured))
    space = fibre(network)[0]
    rows = tangents([s for s in cat.symmetries if s.counts], float64_state(cat.captured), list(network.layout))
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    _, s, vh = np.linalg.svd(rows, full_matrices=False)
    span = vh[s > 1e-7 * max(s.max(initial=0.0), 1e-300)]
    rest = space.basis - span.T @ (span @ space.basis)
    left = np.linalg.svd(rest, full_matrices=False)
    basis = left[0][:, left[1] > 1e-4]
    told, at = [], 0
    for name, shape in network.layout.items():
        n = int(np.prod(shape))
        part = np.linalg.svd(basis[at:at + n], compute_uv=False)
        if (part > 1e-4).any():
            told.append(f"{name}{list(shape)}:{int((part > 1e-4).sum())}")
        at += n
    broken = [f"{b.site}/{b.family}: {b.reason}" for b in cat.broken]
    return cat.group_dimension, len(span), space.dimension, "  ".join(told + [f"BROKEN {b}" for b in broken])


def main(arguments: list[str]) -> int:
    """See the module's docstring; exit code 1 if any network is not covered."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lacking = 0
    for name, (model, example) in cases(arguments):
        start = time.time()
        try:
            named, rank, full, where = survey(model, example)
        except (SymdiscError, Undecided, RuntimeError) as error:
            print(f"{name:22s} {type(error).__name__}: {error}"[:200], flush=True)
            continue
        lacking += named != full
        size = sum(p.numel() for p in model.parameters())
        verdict = "ok" if named == full == rank else f"LACKS {full - named}" if named < full else "TOO MANY"
        print(f"{name:22s} {size:5d}  {named:4d} ({rank}) / {full:4d}  {verdict:9s} {time.time() - start:5.1f} s  {where}", flush=True)
    return int(lacking > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
