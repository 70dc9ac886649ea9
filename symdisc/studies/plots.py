"""How the figures of studies look: one size, one palette, predictions as lines and measurements as marks."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["COLOURS", "panels"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # distinguishable without red and green
STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False}  # what axes read when they are made


def panels(rows: int, columns: int, width: float = 3.6, height: float = 2.9) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns]; inches for one panel. No window system and no global state is touched."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.tick_params(which="both", labelsize=8)  # minor ticks of a short logarithmic axis are labelled, too
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return figure, axes
