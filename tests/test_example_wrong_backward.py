"""The example finds each mistake, names the layers beside it, and accuses nobody of a right backward pass."""

from __future__ import annotations

import pytest

from symdisc.examples.wrong_backward import CASES, main, watch


@pytest.mark.parametrize("case", CASES)
def test_each_case(case: str) -> None:
    monitor, losses = watch(case)
    assert losses[-1] < losses[0]  # the loss does not tell
    found = monitor.suspects()
    if case.endswith("right"):
        assert found == [] and max(r["orthogonality"] for r in monitor.records) < 1e-5
    else:
        (suspect,) = found
        assert suspect.step < 20 and {"a.weight", "b.weight", "middle.bias"} == set(suspect.blamed)
        assert not any(n.startswith("first") for s in found for n in s.parameters)


def test_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    told = capsys.readouterr().out
    assert told.count("not orthogonal") == 3 and told.count("orthogonal to every symmetry") == 2
