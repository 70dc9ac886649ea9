"""The command line as a user meets it: exit codes, one line for each mistake, one JSON document, nothing half written."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import symdisc
from symdisc.cli import main, models
from symdisc.cli.formulas import parse_shape
from symdisc.errors import BadInput
from symdisc.zoo import build

SHAPES = ("linear", "relu", "conv", "attention", "product")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model, _ = build("mlp-relu")
    save_file(model.state_dict(), tmp_path / "in.safetensors", metadata={"format": "pt"})
    return tmp_path / "in.safetensors"


def bad(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Exit code 2, one line on stderr, nothing on stdout; gives the line."""
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and "Traceback" not in caught.err
    lines = [line for line in caught.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


# --- bad input ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments, words", [
    (["discover", "no/such/file.py:make"], "no such file: no/such/file.py"),
    (["discover", "garbage"], "give package.module:factory"),
    (["discover", "zoo:tiger"], "the zoo has no 'tiger'"),
    (["discover", "zoo:mlp-relu", "--mode", "sideways"], "give asis, eval, train"),
    (["discover"], "Missing argument"),
    (["discover", "zoo:mlp-relu", "--no-such-option"], "No such option"),
    (["nonsense"], "No such command"),
    (["apply", "no.safetensors", "--model", "zoo:mlp-relu", "--out", "x.safetensors"], "no such file: no.safetensors"),
    (["apply", "no.safetensors", "--model", "zoo:mlp-relu", "--out", "x.bin"], "written as safetensors"),
    (["apply", "no.safetensors", "--model", "zoo:mlp-relu", "--out", "no/x.safetensors"], "no such folder: no"),
    (["apply", "no.safetensors", "--model", "zoo:mlp-relu", "--out", "x.safetensors", "--scale", "-1"], "--scale"),
    (["apply", "no.safetensors", "--model", "zoo:mlp-relu", "--out", "x.safetensors", "--seed", "many"], "--seed"),
    (["verify", "one", "two", "three"], "verify takes IN and OUT"),
    (["verify"], "verify takes IN and OUT"),
    (["derive", "__import__('os').system('true')"], ""),
    (["derive", "x.__class__"], ""),
    (["derive", "x +"], ""),
    (["laws", "linear:4-x-2"], ""),
    (["laws", '{"kind": "linear", '], "not JSON"),
    (["laws", "nothing:3"], ""),
    (["catalog", "show", "no.json"], "cannot read no.json"),
    (["latex", "no.json"], "no such file"),
], ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else "")
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in bad(arguments, capsys)
    assert os.listdir(tmp_path) == []


def _broken(path: Path) -> None:
    path.write_bytes(b"this is not a file of weights")


def _pickled(path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(path.parent / "ran"),)

    path.write_bytes(pickle.dumps(Code()))


def _nan(path: Path) -> None:
    state = load_file(path)
    state["0.weight"][1, 2] = float("nan")
    save_file(state, path)


def _shape(path: Path) -> None:
    save_file({**load_file(path), "0.weight": torch.ones(6, 4)}, path)


def _missing(path: Path) -> None:
    save_file({n: t for n, t in load_file(path).items() if n != "2.bias"}, path)


def _extra(path: Path) -> None:
    save_file({**load_file(path), "head.weight": torch.ones(3)}, path)


