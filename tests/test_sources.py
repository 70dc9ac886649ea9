"""SOURCE texts: each kind opens, and everything else is refused in one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import symdisc
from symdisc.errors import BadInput
from symdisc.torchside.configs import inputs_for
from symdisc.torchside.sources import open_source

FACTORIES = '''
import torch
from torch import nn
from dataclasses import dataclass

@dataclass
class Sizes:
    width: int = 4

def pair():
    return nn.Linear(3, Sizes().width), (torch.ones(2, 3),)

def bare():
    return nn.Linear(3, 4)

def needs(width):
    return nn.Linear(width, 4)

def text():
    return "model"

def broken():
    raise ValueError("no weights today\\nsecond line")

def leaves():
    raise SystemExit(3)

def nan():
    m = nn.Linear(3, 4)
    m.weight.data[0, 0] = float("nan")
    return m, torch.ones(2, 3)

def odd_inputs():
    return nn.Linear(3, 4), "inputs"

instance = nn.Linear(3, 4)
number = 3
'''


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FACTORIES)
    return path


def test_a_file_with_a_pair(factories: Path) -> None:
    source = open_source(f"{factories}:pair")
    assert isinstance(source.model, nn.Linear) and source.example[0].shape == (2, 3) and not source.meta


def test_example_inputs_of_the_model_itself(factories: Path) -> None:
    factories.write_text(FACTORIES + """
class Own(nn.Linear):
    def example_inputs(self):
        return torch.zeros(5, self.in_features)

def own():
    return Own(3, 4)
