"""What a study is, and what a run of one writes: cells that survive an interruption, tables, figures, a page."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from symdisc.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Check", "Progress", "Run", "Study", "code_digest"]

Progress = Callable[[str, int, int], None]  # stage, how many parts are done, of how many

LONGEST_NAME = 80  # characters of a key kept in the name of its file; a digest tells longer keys apart
DOTS = 150  # pixels of an inch in a PNG
REPRODUCIBLE: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Study:
    """A numerical study: its name on the command line, what it asks, and the function that does it."""

    name: str
    title: str
    run: Callable[[Run], None]
    reads_data: bool = False  # files of the user, given as a folder


@dataclass(frozen=True)
class Check:
    """A claim of the study, whether it held in this run, and the numbers behind that."""

    claim: str
    holds: bool
    numbers: str


@dataclass
class Run:
    """One run of a study into ``folder``; ``files`` and ``checks`` fill as it goes.

    The same seed and the same ``quick`` give the same files. Nothing half written is ever left: every file is written beside
    and renamed. Raises BadInput when the folder cannot be written.
    """

    folder: Path
    quick: bool = False
    seed: int = 0
    progress: Progress = _silent
    data: Path | None = None  # a folder of the user's own data, for studies that read some
    files: list[Path] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def cached(self, key: str, compute: Callable[[], Any]) -> Any:
        """The JSON-able result of ``compute``, kept as folder/cells/KEY.json, so that an interrupted study goes on where it was.

        The key must carry every setting the result depends on (sizes, steps, rates, the seed). A cell that is damaged, belongs
        to another key or to other code of symdisc is computed again. What comes back has been through JSON: tuples are lists.
        """
        path = self.folder / "cells" / f"{_file_name(key)}.json"
        head = {"key": key, "code": code_digest()}
        found = _read_cell(path)
        if found is None or {k: found.get(k) for k in head} != head or "result" not in found:
            text = json.dumps({**head, "result": compute()}, allow_nan=True)
            _write(path, text.encode())
            found = json.loads(text)
        return found["result"]

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write ``rows`` as NAME.csv, columns in the order in which they first occur; floats keep all their digits."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self._keep(f"{name}.csv", text.getvalue().encode())

    def figure(self, name: str, figure: Figure) -> Path:
        """Write a matplotlib figure as NAME.png and NAME.svg; the same figure gives the same bytes. Returns the PNG."""
        with mpl.rc_context({"svg.hashsalt": "symdisc"}):
            for kind in ("svg", "png"):
                content = io.BytesIO()
                figure.savefig(content, format=kind, dpi=DOTS, metadata=REPRODUCIBLE[kind])
                path = self._keep(f"{name}.{kind}", content.getvalue())
        return path

    def page(self, markdown: str) -> Path:
        """Write README.md: what was done, the figures, and the checks with their numbers."""
        return self._keep("README.md", markdown.rstrip("\n").encode() + b"\n")

    def check(self, claim: str, holds: bool, numbers: str = "") -> bool:
        """Record a claim and whether it held; one that fails makes the command end with exit code 1."""
        self.checks.append(Check(claim, bool(holds), numbers))
        return bool(holds)

    @property
    def passed(self) -> bool:
        return all(c.holds for c in self.checks)

    def checks_markdown(self) -> str:
        """The checks as a table for the page."""
        head = ["| check | numbers | |", "|---|---|---|"]
        return "\n".join(head + [f"| {c.claim} | {c.numbers} | {'holds' if c.holds else '**FAILS**'} |" for c in self.checks])

    def _keep(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        _write(path, content)
        if path not in self.files:
            self.files.append(path)
        return path


@cache
def code_digest() -> str:
    """Of all sources of the package: results of changed code are not mixed with older ones, wherever the change was."""
    root = Path(__file__).parents[1]
    found = sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _file_name(key: str) -> str:
    """A key as a file name: readable, and different for different keys."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "_", key).strip("._")
    if plain == key and len(key) <= LONGEST_NAME:
        return key
    return f"{plain[:LONGEST_NAME]}-{sha256(key.encode()).hexdigest()[:8]}"


def _read_cell(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, content: bytes) -> None:
    """Beside first, then renamed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error
