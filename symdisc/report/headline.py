"""A catalog in one line: its group as a formula."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from symdisc.report.content import Row, build, product

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["displayed", "group"]


def group(rows: Sequence[Row]) -> str:
    r"""The product of the groups of some rows in LaTeX; additive groups are one \mathbb{R}^n, scalings one \mathbb{R}_{>0}^n."""
    sums = {"": 0, "_{>0}": 0}
    others, local = [], 0
    for r in rows:
        if r.name.endswith("(numeric)"):  # a direction of the fibre without a closed form: no group of its own
            local += r.dimension
            continue
        flat = re.fullmatch(r"\\mathbb\{R\}(_\{>0\})?(?:\^\{?(\d+)\}?)?", r.group)
        if flat and r.counted:
            sums[flat[1] or ""] += r.dimension
        elif r.counted:
            others.append(r)
    flat_parts = [rf"\mathbb{{R}}{kind}" + (f"^{{{n}}}" if n > 1 else "") for kind, n in reversed(sums.items()) if n]
    flat_parts += [rf"\mathbb{{R}}^{{{local}}}_{{\mathrm{{local}}}}"] if local else []
    return r" \times ".join([*([product(others)] if others else []), *flat_parts])


def displayed(cat: Catalog) -> str:
    """``$$continuous factors; discrete factors$$`` with dimension and order, for a notebook."""
    report = build(cat, quantities=False)
    parts = [rf"\underbrace{{{group(report.rows)}}}_{{\text{{dimension {cat.group_dimension}}}}}"] if report.rows else [r"\{1\}"]
    parts += [rf"\underbrace{{{product(report.discrete)}}}_{{\text{{discrete}}}}"] if report.discrete else []
    return "$$" + r" \;\cdot\; ".join(parts) + "$$"
