"""The demo's claim on a network trained in the test: the file changes, accuracy and outputs do not; a spoiled file is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import symdisc
from symdisc.demo import FLOAT32, FLOAT64, Result
from symdisc.torchside.checkpoint import read_checkpoint
from symdisc.torchside.demo_models import digits_case, moved
from symdisc.zoo import digits_conv, digits_mlp


@pytest.mark.parametrize("name, make, image", [("digits-mlp", digits_mlp, False), ("digits-conv", digits_conv, True)])
def test_weights_move_and_the_function_stays(tmp_path: Path, name: str, make: object, image: bool) -> None:
    case = digits_case(name, "", make, image, tmp_path, epochs=4)  # type: ignore[arg-type]
    cat = symdisc.discover(case.source.model, case.source.example)
    m = moved(case, cat, cat.sample(0, 1.0), tmp_path / "moved.safetensors")
    assert m.weights_changed > 0.3 and m.change64 < FLOAT64 and m.change32 < FLOAT32
    assert m.before == m.after and float(m.before.split()[-1].rstrip("%")) > 80
    one, two = (read_checkpoint(p).tensors for p in (case.weights, tmp_path / "moved.safetensors"))
    assert set(one) == set(two)


def test_a_false_symmetry_shows_in_the_measure(tmp_path: Path) -> None:
    case = digits_case("digits-mlp", "", digits_mlp, False, tmp_path, epochs=1)
    cat = symdisc.discover(case.source.model, case.source.example)
    spoiled = cat.replace(symmetries=tuple(replace(s, moves=s.moves[:-1]) for s in cat.symmetries))
    assert moved(case, spoiled, spoiled.sample(0, 1.0), tmp_path / "moved.safetensors").change64 > 0.01


def test_a_result_passes_only_if_everything_holds() -> None:
    good = Result("m", 10, 3, 1.0, 1e-12, 1e-6, "accuracy 97%", "accuracy 97%", "", True, ())
    assert good.passed
    for change in ({"change64": 1e-9}, {"change32": 1e-3}, {"weights_changed": 0.01}, {"after": "accuracy 96%"}, {"complete": False}):
        assert not replace(good, **change).passed
