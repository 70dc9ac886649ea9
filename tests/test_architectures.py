"""The architectures of the catalog: built as they say, of the official size where one is published, and certified at miniatures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from symdisc import discover
from symdisc.architectures import ARCHITECTURES, Architecture
from symdisc.torchside.family import generic
from symdisc.torchside.remainder import module_fibre, surplus

ASKED = """mlp-linear mlp-relu mlp-leaky-relu mlp-tanh mlp-sigmoid mlp-gelu mlp-softplus mlp-sine mlp-squared-relu mlp-polynomial mlp-rbf
mlp-maxout mlp-radial mlp-residual vgg-bn resnet-18 mobilenet-v2 densenet efficientnet convnext u-net vit swin mlp-mixer bert albert t5
whisper clip gpt2 gpt2-untied gpt-neox bloom llama llama-gqa qwen2 qwen3 gemma2 phi3 mixtral deepseek-v3 mamba rwkv lru rnn gru lstm gcn
gat llama-lora mlp-weight-norm kan dit""".split()

# parameters of the released models, from their model cards or papers' code; ties counted once
OFFICIAL = {
    "vgg-bn": 132_868_840, "resnet-18": 11_689_512, "mobilenet-v2": 3_504_872, "efficientnet": 5_288_548, "densenet": 7_978_856,
    "bert": 109_482_240, "albert": 11_683_584, "t5": 60_506_624, "whisper": 37_760_640, "vit": 86_567_656, "convnext": 28_589_128,
    "clip": 151_277_313, "mlp-mixer": 59_880_472, "swin": 28_288_354, "gpt2": 124_439_808, "gpt-neox": 20_554_567_680,
    "bloom": 176_247_271_424, "llama": 6_738_415_616, "llama-gqa": 8_030_261_248, "qwen2": 7_615_616_512, "qwen3": 8_190_735_360,
    "gemma2": 9_241_705_984, "phi3": 3_821_079_552, "mixtral": 46_702_792_704, "mamba": 129_135_360, "rwkv": 169_342_464,
    "dit": 675_129_632 - 256 * 1152,  # the release counts its fixed positions
    "deepseek-v3": 671_026_419_200 - 58 * 256,  # the release counts the corrections of the routers, which are buffers here
}
MOST = 1600  # parameters of a miniature


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _built(architecture: Architecture, sizes: Mapping[str, int], device: str = "cpu") -> tuple[torch.nn.Module, tuple[Any, ...]]:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device(device):
        warnings.simplefilter("ignore")  # advice of transformers about its own configs
        torch.manual_seed(0)
        return architecture.build(sizes)


def test_all_that_the_catalog_promises_are_there() -> None:
    assert sorted(set(ASKED) - set(ARCHITECTURES)) == []
    assert all(name == a.name for name, a in ARCHITECTURES.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_smallest_miniature_runs(name: str) -> None:
    """In eval mode, on its own inputs, to a finite output; deterministic; of the size that the others exceed."""
    architecture = ARCHITECTURES[name]
    model, example = _built(architecture, architecture.miniatures[0])
    assert not model.training and 0 < _size(model) <= MOST
    with torch.no_grad():
        first, again = (_floats(model(*example)) for _ in range(2))
    assert first and all(bool(x.isfinite().all()) for x in first)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def _floats(output: Any) -> list[torch.Tensor]:
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [x for x in torch.utils._pytree.tree_leaves(values) if isinstance(x, torch.Tensor) and x.is_floating_point()]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_symbol_counts(name: str) -> None:
    """Sizes are given for the symbols and nothing else; three miniatures differ."""
    architecture = ARCHITECTURES[name]
    known = set(architecture.symbols)
    given = [*architecture.miniatures, *([architecture.published[1]] if architecture.published else [])]
    assert all(set(sizes) == known for sizes in given)
    assert len({tuple(sorted(s.items())) for s in architecture.miniatures}) >= 3
    assert architecture.sources and architecture.title


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.published])
def test_published_sizes(name: str) -> None:
    """On the meta device, without a number; where the released model is known, with its number of parameters."""
    architecture = ARCHITECTURES[name]
    assert architecture.published is not None
    model, example = _built(architecture, architecture.published[1], "meta")
    assert all(p.is_meta for p in model.parameters())
    assert all(x.is_meta for x in example if isinstance(x, torch.Tensor))
    assert _size(model) == OFFICIAL.get(name, _size(model))


def test_the_official_counts_tell_wrong_sizes_apart() -> None:
    """One head fewer, one layer more: not the released model."""
    architecture = ARCHITECTURES["qwen2"]
    assert architecture.published is not None
    for change in ({"g": 8}, {"L": 29}, {"f": 18943}):
        assert _size(_built(architecture, {**architecture.published[1], **change}, "meta")[0]) != OFFICIAL["qwen2"]


# name -> dimension of all symmetry at the first miniature, by theory
CERTIFIED = {
    "mlp-relu": 4 + 3,  # a scale per hidden unit
    "mlp-tanh": 0,
    "rnn": 3,  # two biases per unit
    "gcn": 4,
    "gpt2": 73,
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_named_families_are_all(name: str) -> None:
    """The named families alone have the dimension of the fibre at generic weights, and a random element keeps the function."""
    architecture = ARCHITECTURES[name]
    model, example = generic(architecture.build, architecture.miniatures[0])
    cat = discover(model, example, solve=False)
    space, network = module_fibre(cat, 0)
    found, carried, outside = surplus(cat, space, network)
    assert (found, space.dimension, carried, outside) == (CERTIFIED[name], CERTIFIED[name], (), ())
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).passed


@pytest.mark.parametrize("name", ["mlp-mixer", "qwen3", "kan", "t5"])
def test_nothing_is_proposed_that_the_check_refuses(name: str) -> None:
    """At the sizes of real models nothing can be run: what is proposed must be true. Here a weight is shared by units side by side,
    a head is one rotary plane, weights are computed."""
    architecture = ARCHITECTURES[name]
    cat = discover(*generic(architecture.build, architecture.miniatures[0]), solve=False)
    assert [b for b in cat.broken if b.family != "all"] == []


@pytest.mark.parametrize("name", ["mamba", "deepseek-v3", "t5", "gpt2"])
def test_without_values_the_same_stands_as_with_values(name: str) -> None:
    """On the meta device the families are run on the same graph at small sizes: channels of a recurrence with a rate each, experts
    in groups of a limited choice, and other false proposals are refused there too, and nothing true is."""
    sizes = ARCHITECTURES[name].miniatures[0]
    real = discover(*ARCHITECTURES[name].build(sizes), solve=False)
    with torch.device("meta"):
        model, args = ARCHITECTURES[name].build(sizes)
    meta = discover(model, args)
    assert any("at small sizes" in note for note in meta.notes)
    assert meta.group_dimension == real.group_dimension and [d.group for d in meta.discrete] == [d.group for d in real.discrete]


@pytest.mark.parametrize("name, skips", [("mobilenet-v2", 10), ("efficientnet", 9)])
def test_inverted_residuals_skip_where_the_published_models_do(name: str, skips: int) -> None:
    """In the papers at stride 1 and equal widths. In small members neighbouring stages may be of one width, and have no skip either:
    by that coincidence they would be other networks than the large ones."""
    from symdisc.architectures.convnets import InvertedResidual, SqueezeExcite

    architecture = ARCHITECTURES[name]
    assert architecture.published is not None
    blocks = [[m for m in _built(architecture, s, "meta")[0].modules() if isinstance(m, InvertedResidual)]
              for s in (architecture.published[1], *architecture.miniatures)]
    convolutions = [[c for c in b.modules() if isinstance(c, torch.nn.Conv2d)] for b in blocks[0]]
    wanted = [c[0].in_channels == c[-1].out_channels and all(k.stride == (1, 1) for k in c) for c in convolutions]
    assert [[b.skip for b in member] for member in blocks] == [wanted] * len(blocks) and sum(wanted) == skips
    squeezed = [s.fc1.out_channels for b in blocks[0] for s in b.modules() if isinstance(s, SqueezeExcite)]
    assert squeezed == ([c[0].in_channels // 4 for c in convolutions] if name == "efficientnet" else [])
