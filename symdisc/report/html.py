"""The catalog as one HTML file: no network, no script; formulas are MathML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from symdisc.report import mathml
from symdisc.report.content import build, number

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["notebook", "render"]


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


def notebook(cat: Catalog) -> str:
    """The report as one element for a page of others: its rules nest below a class, so they change nothing else there."""
    text = render(cat)
    style, body = (text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0] for tag in ("style", "body"))
    rules = style.replace(":root {", "& {").replace("body {", "& {").strip()
    return f'<div class="symdisc"><style>\n.symdisc {{\n{rules}\n}}\n</style>{body}</div>'
