"""What every study relies on: cells survive an interruption, files are whole, a failed check is an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from symdisc import studies
from symdisc.cli import main
from symdisc.errors import BadInput
from symdisc.studies import STUDIES, Run, load_study
from symdisc.studies.base import code_digest


def test_cells_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, float]:
        calls.append(1)
        return {"value": 0.1 + 0.2}

    assert Run(tmp_path).cached("a lr=0.1", compute) == {"value": 0.1 + 0.2}
    assert Run(tmp_path).cached("a lr=0.1", compute) == {"value": 0.1 + 0.2}
    assert len(calls) == 1


@pytest.mark.parametrize("other", ["a lr=0.2", "a_lr=0.1", "a/lr=0.1", "a" * 200])
def test_other_settings_are_other_cells(tmp_path: Path, other: str) -> None:
    run = Run(tmp_path)
    assert run.cached("a lr=0.1", lambda: 1) == 1
    assert run.cached(other, lambda: 2) == 2
    assert run.cached("a lr=0.1", lambda: 3) == 1


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"key": "k", "result": 7}', '{"key": "k", "code": "older", "result": 7}',
                                     json.dumps({"key": "other", "code": code_digest(), "result": 7})])
def test_damaged_and_foreign_cells_are_computed_again(tmp_path: Path, content: str) -> None:
    run = Run(tmp_path)
    run.cached("k", lambda: 1)
    (tmp_path / "cells" / "k.json").write_text(content)
    assert run.cached("k", lambda: 2) == 2


def test_an_interrupted_cell_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path).cached("k", stopped)
    assert list(tmp_path.rglob("*.*")) == []


def test_tables_figures_and_pages_are_reproducible(tmp_path: Path) -> None:
    def write(folder: Path) -> dict[str, bytes]:
        run = Run(folder)
        run.table("numbers", [{"a": 1, "b": 0.1}, {"a": 2, "c": "x"}])
        figure = Figure()
        figure.subplots().plot([0, 1], [1, 0])
        run.figure("picture", figure)
        run.page("# title")
        return {f.name: f.read_bytes() for f in run.files}

    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert sorted(one) == ["README.md", "numbers.csv", "picture.png", "picture.svg"]
    assert one == two
    assert one["numbers.csv"] == b"a,b,c\n1,0.1,\n2,,x\n"


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        Run(tmp_path / "file").page("x")


def test_unknown_study_lists_the_names() -> None:
    with pytest.raises(BadInput, match="no study is called 'nothing'"):
        load_study("nothing")


def test_every_row_has_a_title() -> None:
    assert all(load_study(name).title for name in STUDIES)


@pytest.mark.parametrize("holds, code", [(True, 0), (False, 1)])
def test_the_exit_code_is_the_verdict(holds: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    def toy(run: Run) -> None:
        run.check("two and two", holds, "4")
        run.page(run.checks_markdown())

    monkeypatch.setitem(studies.STUDIES, "toy", "toy:study")
    monkeypatch.setattr(studies, "load_study", lambda name: studies.Study(name, "A toy", toy))
    assert main(["study", "toy", "--quick", "--out", str(tmp_path), "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is holds and found["quick"] is True
    assert ("**FAILS**" in (tmp_path / "README.md").read_text()) is not holds


def test_bad_name_is_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "nothing"]) == 2
    assert "no study is called" in capsys.readouterr().err


def test_without_a_name_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in STUDIES)
