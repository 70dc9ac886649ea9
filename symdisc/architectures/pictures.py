"""Entries of the vision models of ``vision``."""

from __future__ import annotations

import torch

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes
from symdisc.architectures.vision import DiffusionTransformer, Mixer, Swin

__all__ = ["ENTRIES"]

EPS = "eps > 0 in the norms"


def _mixer(s: Sizes) -> Built:
    model = Mixer(s["p"], s["s"], s["d"], s["t"], s["f"], s["L"], s["v"])
    return model.eval(), (torch.randn(2, 3, s["p"] * s["s"], s["p"] * s["s"]),)


def _swin(s: Sizes) -> Built:
    model = Swin([s["h1"], s["h2"], s["h3"], s["h4"]], [1, 1, s["m"], 1], s["k"], s["w"], s["r"], s["v"])
    return model.eval(), (torch.randn(2, 3, 32 * s["w"], 32 * s["w"]),)


def _dit(s: Sizes) -> Built:
    model = DiffusionTransformer(s["h"], s["k"], s["f"], s["L"], s["p"], s["s"], s["c"], s["q"], s["v"])
    side = s["p"] * s["s"]
    return model.eval(), (torch.randn(2, s["c"], side, side), 1000 * torch.rand(2), torch.randint(0, s["v"] + 1, (2,)))


PATCHES = {"p": "side of a patch", "s": "patches on a side"}

ENTRIES = (
    Architecture("mlp-mixer", "MLP-Mixer", {**PATCHES, "d": "channels", "t": "units along the tokens", "f": "units along the channels",
                                            "L": "layers", "v": "classes"}, _mixer,
                 ({"p": 2, "s": 2, "d": 3, "t": 5, "f": 4, "L": 1, "v": 5}, {"p": 2, "s": 2, "d": 4, "t": 5, "f": 5, "L": 2, "v": 6},
                  {"p": 2, "s": 3, "d": 5, "t": 10, "f": 6, "L": 1, "v": 6}),
                 ("Mixer-B/16", {"p": 16, "s": 14, "d": 768, "t": 384, "f": 3072, "L": 12, "v": 1000}),
                 (sources.defines("Tolstikhin et al., MLP-Mixer, NeurIPS 2021, arXiv:2105.01601"), sources.STREAM), (EPS,)),
    Architecture("swin", "Swin transformer",
                 {**{f"h{i}": f"heads of stage {i}" for i in range(1, 5)}, "k": "size of a head", "m": "pairs of blocks of stage 3",
                  "w": "side of a window", "r": "feed-forward units per channel", "v": "classes"}, _swin,
                 ({"h1": 1, "h2": 1, "h3": 1, "h4": 1, "k": 3, "m": 1, "w": 2, "r": 1, "v": 4},
                  {"h1": 1, "h2": 1, "h3": 1, "h4": 1, "k": 3, "m": 1, "w": 2, "r": 2, "v": 3},
                  {"h1": 1, "h2": 1, "h3": 1, "h4": 2, "k": 3, "m": 1, "w": 2, "r": 1, "v": 3}),
                 ("Swin-T", {"h1": 3, "h2": 6, "h3": 12, "h4": 24, "k": 32, "m": 3, "w": 7, "r": 4, "v": 1000}),
                 (sources.defines("Liu et al., Swin transformer, ICCV 2021, arXiv:2103.14030"), sources.KEY_BIAS, sources.STREAM),
                 (EPS, "scores of shifted windows are lowered by 100, not by infinity, between places that were not neighbours")),
    Architecture("dit", "Diffusion transformer (adaptive norms)",
                 {"h": "heads", "k": "size of a head", "f": "feed-forward width", "L": "layers", **PATCHES, "c": "channels of the latent",
                  "q": "frequencies of the time", "v": "classes"}, _dit,
                 ({"h": 1, "k": 4, "f": 5, "L": 1, "p": 1, "s": 2, "c": 1, "q": 1, "v": 2},
                  {"h": 2, "k": 3, "f": 7, "L": 1, "p": 1, "s": 2, "c": 2, "q": 2, "v": 3},
                  {"h": 1, "k": 4, "f": 6, "L": 2, "p": 1, "s": 2, "c": 1, "q": 1, "v": 2}),
                 ("DiT-XL/2", {"h": 16, "k": 72, "f": 4608, "L": 28, "p": 2, "s": 16, "c": 4, "q": 128, "v": 1000}),
                 (sources.defines("Peebles, Xie, Scalable diffusion models with transformers, ICCV 2023, arXiv:2212.09748"),
                 sources.STREAM),
                 (EPS, "positions are fixed, so they break rotations of the stream", "the class table has a row for no class")),
)
