"""Each architecture in a process of its own, with a limit of time and memory; finished ones are not run again."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from symdisc.coverage.builders import group_of

__all__ = ["Limits", "run", "survey"]

Record = dict[str, Any]
Worker = Callable[[str, Path, int], list[str]]


@dataclass(frozen=True)
class Limits:
    """Per architecture: wall-clock ``seconds`` and address space in GiB; ``seed`` of weights and group element."""

    seconds: float = 300.0
    memory: float = 8.0
    seed: int = 0


def _worker(name: str, file: Path, seed: int) -> list[str]:
    return [sys.executable, "-m", "symdisc.coverage.measure", name, str(file), str(seed)]


def survey(names: Sequence[str], folder: Path, limits: Limits, jobs: int = 1, again: bool = False,
           worker: Worker = _worker) -> Iterator[Record]:
    """The records of ``names`` as they are finished; those in ``folder`` that were made under the same limits are read."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        futures = [pool.submit(run, name, folder, limits, again, worker) for name in names]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def run(name: str, folder: Path, limits: Limits, again: bool = False, worker: Worker = _worker) -> Record:
    """The record of one architecture, made in a child process that is killed, with all its children, at the limit."""
    file = folder / f"{name}.json"
    known = _read(file)
    if known is not None and known.get("limits") == asdict(limits) and not again:
        return known
    file.unlink(missing_ok=True)
    ended = _child(worker(name, file, limits.seed), limits)
    record = _read(file) or {"name": name, "group": group_of(name), "stage": "start", "captured": False}
    if record["stage"] != "done" and "reason" not in record:
        record["reason"] = f"{ended} during {record['stage']}"
    record["limits"] = asdict(limits)
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    beside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(beside, file)
    return record


def _child(command: list[str], limits: Limits) -> str:
    """How the process ended, in words."""
    size = int(limits.memory * 2**30)

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
                               preexec_fn=bound, env=environment)  # the child does nothing else before exec
    try:
        errors = process.communicate(timeout=limits.seconds)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"stopped at the limit of {limits.seconds:g} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode == 0:
        return "ended"
    if process.returncode < 0:
        return f"killed by signal {-process.returncode}"
    last = errors.decode("utf-8", "replace").strip().splitlines()
    return f"failed ({last[-1] if last else 'no message'})"


def _read(file: Path) -> Record | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None
