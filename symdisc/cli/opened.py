"""Sources and catalogs for the commands: open, discover with progress, write the files of a catalog."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from symdisc.cli.terminal import folder, progress, remarks, write_text
from symdisc.errors import BadInput

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.torchside.sources import Source

__all__ = ["MODES", "catalog_of", "discovered", "opened", "write_catalog"]

MODES = {"asis": None, "eval": False, "train": True}


def opened(text: str, mode: str, quiet: bool, values: bool | None = None) -> Source:
    """The model of a SOURCE in the wanted mode."""
    if mode not in MODES:
        raise BadInput(f"mode {mode!r} is not known: give {', '.join(MODES)}")
    with progress(f"opening {text}", quiet):
        from symdisc.torchside.sources import open_source

        source = open_source(text, values=values).in_mode(MODES[mode])
    remarks(source.notes, quiet)
    return source


def discovered(source: Source, quiet: bool) -> Catalog:
    from symdisc.session import discover

    with progress(f"discovering {source.name}", quiet) as show:
        try:
            return discover(source.model, source.example, progress=show)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            source.try_run()  # whose fault is it? the model may fail on its own inputs
            raise error


def catalog_of(text: str, mode: str, quiet: bool) -> Catalog:
    """A catalog from its file, or discovered in a SOURCE."""
    path = Path(text)
    if path.is_file() and path.suffix == ".json" and _is_catalog(path):
        from symdisc.catalog import load

        return load(path)
    return discovered(opened(text, mode, quiet), quiet)


def _is_catalog(path: Path) -> bool:
    try:
        return '"symmetries"' in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def write_catalog(cat: Catalog, where: Path) -> list[Path]:
    """catalog.json, .tex, .md, .html and figure.png, .svg in a folder; each is complete or absent."""
    folder(where)
    texts = {"catalog.json": cat.to_json(), "catalog.tex": cat.to_latex(), "catalog.md": cat.to_markdown(),
             "catalog.html": cat.to_html()}
    for name, text in texts.items():
        write_text(where / name, text)
    return [where / name for name in texts] + _figures(cat, where)


def _figures(cat: Catalog, where: Path) -> list[Path]:
    from symdisc.report import figure

    if cat.graph is None:
        return []
    paths = []
    for suffix in (".png", ".svg"):
        target = where / f"figure{suffix}"
        part = where / f".figure.{os.getpid()}.part{suffix}"  # the suffix tells the figure's format
        try:
            figure.draw(cat, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        paths.append(target)
    return paths
