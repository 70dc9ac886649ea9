"""The kept matrix of operators is what the engine derives."""

from __future__ import annotations

from pathlib import Path

import pytest

from symdisc.cli import main
from symdisc.report.operators import HEAD, nodes, row

KEPT = (Path(__file__).resolve().parents[1] / "catalog" / "operators.md").read_text(encoding="utf-8")
RULES = list(nodes())


def test_every_operator_stands_in_the_table_in_order() -> None:
    lines = KEPT.removeprefix(HEAD).splitlines()
    assert KEPT.startswith(HEAD) and [line.split("`")[1] for line in lines] == [r.name for r in RULES]


@pytest.mark.parametrize("rule", RULES[1::4], ids=lambda r: r.name)
def test_a_row_is_what_is_derived(rule) -> None:  # type: ignore[no-untyped-def]
    assert f"{row(rule)}\n" in KEPT


def test_no_row_is_without_proof() -> None:
    assert all(line.endswith("| proved |") for line in KEPT.removeprefix(HEAD).splitlines())


def test_derive_takes_a_formula_or_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["derive"]) == 2 and main(["derive", "tanh(x)", "--all"]) == 2
    assert "--all" in capsys.readouterr().err
