"""The catalog as one HTML file: no network, no script; formulas are MathML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from symdisc.report import mathml
from symdisc.report.content import build, number

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["render"]


def render(cat: Catalog) -> str:
    """One HTML document; everything that comes from the model is escaped."""
    environment = Environment(
        loader=PackageLoader("symdisc.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["math"] = lambda latex: Markup(mathml.from_latex(latex))
    environment.filters["number"] = number
    return environment.get_template("catalog.html").render(report=build(cat))
