"""The survey: builders, one process per architecture, limits that hold, resuming, and a table that tells the truth."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from symdisc.coverage import builders, runner, table
from symdisc.coverage.builders import Built
from symdisc.coverage.builders.narrow import narrow
from symdisc.coverage.certificate import within
from symdisc.coverage.measure import measure, randomised
from symdisc.errors import BadInput, Undecided
from symdisc.torchside.carriers import carriers

SIX = ("mlp_bn_gelu_drop", "mlp_weightnorm", "rnn", "mha_weights", "siren", "llama_gqa")
LIMITS = runner.Limits(seconds=100.0, memory=16.0)


def test_the_list_is_that_of_the_survey() -> None:
    names = builders.names()
    assert len(names) == len(set(names)) == 155
    with pytest.raises(BadInput, match="not in the survey"):
        builders.build("mlp_rellu")


@pytest.mark.slow
def test_six_architectures_through_the_runner(tmp_path: Path) -> None:
    records = {r["name"]: r for r in runner.survey(SIX, tmp_path, LIMITS, jobs=2)}
    assert set(records) == set(SIX)
    for record in records.values():
        assert record["captured"] and record["kept"] is True and record["stage"] == "done", record
    assert {n: (records[n]["found"], records[n]["fibre"]) for n in ("rnn", "mha_weights", "siren", "mlp_weightnorm")} == {
        "rnn": (8, 8), "mha_weights": (24, 24), "siren": (0, 0), "mlp_weightnorm": (6, 6)}
    assert records["llama_gqa"]["complete"] and records["mlp_bn_gelu_drop"]["complete"]
    assert not table.failures(records.values())


def _sleeper(name: str, file: Path, seed: int) -> list[str]:
    code = (f"import json, pathlib, subprocess, sys, time; pathlib.Path({str(file)!r}).write_text(json.dumps("
            "{'name': 'rnn', 'group': 'torch.nn', 'stage': 'certify', 'captured': True, 'kept': True}));"
            f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
            f"pathlib.Path({str(file) + '.pid'!r}).write_text(str(child.pid)); time.sleep(60)")
    return [sys.executable, "-c", code]


def test_the_time_limit_kills_the_process_and_its_children(tmp_path: Path) -> None:
    start = time.perf_counter()
    record = runner.run("rnn", tmp_path, runner.Limits(seconds=8.0), worker=_sleeper)
    assert time.perf_counter() - start < 40.0  # the process itself would sleep for 60 s
    assert record["reason"] == "stopped at the limit of 8 s during certify" and record["kept"] is True
    pid = (tmp_path / "rnn.json.pid").read_text()
    state = Path(f"/proc/{pid}/stat")
    for _ in range(100):  # the kernel takes its time to end a killed process
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child of the process is still running")


def _broken(name: str, file: Path, seed: int) -> list[str]:
    return [sys.executable, "-c", "raise SystemExit('no such luck')"]


def test_a_process_that_fails_is_reported(tmp_path: Path) -> None:
    record = runner.run("rnn", tmp_path, LIMITS, worker=_broken)
    assert record["reason"] == "failed (no such luck) during start" and not record["captured"]


def test_finished_records_are_read_and_other_limits_run_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def worker(name: str, file: Path, seed: int) -> list[str]:
        calls.append(name)
        return _broken(name, file, seed)

    first = runner.run("rnn", tmp_path, LIMITS, worker=worker)
    assert runner.run("rnn", tmp_path, LIMITS, worker=worker) == first and len(calls) == 1
    runner.run("rnn", tmp_path, runner.Limits(seconds=99.0), worker=worker)
    runner.run("rnn", tmp_path, runner.Limits(seconds=99.0), again=True, worker=worker)
    (tmp_path / "rnn.json").write_text("{ half")
    runner.run("rnn", tmp_path, runner.Limits(seconds=99.0), worker=worker)
    assert len(calls) == 4


def test_buffers_are_drawn_and_eps_can_be_seen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Embedding(3, 2, padding_idx=0))
    built = randomised(Built(model, (torch.ones(2, 3),)))
    assert built.args[0].dtype == torch.float64 and built.model[2].eps > 1e-3 and built.model[3].padding_idx is None
    norm = built.model[1]
    assert float(norm.running_mean.abs().min()) > 0
    assert float(norm.running_var.min()) >= 0.5 and float((norm.running_var - 1).abs().min()) > 0
    assert int(norm.num_batches_tracked) == 0


def test_narrow_divides_channels_and_leaves_no_trace() -> None:
    with narrow(4):
        a, b = nn.Conv2d(3, 16, kernel_size=3, groups=1), nn.Linear(out_features=8, in_features=16)
    assert (a.in_channels, a.out_channels, a.kernel_size, b.in_features, b.out_features) == (3, 4, (3, 3), 4, 2)
    assert nn.Linear(16, 8).out_features == 8


def test_a_failing_stage_becomes_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise builders.NotImportable("thing is not installed")

    monkeypatch.setattr("symdisc.coverage.measure.build", refuse)
    record = measure("rnn")
    assert record["reason"] == "thing is not installed" and not record["captured"]


def _record(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "group": "g", "captured": True, "D": 9, "unknown": [], "symmetries": 1, "discrete": 0, "found": 3, "fibre": 3,
            "complete": True, "kept": True, "change": "below 1e-14", "seconds": 1.5, "surplus": [], **changes}


def test_table_and_totals() -> None:
    good, less = _record(), _record(name="b", complete=False, fibre=5, unknown=["aten.sort"], surplus=["w"])
    assert table.why(good) == "" and table.why(less) == "2 directions without a name; no rule for aten.sort; carried by w"
    assert table.totals([good, less]) == {"architectures": 2, "captured": 2, "kept": 2, "changed": 0, "complete": 1}
    text = table.to_json([good, less], {"torch": "2"})
    assert "seconds" not in text and json.loads(text)["totals"]["complete"] == 1
    assert "- `b`: 2 directions" in table.to_markdown([good, less], {"torch": "2"})


def test_sizes_of_the_rank_and_the_median_speed_are_told() -> None:
    fast = _record(D=900, rank_D=30, stages={"export": 2.0, "fold": 1.0, "prove": 0.5})
    slow = _record(stages={"export": 1.0, "fold": 1.0, "prove": 0.5})
    assert table.row(fast)[1] == "900 (30)" and table.row(slow)[1] == "9"
    assert table.speed([fast, slow, _record()]) == 1.125 and table.speed([_record()]) is None
    assert "seconds of discover to those of torch.export: 1.1." in table.to_markdown([fast, slow], {"torch": "2"})


def test_a_surplus_is_carried_by_as_few_parameters_as_can_be() -> None:
    """Directions e0, e1 + e2 named, e3 not: only the parameter of e3 carries it; e4 - e5 needs both of its own."""
    layout = {"a": (1,), "b": (2,), "c": (1,), "d": (1,), "e": (1,)}
    e = np.eye(6)
    space = np.stack([e[0], (e[1] + e[2]) / 2**0.5, e[3], (e[4] - e[5]) / 2**0.5], 1)
    turned = space @ np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    assert carriers(turned, space[:, [0, 1, 3]], layout) == ("c",)
    assert carriers(turned, space[:, [0, 1, 2]], layout) == ("d", "e")
    assert carriers(turned, space, layout) == ()


def test_time_is_limited_inside_the_process() -> None:
    with pytest.raises(Undecided, match=r"not decided within 0\.2 s"), within(0.2):
        while True:
            pass
    with within(0.2):
        pass  # no alarm is left behind


@pytest.mark.parametrize("false_one", [{"kept": False, "change": "below 1e0"}, {"found": 4, "complete": False}])
def test_false_claims_are_failures(false_one: dict[str, Any]) -> None:
    """A changed function or more found than there is must not pass for a result."""
    assert table.failures([_record(), _record(**false_one)]) == [_record(**false_one)]
