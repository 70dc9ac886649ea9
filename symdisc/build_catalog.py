"""Architectures to entries: ``catalog/<name>/`` with record.json, catalog.tex, catalog.md, graph.json, the same bytes everywhere.

The record is the truth and the pages are made from it alone. What a machine measured is stored as a bound, so nothing in the files
depends on the processor, the time or the folder. An entry whose sources (engine, rules, architecture, libraries) have not changed
since it was made is not derived again: its digest, kept beside it and out of version control, tells.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from symdisc.entry import Entry
from symdisc.errors import BadInput

__all__ = ["DIGEST", "FILES", "INDEX", "build_index", "build_record", "changed", "digest", "fresh", "longest_first", "names", "pages",
           "write"]

FILES = ("record.json", "catalog.tex", "catalog.md", "graph.json")
INDEX = "README.md"  # beside the entries: one row for each
DIGEST = ".digest"  # beside record.json, ignored by git
APART = ("report", "cli", "studies", "coverage", "examples", "demo.py", "zoo.py")  # rooms that no derivation reads
LIBRARIES = ("torch", "transformers", "sympy", "numpy", "torchvision", "timm")


def names() -> tuple[str, ...]:
    """All architectures that have an entry, by name."""
    from symdisc.architectures import ARCHITECTURES

    return tuple(sorted(ARCHITECTURES))


def build_record(name: str) -> dict[str, str]:
    """The texts of one entry by file name: derived, certified, typeset.

    Raises BadInput for an unknown architecture, and SymdiscError when a certificate is too weak to be recorded.
    """
    from symdisc.architectures import ARCHITECTURES
    from symdisc.entries.build import build_entry

    if name not in ARCHITECTURES:
        raise BadInput(f"the catalog has no {name!r}: it has {', '.join(names())}")
    entry, graph = build_entry(ARCHITECTURES[name])
    return {**pages(entry.to_json()), "graph.json": graph}


def pages(record: str) -> dict[str, str]:
    """The record (JSON) with the pages that are made from it."""
    from symdisc.report import entry as writer

    entry = Entry.from_json(record)
    return {"record.json": record, "catalog.tex": writer.latex(entry), "catalog.md": writer.markdown(entry)}


def build_index(where: Path, fresh: Mapping[str, str]) -> str:
    """The index of the entries below ``where``, those in ``fresh`` (record.json by name) taken from there. Raises BadInput
    where a kept one is damaged."""
    from symdisc.report.entries import index

    texts = {p.parent.name: _read(p) or "" for p in where.glob("*/record.json")} | dict(fresh)
    return index([Entry.from_json(texts[name]) for name in sorted(texts)])


def longest_first(names: Sequence[str]) -> list[str]:
    """The architectures with many sizes first: each size is varied, alone and with others."""
    from symdisc.architectures import ARCHITECTURES

    return sorted(names, key=lambda name: -len(ARCHITECTURES[name].symbols))


# --- what has changed -----------------------------------------------------------------------------------------------------
def digest(name: str) -> str:
    """Of everything that the entry of an architecture is derived from: engine, rules, versions of the libraries, its name."""
    package = Path(__file__).resolve().parent
    sources = [p for p in sorted(package.rglob("*.py")) if p.relative_to(package).parts[0] not in APART]
    rules = next((r for r in (package / "rules", package.parent / "rules") if r.is_dir()), None)
    total = hashlib.sha256(name.encode())
    for path in [*sources, *(sorted(rules.glob("*.toml")) if rules else ())]:
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    for library in LIBRARIES:
        try:
            total.update(f"{library} {metadata.version(library)}".encode())
        except metadata.PackageNotFoundError:
            continue
    return total.hexdigest()


def fresh(where: Path, name: str, wanted: str) -> dict[str, str] | None:
    """The texts of a kept entry whose digest is ``wanted``, its pages made again from the record; None where it has to be derived."""
    folder = where / name
    record, graph = _read(folder / "record.json"), _read(folder / "graph.json")
    if _read(folder / DIGEST) != wanted or record is None or graph is None:
        return None
    try:
        return {**pages(record), "graph.json": graph}
    except BadInput:
        return None


def changed(where: Path, name: str, texts: dict[str, str]) -> list[Path]:
    """The files of an entry (the index: ``name`` "") that are missing below ``where`` or hold something else."""
    return [where / name / file for file, text in texts.items() if _read(where / name / file) != text]


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write(files: Sequence[Path], texts: dict[str, str]) -> None:
    """Write the given files of an entry, each beside first and then renamed."""
    for path in files:
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(texts[path.name].encode("utf-8"))
            os.replace(part, path)
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
