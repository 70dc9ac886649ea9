"""Records of the zoo: the same bytes each time, LaTeX from the record alone, and a check that writes nothing and sees a change."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from symdisc.build_catalog import FILES, GAP, INDEX, _bounded, build_index, build_record
from symdisc.catalog import Catalog
from symdisc.certificate import Certificate
from symdisc.cli import main
from symdisc.errors import SymdiscError

KEPT = Path(__file__).resolve().parents[1] / "catalog"
TWO = ("mlp-relu", "llama-tiny-eps")  # found by theory: 6 + 4 scales, and DESIGN's 27
DIMENSIONS = dict(zip(TWO, (10, 27), strict=True))


@pytest.mark.parametrize("name", TWO)
def test_the_kept_record_is_what_the_code_derives(name: str) -> None:
    texts = build_record(name)
    assert {file: (KEPT / name / file).read_text(encoding="utf-8") for file in FILES} == texts
    record, tex = (texts[file] for file in FILES)
    cat = Catalog.from_json(record)
    assert tex.endswith(cat.to_latex()) and tex.startswith(f"% made by: symdisc catalog build {name}\n")
    assert cat.certificate is not None and cat.certificate.complete and cat.certificate.gap == GAP
    assert cat.orbit_dimension == cat.certificate.fibre == DIMENSIONS[name]


@pytest.mark.parametrize("name", sorted(p.name for p in KEPT.iterdir() if p.is_dir()))
def test_kept_records_are_sorted_and_tell_nothing_of_the_machine(name: str) -> None:
    text = (KEPT / name / "record.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert text == json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert record["certificate"]["complete"] and "timings" not in record
    for file in FILES:
        assert "outputs change by" not in (KEPT / name / file).read_text(encoding="utf-8"), "a measurement"
        assert not re.search(r"/(home|work|tmp|usr)/|20\d\d-\d\d", (KEPT / name / file).read_text(encoding="utf-8"))


def test_the_kept_index_lists_every_kept_record() -> None:
    text = (KEPT / INDEX).read_text(encoding="utf-8")
    assert text == build_index(KEPT, {})
    assert [f"[{p.parent.name}]" in text for p in KEPT.glob("*/record.json")].count(False) == 0
    false = build_index(KEPT, {"mlp-relu": (KEPT / "mlp-tanh" / "record.json").read_text(encoding="utf-8")})
    assert false != text, "a changed record changes the index"


def test_build_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["catalog", "build", "mlp-tanh", "--out", str(tmp_path / "kept")]
    assert main([*build, "--check"]) == 1, "a missing record differs"
    assert os.listdir(tmp_path) == []
    assert main(build) == 0
    files = sorted(p.name for p in (tmp_path / "kept" / "mlp-tanh").iterdir())
    assert files == sorted(FILES), "and no part file"
    capsys.readouterr()
    record = tmp_path / "kept" / "mlp-tanh" / "record.json"
    assert main(["catalog", "build", "--out", str(tmp_path / "kept"), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": ["mlp-tanh"], "differ": []}
    index = tmp_path / "kept" / INDEX
    assert "| [mlp-tanh](mlp-tanh/record.tex) | Sequential | 79 | 0 | 0.0 % | none | `S₆ × S₄ × (ℤ₂)⁶ × (ℤ₂)⁴`" in index.read_text("utf-8")
    index.write_text(index.read_text("utf-8").replace("79", "97"), "utf-8")
    assert main(["catalog", "build", "--out", str(tmp_path / "kept"), "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differ"] == [str(index)]
    false = record.read_text(encoding="utf-8").replace('"group_dimension": 0', '"group_dimension": 1')
    record.write_text(false, encoding="utf-8")
    assert main([*build, "--check"]) == 1
    assert str(record) in capsys.readouterr().out and record.read_text(encoding="utf-8") == false


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "build", "tiger", "--out", str(tmp_path)]) == 2
    assert "the zoo has no 'tiger'" in capsys.readouterr().err
    assert main(["catalog", "build", "--out", str(tmp_path)]) == 2
    assert "no records in" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_weak_gap_is_not_recorded() -> None:
    with pytest.raises(SymdiscError, match="not certain"):
        _bounded("some", Certificate(3, 3, 40.0, 10))
    assert _bounded("some", Certificate(3, 3, 7.1e8, 10)) == Certificate(3, 3, GAP, 10)
