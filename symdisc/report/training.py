"""A watched run as a figure: Q measured and predicted, what remains between them, and orthogonality."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from symdisc.errors import BadInput
from symdisc.report.figure import STYLE, kind_of, write

__all__ = ["draw_run"]

SHOWN = 12  # lines per panel; the symmetries that change or err most
FLOOR = 1e-18  # zeros on a logarithmic axis


def draw_run(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str = "", noise: float = 0.0) -> None:
    """Write the records of a Monitor as PNG, SVG or PDF: at most twelve symmetries per panel, by size.

    Panels: Q at the first entry that is followed, minus its first value, measured (lines) and predicted (dots); relative
    error of predictions; cosine between gradient and generator, or, where that is below ``noise``, the share of the whole gradient
    that pulls along the generator (the cosine of rounding errors is arbitrary). Raises BadInput for other suffixes and for no records.
    """
    kind_of(path)
    if not records:
        raise BadInput("there are no records to draw: train for a step first")
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for r in records:
        runs.setdefault((r["symmetry"], " ".join(r["parameters"])), []).append(r)
    with mpl.rc_context({**STYLE, "text.parse_math": True}):  # powers of ten on the axes are set as mathematics
        figure = Figure(figsize=(10, 8), layout="constrained")
        FigureCanvasAgg(figure)
        charges, errors, cosines = figure.subplots(3, 1, sharex=True)
        _charges(charges, [rows for rows in runs.values() if rows[0]["q"]])
        _sizes(errors, list(runs.values()), "error", "|predicted - Q| / |Q|")
        _sizes(cosines, [[_heard(r, noise) for r in rows] for rows in runs.values()], "orthogonality", "cosine of gradient and generator")
        cosines.set_xlabel("step")
        figure.suptitle(title)
        write(figure, path)


def _label(rows: Sequence[Mapping[str, Any]]) -> str:
    """The name of the symmetry; long ones lose their middle, as two of one kind differ at their end."""
    text = str(rows[0]["symmetry"]).replace("$", r"\$")
    return text if len(text) <= 72 else f"{text[:44]} ... {text[-23:]}"


def _heard(record: Mapping[str, Any], noise: float) -> Mapping[str, Any]:
    share = record["share"]
    return {**record, "orthogonality": share} if share <= noise else record


def _charges(axes: Any, runs: list[list[Mapping[str, Any]]]) -> None:
    def change(rows: list[Mapping[str, Any]]) -> float:
        return max(abs(r["q"][0] - rows[0]["q"][0]) for r in rows)

    for k, rows in enumerate(sorted(runs, key=change, reverse=True)[:SHOWN]):
        steps, start = [r["step"] for r in rows], rows[0]["q"][0]
        axes.plot(steps, [r["q"][0] - start for r in rows], color=f"C{k % 10}", lw=1, label=_label(rows))
        told = [r for r in rows if r["predicted"]]
        axes.plot([r["step"] for r in told], [r["predicted"][0] - start for r in told], ".", color=f"C{k % 10}", ms=4)
    axes.set_ylabel("Q - Q at first, dots: predicted")
    if runs:
        axes.legend(fontsize=5.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _sizes(axes: Any, runs: list[list[Mapping[str, Any]]], column: str, label: str) -> None:
    kept = [rows for rows in runs if rows[0][column] is not None]
    for rows in sorted(kept, key=lambda rows: -max(r[column] for r in rows))[:SHOWN]:
        axes.plot([r["step"] for r in rows], [max(r[column], FLOOR) for r in rows], lw=1, label=_label(rows))
    axes.set_ylabel(label)
    axes.set_yscale("log")
    if kept:
        axes.legend(fontsize=5.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