""")
    assert [tuple(x.shape) for x in open_source(f"{factories}:own").example] == [(5, 3)]


def test_example_inputs_beside_the_factory(factories: Path) -> None:
    factories.write_text(FACTORIES + "\ndef example_inputs():\n    return torch.zeros(5, 3)\n")
    for name in ("bare", "instance"):
        assert open_source(f"{factories}:{name}").example[0].shape == (5, 3)


def test_the_same_seed_gives_the_same_weights(factories: Path) -> None:
    one, two, other = (open_source(f"{factories}:pair", seed=s).model.weight for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_module_and_siblings_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "widths_of_test.py").write_text("WIDTH = 7\n")
    (tmp_path / "net_of_test.py").write_text("from widths_of_test import WIDTH\nimport torch\n"
                                             "def make():\n    return torch.nn.Linear(WIDTH, 2), torch.ones(1, WIDTH)\n")
    assert open_source(f"{tmp_path}/net_of_test.py:make").model.in_features == 7
    monkeypatch.chdir(tmp_path)
    assert open_source("net_of_test:make").model.in_features == 7


def test_mode(factories: Path) -> None:
    source = open_source(f"{factories}:pair")
    assert source.in_mode(False).model.training is False and source.in_mode(True).model.training is True


@pytest.mark.parametrize("name, words", [
    ("nothing", ["has no 'nothing'", "its functions are pair"]),
    ("needs", ["needs arguments (width)", "wrap it"]),
    ("text", ["returned a str"]),
    ("bare", ["no inputs", "example_inputs()"]),
    ("broken", ["ValueError: no weights today"]),
    ("leaves", ["SystemExit: 3"]),
    ("number", ["is a int"]),
    ("nan", ["NaN", "weight"]),
    ("odd_inputs", ["are a str"]),
    ("__import__('os')", ["has no"]),
])
def test_factories_refused(factories: Path, name: str, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        open_source(f"{factories}:{name}")
    message = str(caught.value)
    assert all(w in message for w in words) and "\n" not in message


@pytest.mark.parametrize("text, words", [
    ("", "source is empty"),
    ("garbage", "zoo:NAME"),
    ("no/such/file.py:make", "no such file"),
    ("no/such/folder", "no such file or folder"),
    ("no_such_package.nets:make", "cannot be imported"),
    ("zoo:nothing", "mlp-relu"),
    ("zoo:", "zoo has no"),
])
def test_texts_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        open_source(text)


def test_files_refused(tmp_path: Path) -> None:
    cases = {"syntax.py:f": ("def f(:\n", "line 1"), "plain.py": ("x = 1\n", "name of its factory"),
             "w.safetensors": ("", "--model"), "notes.txt": ("hello", "not a model")}
    for name, (content, words) in cases.items():
        (tmp_path / name.split(":")[0]).write_text(content)
        with pytest.raises(BadInput, match=words):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("content, words", [
    ("{", "not JSON"),
    ("[1]", "no \"model_type\""),
    ('{"model_type": "no_such_model"}', "does not know model_type"),
    ('{"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}', "not run"),
    ('{"model_type": "bert", "hidden_size": 30, "num_attention_heads": 7}', "cannot be built|refuses"),
    ('{"symmetries": []}', "is a catalog"),
])
def test_configs_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for place in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(BadInput, match=words):
            open_source(str(place))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no config\.json"):
        open_source(str(tmp_path))


BERT = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 6, "vocab_size": 11, "max_position_embeddings": 13}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6, "vocab_size": 11}
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 8, "d_kv": 4, "d_ff": 6, "num_layers": 1,
      "num_heads": 2, "vocab_size": 11}
VIT = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6,
       "image_size": 8, "patch_size": 4}


@pytest.mark.parametrize("config, cls", [(BERT, "BertModel"), (LLAMA, "LlamaForCausalLM"), (T5, "T5ForConditionalGeneration"),
                                         (VIT, "ViTModel")], ids=["encoder", "decoder", "pair", "image"])
def test_configs_are_built_and_run(tmp_path: Path, config: dict[str, object], cls: str) -> None:
    (tmp_path / "my.json").write_text(json.dumps(config))
    source = open_source(str(tmp_path / "my.json"))
    assert type(source.model).__name__ == cls and not source.model.training and "random weights" in source.notes[0]
    source.try_run()


def test_a_large_config_stays_on_the_meta_device(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2,
                                                      "num_attention_heads": 32}))
    source = open_source(str(tmp_path))
    assert source.meta and source.example[0].is_meta and "meta device" in source.notes[0]


def test_learned_positions_and_token_types_are_inputs(tmp_path: Path) -> None:
    """A short sequence would make the later rows of a position table look unused, and free to be changed."""
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    source = open_source(str(tmp_path))
    ids, mask, types, positions = source.example
    assert ids.shape == mask.shape == types.shape == positions.shape == (2, 5)
    assert positions.max() > 5 and set(types.flatten().tolist()) == {0, 1}


def test_relative_distances_are_all_met(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(T5))
    assert open_source(str(tmp_path)).example[0].shape[1] > 128


def test_weights_of_the_folder_are_loaded(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text(json.dumps(BERT))
    model = open_source(str(tmp_path), seed=5).model
    model.save_pretrained(tmp_path)
    source = open_source(str(tmp_path))
    assert source.folder == tmp_path and torch.equal(source.model.pooler.dense.weight, model.pooler.dense.weight)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["pooler.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=r"lack 1 tensors of BertModel, first pooler\.dense\.weight"):
        open_source(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not a file of weights")
    with pytest.raises(BadInput, match="cannot be loaded"):
        open_source(str(tmp_path))


def test_no_inputs_for_sound(tmp_path: Path) -> None:
    class Sound(nn.Module):
        main_input_name = "input_values"

        def forward(self, input_values: torch.Tensor) -> torch.Tensor:
            return input_values

    with pytest.raises(BadInput, match="takes input_values"):
        inputs_for(Sound(), object(), torch.device("cpu"))


def test_a_decoder_that_would_return_its_cache_is_captured_without() -> None:
    """As a user builds it, ``use_cache`` true; the model is left as it was."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{k: v for k, v in LLAMA.items() if k not in ("model_type", "architectures")})
    model = transformers.LlamaForCausalLM(config).double().eval()
    ids = torch.randint(0, config.vocab_size, (2, 5))
    assert config.use_cache and "cache" in str(type(model(ids)[1])).lower()
    cat = symdisc.discover(model, (ids,))
    assert config.use_cache and cat.group_dimension > 0
    moved = cat.apply(model.state_dict(), cat.sample(0, 0.3))
    after = torch.func.functional_call(model, moved, (ids,)).logits
    assert (after - model(ids).logits).abs().max() < 1e-6  # its norms compute in float32
