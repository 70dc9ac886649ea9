"""One architecture through the whole pipeline: captured, derived, applied to randomised weights, verified, certified.

Run as ``python -m symdisc.coverage.measure NAME RECORD.json``: the record is written after every stage, so that a process
that is stopped leaves what it had found.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from symdisc.catalog import Catalog
from symdisc.coverage.builders import Built, NotImportable, build, group_of
from symdisc.coverage.certificate import certified
from symdisc.errors import CaptureError, SymdiscError, Undecided

__all__ = ["measure", "randomised"]

SCALE = 0.3
Record = dict[str, Any]


def randomised(built: Built, seed: int = 0) -> Built:
    """The same model in float64 with generic parameters and buffers.

    Running statistics and other saved buffers are drawn too (a buffer at zero would hide a symmetry that forgets it); infinite
    entries of masks stay. The eps of norms is raised: of 1e-12
    no rank could tell that it breaks a scale. Padding rows of embeddings get gradients like the others: the function is the same.
    """
    from symdisc.torchside.miniature import make_decidable, randomise

    model = built.model.double().eval()
    randomise(model, seed)
    g = torch.Generator().manual_seed(seed + 1)
    saved = set(model.state_dict())
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in saved and buffer.is_floating_point():
                noise = torch.randn(buffer.shape, generator=g, dtype=torch.float64)
                positive = name.endswith("var") or name.endswith("_v") or name.endswith("_u")
                buffer.copy_(0.5 + noise.abs() if positive else buffer + 0.3 * noise)
    make_decidable(model)
    args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, _wide, (built.args, built.kwargs))
    return Built(model, args, kwargs)


def _wide(t: torch.Tensor) -> torch.Tensor:
    return t.double() if t.is_floating_point() else t


def measure(name: str, seed: int = 0, write: Any = lambda record: None) -> Record:
    """The record of one architecture; ``write`` is called with it after each stage. Errors of a stage become its reason."""
    start = time.perf_counter()
    record: Record = {"name": name, "group": group_of(name), "stage": "build", "captured": False}

    def stage(next_: str, **found: Any) -> None:
        record.update(found, stage=next_, seconds=round(time.perf_counter() - start, 1))
        write(record)

    try:
        _stages(name, seed, stage)
    except NotImportable as error:
        stage("build", reason=str(error))
    except CaptureError as error:
        stage("capture", reason=str(error))
    except (SymdiscError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError) as error:
        lines = str(error).strip().splitlines() or [""]
        stage(record["stage"], reason=f"{type(error).__name__}: {lines[0]}")
    return record


def _stages(name: str, seed: int, stage: Any) -> None:
    from symdisc.session import _Clock, discover_captured
    from symdisc.torchside.capture import capture
    from symdisc.torchside.network import Wide, stored_dtype

    stage("build")
    built = randomised(build(name, seed), seed)
    stage("capture", D=sum(p.numel() for p in built.model.parameters()))
    clock = _Clock(None)
    with clock("export"):
        captured = capture(built.model, built.args, built.kwargs)
    stage("discover", captured=True, D=captured.size)
    cat = discover_captured(captured, name, clock, solve=False)
    cat = cat.replace(model=built.model, example=built.args, kwargs=built.kwargs, captured=captured)
    stage("verify", **_described(cat), stages={k: round(v, 3) for k, v in clock.seconds.items()})
    with Wide(stored_dtype(built.model)):
        witness = cat.verify(built.model, cat.sample(seed, SCALE))
    stage("certify", kept=witness.passed, change=_bound(witness.max_relative_change), moved=round(witness.weights_changed, 3))
    try:
        stage("done", **certified(cat, seed))
    except Undecided as error:
        stage("done", reason=str(error))


def _described(cat: Catalog) -> Record:
    return {
        "unknown": sorted({b.breaker for b in cat.broken if b.family == "all"}),
        "refused": len([b for b in cat.broken if b.family != "all"]),
        "symmetries": len(cat.symmetries), "discrete": len(cat.discrete),
        "proved": sum(s.status == "proved" for s in cat.symmetries), "found": cat.group_dimension}


def _bound(change: float) -> str:
    """A measurement as a bound: the next power of ten above it."""
    if change == 0.0:
        return "0"
    return f"below 1e{math.floor(math.log10(change)) + 1}" if math.isfinite(change) else "not finite"


def _write(path: Path, record: Record) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(beside, path)


def main(arguments: list[str]) -> int:
    """NAME RECORD.json [SEED]"""
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    path = Path(arguments[1])
    measure(arguments[0], int(arguments[2]) if len(arguments) > 2 else 0, lambda record: _write(path, record))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
