"""A figure of the architecture graph: nodes from top to bottom, edges coloured by the symmetry that lives there."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from symdisc import archgraph
from symdisc.errors import BadInput
from symdisc.report.picture import Edge, Picture, Strand, picture

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["draw"]

WIDTH, HALF, STEP, COLUMN = 2.2, 0.23, 1.25, 4.6  # of a box, half its height, between rows, between columns; inches
LARGEST = 15000  # pixels of a side
COLOURS = {
    "gl": "#0072B2",
    "complex": "#56B4E9",
    "scale": "#D55E00",
    "o": "#009E73",
    "o1": "#009E73",
    "shear": "#E69F00",
    "permutation": "#CC79A7",
    "sign": "#882255",
    "linear": "#332288",
    "flow": "#000000",
    "outer": "#E69F00",
    "outer0": "#E69F00",
    "translation": "#B8860B",
    "translation0": "#B8860B",
}
PLAIN, OTHER = "#9a9a9a", "#6a3d9a"
FILL = {"input": "#eef3f8", "output": "#eef3f8", "node": "#ffffff", "constant": "#f4f4f4"}
NOTHING: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
STYLE: Any = {"svg.hashsalt": "symdisc", "font.family": "DejaVu Sans", "font.size": 8, "text.parse_math": False}


def draw(cat: Catalog, path: str | os.PathLike[str]) -> None:
    """Write the figure as PNG, SVG or PDF, by the suffix of ``path``; the same catalog gives the same bytes.

    Raises BadInput for other suffixes, and for a catalog read from a file, which does not hold its graph.
    """
    kind_of(path)
    if cat.graph is None:
        raise BadInput("this catalog holds no graph (it was read from a file); draw the one that discover returned")
    with mpl.rc_context(STYLE):
        write(_figure(picture(archgraph.build(cat.graph), cat), cat.architecture), path)


def kind_of(path: str | os.PathLike[str]) -> str:
    """png, svg or pdf, by the suffix; raises BadInput for others."""
    suffix = Path(path).suffix
    kind = suffix.lower().removeprefix(".")
    if kind not in NOTHING:
        raise BadInput(f"a figure is .png, .svg or .pdf, not {suffix or 'without a suffix'!r}: {Path(path).name}")
    return kind


def write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure beside its place and rename it; without dates, so that the same figure gives the same bytes."""
    target, kind = Path(path), kind_of(path)
    content = io.BytesIO()
    dots = min(150.0, LARGEST / max(figure.get_size_inches()))
    figure.savefig(content, format=kind, dpi=dots, metadata=NOTHING[kind])
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content.getvalue())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _figure(shown: Picture, title: str) -> Figure:
    rows = max(shown.ranks, default=0) + 1
    points = [(c * COLUMN, -r * STEP) for c, r in zip(shown.columns, shown.ranks, strict=True)]
    swings = [_swing(shown, edge, points) for edge in shown.edges]
    reach = max((abs(x) for x, _ in points), default=0.0)
    ends = [
        abs(points[e.tail][0] + points[e.head][0]) / 2 + s + 1.75 for e, s in zip(shown.edges, swings, strict=True) if s
    ]
    side = WIDTH / 2 + max([reach + 2.9, *ends])
    legend = _legend(shown)
    foot = 0.25 + 0.2 * ((len(legend) + 1) // 2)
    height = (rows - 1) * STEP + 2 * HALF + foot + 0.75
    figure = Figure(figsize=(2 * side, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    bottom = -(rows - 1) * STEP - HALF - foot
    axes.set_xlim(-side, side)
    axes.set_ylim(bottom, bottom + height)
    axes.set_aspect("equal")
    axes.axis("off")
    centred: Any = {"ha": "center", "va": "center"}
    top = bottom + height - 0.25
    axes.text(0, top, f"Architecture graph of {title}", fontsize=11, weight="bold", **centred)
    _repeats(axes, shown, points)
    for edge, swing in zip(shown.edges, swings, strict=True):
        _edge(axes, edge, points, swing)
    for vertex, (x, y) in zip(shown.vertices, points, strict=True):
        axes.add_patch(_box(x - WIDTH / 2, y - HALF, WIDTH, 2 * HALF, 0.09, FILL[vertex.kind], "#333333", 4))
        label, place = _cut(vertex.label.replace("_", " "), 30), _cut(vertex.place, 44, front=True)
        axes.text(x, y + (0.08 if place else 0), label, fontsize=8, zorder=5, **centred)
        axes.text(x, y - 0.11, place, fontsize=5.5, color="#555555", zorder=5, **centred)
    if legend:
        axes.legend(handles=legend, loc="lower center", ncols=2, frameon=False, fontsize=7.5, handlelength=1.6)
    return figure


def _box(x: float, y: float, width: float, height: float, corner: float, fill: str, line: str, level: int) -> Any:
    style = f"round,pad=0,rounding_size={corner}"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=line, linewidth=0.9, zorder=level
    )


def _cut(text: str, most: int, front: bool = False) -> str:
    if len(text) <= most:
        return text
    return f"…{text[1 - most :]}" if front else f"{text[: most - 1]}…"


def _colour(strand: Strand) -> str:
    return COLOURS.get(strand.family, OTHER) if strand.family else PLAIN


def _legend(shown: Picture) -> list[Line2D]:
    """One line per kind of symmetry that is drawn."""
    named: dict[str, dict[str, None]] = {}
    for edge in shown.edges:
        for strand in edge.strands:
            named.setdefault(_colour(strand), {})[strand.name or "no symmetry"] = None
    lines = [
        Line2D([], [], color=colour, linewidth=1.8, label=_cut(", ".join(names), 60)) for colour, names in named.items()
    ]
    if any(e.back for e in shown.edges):
        lines.append(Line2D([], [], color="#333333", linewidth=1.2, linestyle=(0, (4, 2)), label="into the next layer"))
    return lines


def _repeats(axes: Any, shown: Picture, points: list[tuple[float, float]]) -> None:
    """A shaded field behind folded vertices."""
    for count in sorted({v.count for v in shown.vertices if v.count > 1}):
        inside = [p for v, p in zip(shown.vertices, points, strict=True) if v.count == count]
        left, right = (f(x for x, _ in inside) for f in (min, max))
        low, high = (f(y for _, y in inside) for f in (min, max))
        x, y = left - WIDTH / 2 - 0.25, low - HALF - 0.14
        width, height = right - left + WIDTH + 0.5, high - low + 2 * HALF + 0.28
        axes.add_patch(_box(x, y, width, height, 0.15, "#f3f0e7", "#c9c2ab", 0))
        axes.text(
            x - 0.07, high + HALF, f"× {count}", ha="right", va="center", fontsize=10, color="#7a7050", weight="bold"
        )


def _swing(shown: Picture, edge: Edge, points: list[tuple[float, float]]) -> float:
    """How far an edge swings out beside its boxes: 0 for one to the next row.

    Back edges go right, past the labels of straight edges; edges over several rows go left, past all boxes between.
    """
    low, high = sorted((shown.ranks[edge.tail], shown.ranks[edge.head]))
    if not edge.back and high - low == 1:
        return 0.0
    swing = min((1.75 if edge.back else 0.7) + 0.3 * max(high - low - 1, 0), 3.4)
    side = 1 if edge.back else -1
    middle = side * (points[edge.tail][0] + points[edge.head][0]) / 2
    between = [side * x - middle + 0.4 for (x, _), r in zip(points, shown.ranks, strict=True) if low < r < high]
    return max([swing, *between])


def _bend(start: tuple[float, float], end: tuple[float, float], apex: float) -> float:
    """The curvature (arc3's rad) with which an edge swings out by ``apex``."""
    return 2 * apex / max(math.dist(start, end), 0.2)


def _edge(axes: Any, edge: Edge, points: list[tuple[float, float]], swing: float) -> None:
    (x0, y0), (x1, y1) = points[edge.tail], points[edge.head]
    for k, strand in enumerate(edge.strands):
        shift = (k - (len(edge.strands) - 1) / 2) * 0.09
        if not swing:
            start, end, style = (x0 + shift, y0 - HALF), (x1 + shift, y1 + HALF), "arc3"
        else:
            out, apart = (WIDTH / 2, 0.08) if edge.back else (-WIDTH / 2, 0.0)
            start, end = (x0 + out, y0 + shift - apart), (x1 + out, y1 + shift + apart)
            style = f"arc3,rad={_bend(start, end, swing)}"
        axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                connectionstyle=style,
                color=_colour(strand),
                arrowstyle="-|>",
                mutation_scale=8,
                linewidth=1.4,
                shrinkA=0,
                shrinkB=0,
                zorder=2,
                linestyle=(0, (4, 2)) if edge.back else "-",
            )
        )
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    _label(axes, edge, middle, swing)


def _label(axes: Any, edge: Edge, middle: tuple[float, float], swing: float) -> None:
    """Modules and groups beside the middle of an edge, one line per strand."""
    lines = [(_cut(f"{s.modules}  {s.groups}".strip(), 46), _colour(s)) for s in edge.strands if s.modules]
    x, y = middle
    if edge.back:
        x, align = x + WIDTH / 2 + swing + 0.1, "left"
    elif swing:
        x, align = x - WIDTH / 2 - swing - 0.08, "right"
    else:
        x, align = x + 0.045 * len(edge.strands) + 0.1, "left"
    for k, (text, colour) in enumerate(lines):
        place = (x, y + ((len(lines) - 1) / 2 - k) * 0.16)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        axes.text(*place, text, ha=align, va="center", fontsize=6.5, color=colour, zorder=6, bbox=box)
