"""Imports go down only, torch stays on its floors, rooms stay small: the architecture as a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "symdisc"

FLOORS = (
    {"errors"},
    {"spaces", "formula", "exact", "moves", "residues"},
    {"rulebook", "opgraph", "groups", "generators", "complement", "isospectral", "curves", "normed"},
    {"archgraph", "sizes", "symmetry"},
    {"equivariance", "elements", "stacks"},
    {"families", "solve"},
    {"conserved", "laws", "obstacles"},
    {"certificate", "entry", "lower"},
    {"catalog"},
    {"torchside", "report"},
    {"session", "zoo", "architectures"},
    {"entries"},
    {"build_catalog", "demo", "studies", "coverage", "examples"},
    {"cli"},
    {"__main__"},
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}

# Functions that open a door upwards, so that a record can be asked for its picture or its action: (from, to).
DOORS = {
    ("catalog", "torchside"), ("catalog", "report"), ("equivariance", "torchside"), ("laws", "session"), ("laws", "torchside"),
    ("torchside", "report"),
}
TORCH_ROOMS = {"torchside", "zoo", "architectures", "studies", "coverage", "examples"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 50


@dataclass(frozen=True)
class Import:
    """One import of ``target`` (a full module name) in ``path``; ``lazy`` when it stands inside a function."""

    path: Path
    line: int
    target: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(PACKAGE)}:{self.line} imports {self.target}"


def room(path: Path) -> str:
    """The file or the package right below symdisc/ that ``path`` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


def imports_of(path: Path, source: str | None = None) -> Iterator[Import]:
    """All imports of a file, those only made for the type checker left out."""
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source)
    yield from _walk(path, tree, lazy=False)


def _walk(path: Path, node: ast.AST, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(path, child.lineno, alias.name, lazy)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(path, child)
            names = [f"{base}.{a.name}" for a in child.names] if base == "symdisc" else [base]
            for name in names:
                yield Import(path, child.lineno, name, lazy)
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _walk(path, child, lazy or inside)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = ["symdisc", *path.relative_to(PACKAGE).parts[:-1]]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def upward(found: Import) -> str | None:
    """Why an import breaks the floors, or None."""
    parts = found.target.split(".")
    if parts[0] != "symdisc" or len(parts) < 2 or parts[1].startswith("__"):
        return None
    here, there = room(found.path), parts[1]
    if here == there:
        return None
    if there not in FLOOR:
        return f"{found}: symdisc.{there} has no floor; give it one in FLOORS"
    if FLOOR[there] < FLOOR[here] or (found.lazy and (here, there) in DOORS):
        return None
    return f"{found}: floor {FLOOR[here]} may not import from floor {FLOOR[there]}"


def test_every_module_has_a_floor() -> None:
    rooms = {room(p) for p in modules()} - {"__init__"}
    assert rooms - set(FLOOR) == set()


@pytest.mark.parametrize("path", [p for p in modules() if room(p) != "__init__"],
                         ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    assert [why for why in map(upward, imports_of(path)) if why] == []


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_torch_stays_on_its_floors(path: Path) -> None:
    if room(path) in TORCH_ROOMS:
        return
    heavy = {"torch", "transformers", "safetensors", "timm", "sklearn"}
    assert [str(i) for i in imports_of(path) if i.target.split(".")[0] in heavy] == []


def test_tests_are_small() -> None:
    tests = Path(__file__).parent
    lines = {str(p.relative_to(tests)): len(p.read_text(encoding="utf-8").splitlines()) for p in tests.rglob("*.py")}
    assert [name for name, count in lines.items() if count > LONGEST_FILE] == [], "split these files by concept"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_are_small(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE, "split this file by concept"
    long = [f"{n.name} ({n.end_lineno - n.lineno + 1} lines)" for n in ast.walk(ast.parse(source))
            if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.end_lineno is not None
            and n.end_lineno - n.lineno + 1 > LONGEST_FUNCTION]
    assert long == []


def test_no_dynamic_imports_hide_a_floor() -> None:
    """``import_module`` is for the front door, for the user's own sources and for the table of studies."""
    allowed = {"__init__.py", "torchside/sources.py", "studies/__init__.py"}
    using = {p.relative_to(PACKAGE).as_posix() for p in modules() if "import_module(" in p.read_text(encoding="utf-8")}
    assert using <= allowed


@pytest.mark.parametrize("module", ["symdisc", "symdisc.cli", "symdisc.catalog", "symdisc.archgraph", "symdisc.laws"])
def test_import_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0


@pytest.mark.parametrize("room_name, source, message", [
    ("errors.py", "from symdisc.spaces import DATA", "floor 0 may not import from floor 1"),
    ("spaces.py", "import symdisc.exact", "floor 1 may not import from floor 1"),
    ("opgraph.py", "def f():\n    from symdisc import session", "floor 2 may not import from floor"),
    ("catalog.py", "from symdisc.report import latex", "floor 8 may not import from floor"),
    ("torchside/check.py", "from ..session import discover", "may not import from floor"),
    ("exact.py", "from symdisc.helpers import nothing", "has no floor"),
])
def test_the_walk_refuses(room_name: str, source: str, message: str) -> None:
    """The tester tested: a false import is found, also a relative one, one in a function and one of an unknown room."""
    found = [why for why in map(upward, imports_of(PACKAGE / room_name, source)) if why]
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize("source", [
    "from symdisc.errors import BadInput",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from symdisc.session import discover",
    "def f():\n    from symdisc.report import latex",
])
def test_the_walk_allows(source: str) -> None:
    assert [why for why in map(upward, imports_of(PACKAGE / "catalog.py", source)) if why] == []
