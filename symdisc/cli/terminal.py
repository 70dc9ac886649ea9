"""Where things are printed: results on stdout, progress and remarks on stderr, one JSON document with --json."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from symdisc.errors import BadInput

__all__ = ["document", "errors", "folder", "out", "progress", "remarks", "timing_lines", "write_text"]

WIDE = 150  # columns when the output is a file or a pipe, where rich would take 80 and break formulas


def out() -> Console:
    """Results, for people."""
    return Console(width=None if sys.stdout.isatty() else WIDE, soft_wrap=False, highlight=False)


def errors() -> Console:
    return Console(stderr=True, highlight=False)


def document(data: Mapping[str, Any]) -> None:
    """The one JSON document of a command run with --json."""
    print(json.dumps(data, indent=1, sort_keys=True, allow_nan=False, default=str))


def remarks(notes: Any, quiet: bool) -> None:
    """Lines that explain a decision; on stderr, and not at all with --json."""
    if not quiet:
        for note in notes:
            errors().print(f"note: {note}", style="dim", markup=False, soft_wrap=True)


@contextmanager
def progress(what: str, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A spinner with the stage and the seconds, on stderr and only on a terminal; gives the callback of ``discover``."""
    console = errors()
    if quiet or not console.is_terminal:
        yield lambda stage, done, total: None
        return
    start = time.perf_counter()
    with console.status(what) as status:
        def show(stage: str, done: int, total: int) -> None:
            count = f" {done}/{total}" if total > 1 else ""
            status.update(f"{what}: {stage}{count} ({time.perf_counter() - start:.0f} s)")

        yield show


def timing_lines(seconds: Mapping[str, float]) -> None:
    """One line per stage, on stderr."""
    for stage, value in seconds.items():
        errors().print(f"{stage:<10}{value:8.2f} s", markup=False)


def folder(path: Path) -> Path:
    """A folder to write into, made when its parent exists."""
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file; --out needs a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename."""
    if not path.parent.is_dir():
        raise BadInput(f"no such folder: {path.parent}")
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name the file to write")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
