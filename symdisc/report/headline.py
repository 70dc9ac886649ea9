"""A catalog in one line: the group, and a row for the index of all catalogs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from symdisc.report import unicode
from symdisc.report.content import Row, build, magnitude, number, order_of, product

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["HEAD", "displayed", "group", "index", "row"]

HEAD = ("entry", "architecture", "parameters", "dimension", "share", "continuous group", "discrete group", "certificate")


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


def row(entry: str, cat: Catalog) -> tuple[str, ...]:
    """What the index tells of one record, in the order of HEAD; formulas as unicode."""
    report = build(cat, quantities=False)
    dimension = cat.group_dimension if cat.orbit_dimension is None else cat.orbit_dimension
    discrete = _discrete(report.discrete)
    c = cat.certificate
    certificate = "none"
    if c is not None:
        where = " on a miniature" if c.miniature else ""
        certificate = f"{'complete' if c.complete else 'incomplete'}: {number(c.found)} of {number(c.fibre)}{where}"
    return (f"[{entry}]({entry}/record.tex)", cat.architecture, number(cat.parameter_count), number(dimension),
            f"{100 * dimension / cat.parameter_count:.1f} %" if cat.parameter_count else "0 %",
            f"`{unicode.from_latex(group(report.rows))}`" if report.rows else "none", discrete, certificate)


def _discrete(rows: Sequence[Row]) -> str:
    if not rows:
        return "none"
    order = sum(order_of(r.order) * r.count for r in rows)
    size = f"order {magnitude(order)}" if all(r.order for r in rows) else "of infinite order"
    return f"`{unicode.from_latex(product(rows))}`, {size}"


def index(entries: Sequence[tuple[str, Catalog]]) -> str:
    """The page that lists all records: one row each, in the given order."""
    cells = [HEAD, tuple("---" for _ in HEAD), *(row(entry, cat) for entry, cat in entries)]
    table = "\n".join("| " + " | ".join(text.replace("|", "∣") for text in line) + " |" for line in cells)
    return f"""# Catalog

Made by `symdisc catalog build`; `symdisc catalog build --check` compares. In each folder `record.json` is the truth and
`record.tex` is set from it alone. `dimension` is that of the orbit at generic weights, `share` its part of all parameters; the
certificate compares what was found with D - rank J, the dimension of all continuous symmetry. Groups are products up to
their overlap: factors that act alike are counted once in `dimension`.

{table}
"""
