"""Entries kept in catalog/: the same bytes each time, pages from the record alone, and a check that writes nothing and sees a change."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from symdisc.architectures import ARCHITECTURES
from symdisc.build_catalog import DIGEST, FILES, INDEX, build_index, build_record, digest, fresh, names, pages
from symdisc.cli import main
from symdisc.entry import Entry
from symdisc.errors import BadInput

KEPT = Path(__file__).resolve().parents[1] / "catalog"
ENTRIES = sorted(p.parent.name for p in KEPT.glob("*/record.json"))
CHEAP = "mlp-tanh"  # derived again in seconds


def read(name: str) -> dict[str, str]:
    return {file: (KEPT / name / file).read_text(encoding="utf-8") for file in FILES}


def test_the_kept_entry_is_what_the_code_derives() -> None:
    assert build_record(CHEAP) == read(CHEAP)


@pytest.mark.parametrize("name", ENTRIES)
def test_kept_entries_are_sorted_and_tell_nothing_of_the_machine(name: str) -> None:
    texts = read(name)
    record = json.loads(texts["record.json"])
    assert texts["record.json"] == json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert name in ARCHITECTURES and record["name"] == name and record["title"] == ARCHITECTURES[name].title
    for text in texts.values():
        assert "outputs change by" not in text, "a measurement"
        assert not re.search(r"/(home|work|tmp|usr)/|20\d\d-\d\d-\d\d", text)


@pytest.mark.parametrize("name", ENTRIES)
def test_pages_are_made_from_the_record_alone(name: str) -> None:
    texts = read(name)
    assert pages(texts["record.json"]) == {file: texts[file] for file in FILES[:3]}


@pytest.mark.parametrize("name", ENTRIES)
def test_no_entry_claims_more_than_its_certificates_hold(name: str) -> None:
    """Found never exceeds the fibre, the polynomial is what was found without unnamed directions, and the published model agrees."""
    entry = Entry.from_json(read(name)["record.json"])
    assert len(entry.certificates) >= 3
    for c in entry.certificates:
        assert c.orbit is None or c.fibre is None or c.orbit <= c.fibre
        differs = c.polynomial is not None and c.polynomial != c.group - c.unnamed
        assert not differs or any("outside its region" in note for note in entry.notes)
    if entry.published is not None and entry.published.direct is not None and entry.published.dimension is not None:
        assert entry.published.direct == entry.published.dimension


def test_the_kept_index_lists_every_kept_entry() -> None:
    text = (KEPT / INDEX).read_text(encoding="utf-8")
    assert text == build_index(KEPT, {})
    assert [f"({name}/catalog.md)" in text for name in ENTRIES].count(False) == 0
    false = read(CHEAP)["record.json"].replace('"parameters": 79', '"parameters": 80')
    assert build_index(KEPT, {CHEAP: read("mlp-relu")["record.json"]}) != text, "a changed record changes the index"
    with pytest.raises(BadInput):
        build_index(KEPT, {CHEAP: false[:-5]})


def test_build_check_and_what_has_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivation itself is replaced by the kept texts here: what is written, compared and left alone is tested."""
    calls: list[str] = []
    monkeypatch.setattr("symdisc.build_catalog.build_record", lambda name: calls.append(name) or read(name))
    where, command = tmp_path / "kept", ["catalog", "build", CHEAP, "--out", str(tmp_path / "kept")]
    assert main([*command, "--check"]) == 1 and os.listdir(tmp_path) == [], "a missing entry differs, and nothing is written"
    assert main(command) == 0 and calls == [CHEAP] * 2
    assert sorted(p.name for p in (where / CHEAP).iterdir()) == sorted([DIGEST, *FILES]), "and no part file"
    assert main(command) == 0 and calls == [CHEAP] * 2, "unchanged sources: not derived again"
    assert main([*command, "--again"]) == 0 and calls == [CHEAP] * 3
    capsys.readouterr()
    assert main([*command, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"architectures": [CHEAP], "differ": [], "failed": []}
    record = where / CHEAP / "record.json"
    false = record.read_text("utf-8").replace('"points": ', '"points": 1')
    record.write_text(false, encoding="utf-8")
    assert main([*command, "--check"]) == 1
    assert str(record) in capsys.readouterr().out and record.read_text("utf-8") == false
    assert fresh(where, CHEAP, digest(CHEAP)) is not None and fresh(where, CHEAP, digest("mlp-relu")) is None
    record.write_text("{}", encoding="utf-8")
    assert fresh(where, CHEAP, digest(CHEAP)) is None, "a damaged record is derived again"


def test_what_is_made_is_kept_though_a_later_entry_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def record(name: str) -> dict[str, str]:
        assert name == CHEAP or (tmp_path / CHEAP / "record.json").exists(), "written before the next is begun"
        if name == "rnn":
            raise BadInput("too weak a certificate")
        return read(name)

    monkeypatch.setattr("symdisc.build_catalog.build_record", record)
    assert main(["catalog", "build", CHEAP, "rnn", "whisper", "--out", str(tmp_path)]) == 1
    assert "error: rnn: too weak a certificate" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == [INDEX, CHEAP, "whisper"]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "build", "tiger", "--out", str(tmp_path)]) == 2
    assert "the catalog has no 'tiger'" in capsys.readouterr().err
    with pytest.raises(BadInput, match="the catalog has no 'tiger'"):
        build_record("tiger")
    assert os.listdir(tmp_path) == [] and set(ENTRIES) <= set(names())


@pytest.mark.parametrize("name", ["llama", "gpt-neox", CHEAP])
def test_latex_compiles_without_warnings(name: str, tmp_path: Path) -> None:
    """With the LaTeX of the system, where there is one; without, braces and environments are at least balanced."""
    text = read(name)["catalog.tex"]
    assert text.count("{") == text.count("}") and text.count(r"\begin{") == text.count(r"\end{")
    program = shutil.which("pdflatex")
    if program is not None:
        (tmp_path / "a.tex").write_text(text, encoding="utf-8")
        for _ in range(2):
            run = subprocess.run([program, "-interaction=nonstopmode", "a.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
        log = (tmp_path / "a.log").read_text(encoding="utf-8", errors="replace")
        assert run.returncode == 0 and not re.search(r"Overfull|LaTeX Warning|undefined|Missing", log), run.stdout[-500:]


def test_an_entry_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["catalog", "show", str(KEPT / CHEAP / "record.json")]) == 0
    assert capsys.readouterr().out == read(CHEAP)["catalog.md"]
    assert main(["catalog", "show", str(KEPT / CHEAP / "record.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(read(CHEAP)["record.json"])
    (tmp_path / "no.json").write_text("{}", encoding="utf-8")
    assert main(["catalog", "show", str(tmp_path / "no.json")]) == 2