@pytest.mark.parametrize("spoil, words", [
    (_broken, "not a safetensors file"), (_pickled, "not a safetensors file"), (_nan, "0.weight holds NaN"), (_shape, "has shape [6, 4]"),
    (_missing, "lacks 1 tensor (2.bias)"), (_extra, "holds 1 tensor (head.weight)"),
], ids=lambda v: v.__name__ if callable(v) else "")
def test_bad_weights_write_nothing(spoil: object, words: str, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(weights)  # type: ignore[operator]
    out = weights.with_name("out.safetensors")
    assert words in bad(["apply", str(weights), "--model", "zoo:mlp-relu", "--out", str(out)], capsys)
    assert os.listdir(weights.parent) == ["in.safetensors"]


def test_a_pickle_with_code_is_refused_and_not_run(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = weights.with_name("in.pt")
    _pickled(path)
    line = bad(["apply", str(path), "--model", "zoo:mlp-relu", "--out", str(weights.with_name("out.safetensors"))], capsys)
    assert "is refused" in line and not (weights.parent / "ran").exists()


@pytest.mark.parametrize("command", [["demo"], ["study", "q-distribution", "--quick"]], ids=" ".join)
def test_a_folder_that_is_a_file(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    line = bad([*command, "--out", str(tmp_path / "taken")], capsys)
    assert "taken" in line and "itself failed" not in line


def test_a_catalog_that_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "catalog.json"
    for text, words in (("{}", "not a symdisc catalog"), ('{"schema": 99, "symmetries": []}', "schema 99"),
                        ('{"schema": 1, "symmetries": 3}', "catalog")):
        path.write_text(text)
        assert words in bad(["catalog", "show", str(path)], capsys)


def test_a_model_that_fails_on_its_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 2), torch.ones(1, 4)\n")
    assert "Linear" in bad(["discover", f"{tmp_path}/net.py:make"], capsys)
    (tmp_path / "net.py").write_text("import torch\ndef make():\n    return torch.nn.Embedding(3, 2), torch.tensor([[5, 6]])\n")
    assert "its own example inputs" in bad(["discover", f"{tmp_path}/net.py:make"], capsys)


# --- work ---------------------------------------------------------------------------------------------------------------------
def document(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, object]:
    assert main([*arguments, "--json"]) == code
    caught = capsys.readouterr()
    assert caught.err == ""
    return json.loads(caught.out)


def test_discover_writes_a_catalog_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "mine"
    assert main(["discover", "zoo:mlp-relu", "--out", str(out), "--timings"]) == 0
    caught = capsys.readouterr()
    assert "Group dimension" in caught.out and "capture" in caught.err
    cat = symdisc.load(out / "catalog.json")
    assert cat.group_dimension == 10
    assert {"catalog.json", "catalog.tex", "catalog.md", "catalog.html", "figure.png", "figure.svg"} == set(os.listdir(out))
    assert main(["catalog", "show", str(out / "catalog.json")]) == 0
    assert "Group dimension" in capsys.readouterr().out
    assert main(["latex", str(out / "catalog.json"), "--out", str(tmp_path / "x.tex")]) == 0
    assert (tmp_path / "x.tex").read_text() == cat.to_latex()


def test_json_of_discover_is_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    d = document(["discover", "zoo:mlp-relu", "--certify", "--timings"], capsys)
    assert d["group_dimension"] == 10 and d["certificate"]["complete"] is True and "capture" in d["timings"]  # type: ignore[index]
    cat = symdisc.Catalog.from_json(json.dumps(d))
    assert cat.certificate is not None and cat.certificate.fibre == 10


def test_apply_then_verify(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = weights.with_name("out.safetensors")
    d = document(["apply", str(weights), "--model", "zoo:mlp-relu", "--seed", "3", "--scale", "1", "--out", str(out)], capsys)
    assert d["written"] is True and d["witness"]["passed"] is True and d["witness"]["weights_changed"] > 0.3  # type: ignore[index]
    one, two = load_file(weights), load_file(out)
    assert set(one) == set(two) and all(one[n].dtype == two[n].dtype and one[n].shape == two[n].shape for n in one)
    assert document(["verify", str(weights), str(out), "--model", "zoo:mlp-relu"], capsys)["passed"] is True
    # one entry changed: the function is another one
    two["4.bias"][0] += 0.5
    save_file(two, out)
    assert document(["verify", str(weights), str(out), "--model", "zoo:mlp-relu"], capsys, code=1)["passed"] is False


def test_the_same_seed_writes_the_same_file(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outs = [weights.with_name(f"{k}.safetensors") for k in range(3)]
    for out, seed in zip(outs, ("5", "5", "6"), strict=True):
        assert main(["apply", str(weights), "--model", "zoo:mlp-relu", "--seed", seed, "--out", str(out)]) == 0
    one, two, three = (out.read_bytes() for out in outs)
    assert one == two and one != three
    capsys.readouterr()


def test_apply_writes_nothing_when_the_function_changed(weights: Path, capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog with a false symmetry in it must be caught by the check on the real model."""
    real = models.discovered

    def false(source: object, quiet: bool) -> symdisc.Catalog:
        cat = real(source, quiet)  # type: ignore[arg-type]
        wrong = next(s for s in cat.symmetries if s.family == "scale")
        return cat.replace(symmetries=tuple(_half(s) if s is wrong else s for s in cat.symmetries))

    monkeypatch.setattr(models, "discovered", false)
    out = weights.with_name("out.safetensors")
    assert main(["apply", str(weights), "--model", "zoo:mlp-relu", "--scale", "0.5", "--out", str(out)]) == 1
    assert "not written" in capsys.readouterr().out and not out.exists()


def _half(s: object) -> object:
    from dataclasses import replace

    return replace(s, moves=s.moves[:1])  # type: ignore[attr-defined, type-var]


def test_verify_a_source_and_certify(capsys: pytest.CaptureFixture[str]) -> None:
    assert document(["verify", "zoo:mlp-relu", "--seed", "2", "--scale", "0.5"], capsys)["passed"] is True
    d = document(["certify", "zoo:mlp-relu"], capsys)
    assert (d["found"], d["fibre"], d["complete"]) == (10, 10, True)
    assert main(["certify", "zoo:mlp-relu"]) == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_a_large_config_is_certified_on_a_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 1,
              "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 90}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["certify", str(tmp_path), "--json"]) == 0
    d = json.loads(capsys.readouterr().out)
    assert d["miniature"] is True and d["complete"] is True and "shrunken config" in d["note"]


def test_a_large_factory_is_certified_on_its_graph_run_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn, randn\ndef make():\n"
        "    return nn.Sequential(nn.Linear(120, 120), nn.ReLU(), nn.Linear(120, 90)), randn(2, 120)\n")
    d = document(["certify", f"{tmp_path}/net.py:make"], capsys)
    assert d["complete"] is True and d["miniature"] is True and d["found"] == d["fibre"] > 0 and "small sizes" in d["note"]


def test_derive(capsys: pytest.CaptureFixture[str]) -> None:
    d = document(["derive", "max(x, 0)"], capsys)
    assert d["dimension"] == 1 and d["status"] == "proved"
    assert document(["derive", "tanh(x)"], capsys)["dimension"] == 0
    assert main(["derive", "tanh(x)"]) == 0
    assert "continuous dimension 0" in capsys.readouterr().out


def test_laws(capsys: pytest.CaptureFixture[str]) -> None:
    # W_2^T W_2 - W_1 W_1^T of a linear network with three hidden units: a symmetric 3 x 3 matrix
    assert document(["laws", "linear:4-3-4"], capsys)["laws"] == 6
    assert main(["laws", "relu:2-3-1"]) == 0
    assert "relu:2-3-1 (9 parameters): 3, all in closed form" in capsys.readouterr().out


@pytest.mark.parametrize("text, shape", [
    ("linear:4-3-2", {"kind": "linear", "widths": [4, 3, 2]}),
    ("relu:3-4-2:bias", {"kind": "relu", "widths": [3, 4, 2], "bias": True}),
    ("conv:1-2-1,kernel=3", {"kind": "conv", "channels": [1, 2, 1], "kernel": 3}),
    ("attention:width=4,key=2,rotary=true", {"kind": "attention", "width": 4, "key": 2, "rotary": True}),
    ('{"kind": "product", "factors": 3}', {"kind": "product", "factors": 3}),
    ("zoo:mlp-relu", None),
])
def test_shapes(text: str, shape: object) -> None:
    assert parse_shape(text, SHAPES) == shape


def test_shapes_refused() -> None:
    with pytest.raises(BadInput, match="list of sizes"):
        parse_shape("linear:widths=4-x", SHAPES)


# --- the process --------------------------------------------------------------------------------------------------------------
def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0 and main(["--version"]) == 0 and main(["discover", "--help"]) == 0
    text = capsys.readouterr().out
    assert f"symdisc {symdisc.__version__}" in text and "SOURCE" in text and "certify" in text


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "discovered", stop)
    assert main(["discover", "zoo:mlp-relu"]) == 130
    caught = capsys.readouterr()
    assert caught.err.startswith("error: stopped") and caught.out == ""


SLOW = """
import time, torch
def make():
    print("ready", flush=True)
    time.sleep(60)
    return torch.nn.Linear(3, 2), torch.ones(1, 3)
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "terminate"])
def test_signals_end_the_real_process_cleanly(tmp_path: Path, weights: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "symdisc.cli", "apply", str(weights), "--model", f"{tmp_path}/slow.py:make", "--out",
               str(tmp_path / "out.safetensors")]
    # a shell starts what runs in the background with interrupts ignored, and children inherit that
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == code and "Traceback" not in complaints
    assert {p for p in os.listdir(tmp_path) if p != "__pycache__"} == {"in.safetensors", "slow.py"}


def test_the_installed_command_refuses_as_main_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "symdisc.cli", "discover", str(tmp_path / "no.py:make")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_inputs_that_do_not_fit_are_told_in_one_line(tmp_path: Path) -> None:
    """torch logs tracebacks of its own while it traces; none of them reaches the user."""
    (tmp_path / "wrong.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 2), (torch.randn(2, 5),)\n")
    command = [sys.executable, "-m", "symdisc.cli", "discover", f"{tmp_path}/wrong.py:make"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "example inputs fit the model" in done.stderr


def test_the_example_of_the_readme_holds() -> None:
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    done = subprocess.run([sys.executable, "-c", example.group(1)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
