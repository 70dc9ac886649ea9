"""The zoo to records: ``catalog/<model>/record.json`` and ``record.tex``, the same bytes on every machine.

The record is the truth and the LaTeX is made from it alone. What a machine measured is stored as a bound, so nothing in the files
depends on the processor, the time or the folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from symdisc.catalog import Catalog
from symdisc.certificate import Certificate
from symdisc.errors import BadInput, SymdiscError
from symdisc.symmetry import Broken

__all__ = ["FILES", "GAP", "INDEX", "build_index", "build_record", "changed", "write"]

FILES = ("record.json", "record.tex")
INDEX = "README.md"  # beside the records: one row for each
GAP = 1e3  # spectral gap that a certificate needs to be recorded; stored in place of the measured one, which no two machines share


def build_record(name: str) -> dict[str, str]:
    """The texts of one zoo model's record by file name: discovered, certified, typeset.

    Raises BadInput for an unknown model, and SymdiscError when its certificate is too weak to be recorded.
    """
    from symdisc.session import certify, discover
    from symdisc.zoo import build

    cat = discover(*build(name))
    cat = cat.replace(certificate=_bounded(name, certify(cat)), broken=tuple(map(_unmeasured, cat.broken)))
    head = f"symdisc catalog build {name}"
    record = json.dumps({"made_by": head, **cat.to_dict()}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return dict(zip(FILES, (record, f"% made by: {head}\n" + Catalog.from_json(record).to_latex()), strict=True))


def build_index(where: Path, fresh: Mapping[str, str]) -> str:
    """The index of the records below ``where``, those in ``fresh`` (record.json by name) taken from there. Raises BadInput
    where a kept one is damaged."""
    from symdisc.report.headline import index

    texts = {p.parent.name: _read(p) or "" for p in where.glob("*/record.json")} | dict(fresh)
    return index([(name, Catalog.from_json(texts[name])) for name in sorted(texts)])


def _bounded(name: str, c: Certificate) -> Certificate:
    """The certificate with its gap as a bound."""
    if not c.exact and c.gap < GAP:
        raise SymdiscError(f"{name}: the spectral gap {c.gap:.1e} is below {GAP:.0e}, so the rank is not certain and is not recorded")
    return c if c.exact else Certificate.from_dict({**c.to_dict(), "gap": GAP})


def _unmeasured(b: Broken) -> Broken:
    """A refusal without the number that was measured on random draws."""
    return replace(b, reason=re.sub(r"(outputs change) by \d\.\de[+-]\d+", r"\1", b.reason))


def changed(where: Path, name: str, texts: dict[str, str]) -> list[Path]:
    """The files of a record (the index: ``name`` "") that are missing below ``where`` or hold something else."""
    return [where / name / file for file, text in texts.items() if _read(where / name / file) != text]


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write(files: Sequence[Path], texts: dict[str, str]) -> None:
    """Write the given files of a record, each beside first and then renamed."""
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
