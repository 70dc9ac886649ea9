"""The action on each parameter as a formula, read off the moves.

theta stands for the parameter, g for the group element (blocks g_1, g_2, ... on the diagonal), c for scales, t and a
for translations, P for a permutation. W is stored [out, in], so a matrix on axis 1 stands on its right, transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp

from symdisc.formula import parse
from symdisc.generators import Generator, Part
from symdisc.moves import Chart, Move, Through
from symdisc.normed import ALL, CENTRED, MODULO
from symdisc.symmetry import Discrete, Symmetry

__all__ = ["Step", "element", "steps"]


@dataclass(frozen=True)
class Step:
    """One parameter (``part``: the positions that move, when not all), its map and the letters in it, in LaTeX."""

    parameter: str
    part: str
    latex: str
    letters: str = ""


def steps(symmetry: Symmetry | Discrete, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Step, ...]:
    """What happens to each parameter, in order of the moves, or the generators of a group that acts by exp.

    Empty when there is neither, or too much to print.
    """
    if isinstance(symmetry, Symmetry) and symmetry.generators:
        return _fields(symmetry.generators)
    single = symmetry.shape in ((), (1,))
    return tuple(
        Step(
            m.parameter, _part(m, shapes.get(m.parameter)), rf"\theta \mapsto {_image(m, single, shapes)}", _letters(m)
        )
        for m in symmetry.moves
    )


def _fields(generators: Sequence[Generator], most: int = 24) -> tuple[Step, ...]:
    """delta theta of each generator: matrix units E_{ij} along an axis, constants e_i of the flattened parameter."""
    parts = [(k, part) for k, g in enumerate(generators, 1) for part in g.parts]
    if len(parts) > most or any(len(part.entries) > most for _, part in parts):
        return ()
    return tuple(Step(part.parameter, "", rf"X_{{{k}}}: \delta\theta = {_field(part)}") for k, part in parts)


def _field(part: Part) -> str:
    unit = "e_{{{i}}}" if part.axis == -1 else "E_{{{i},{j}}}"
    terms = []
    for i, j, value in part.entries:
        size = "" if abs(value) == 1 else rf"{_number(abs(value))}\, "
        terms.append(("-" if value < 0 else "+") + size + unit.format(i=i, j=j))
    total = " ".join(terms).removeprefix("+")
    if part.axis == -1:
        return total
    total = f"({total})" if len(terms) > 1 else total
    return rf"{total} \cdot_{{{part.axis}}} \theta"


def _letters(move: Move) -> str:
    """Which parameters the letters gamma, beta, mu and v stand for."""
    found = []
    if move.gain is not None and (not move.kind.startswith("normed_") or move.extra or move.rep == MODULO):
        offset = f"{_number(move.offset)} + " if move.offset and not move.kind.startswith(("bn_", "normed_")) else ""
        found.append(rf"\gamma = {offset}{_name(move.gain)}")
        if move.kind.startswith("outer"):
            found.append(r"m = \min |\gamma|")
    for c in move.charts:
        weight, size, direction = _chart_letters(move, c)
        found += [rf"{weight} = {size}\, {direction} / |{direction}|", rf"{size} = {_name(c.size)}", rf"{direction} = {_name(c.direction)}"]
    if move.kind == "outer" and move.through and move.through[0].kind == "taps":
        found.append(r"Z: \text{ numbers on the taps that make the same, } \zeta \text{, of a constant at every place}")
    if move.kind in ("outer_bias", "centred"):
        found.append(rf"\beta = {_name(move.extra[0])}")
    if move.kind.startswith("shear"):
        found.append(r"S = \exp(t\, \mathbf{1}\, l^{\top} / l^{\top} \mathbf{1}),\; l = " + ("1" if move.gain is None else r"1/\gamma"))
        found += [rf"{letter} = {_name(n)}" for letter, n in zip(("\\beta", "W"), move.extra[::-1], strict=False)]
    if move.kind == "bn_matmul":
        found.append(rf"v = {_name(move.extra[0])}")
    if move.kind == "bn_recentre":
        found += [rf"{letter} = {_name(n)}" for letter, n in zip((r"\mu", "v", "b"), move.extra, strict=False)]
    if move.kind == "bn_shift":
        found += [rf"\mu = {_name(move.extra[0])}", rf"v = {_name(move.extra[1])}"]
    return r",\; ".join(found)


def element(symmetry: Symmetry | Discrete) -> str:
    """What the group element is, in LaTeX."""
    s, family = symmetry.shape, symmetry.family
    if family == "flow":
        return rf"v \in \mathbb{{R}}^{{{s[0]}}} \;\text{{moved along its flow, numerically}}"
    if family == "linear":
        return rf"c \in \mathbb{{R}}^{{{s[0]}}}"
    if family == "permutation":
        return rf"P \in S_{{{s[0]}}}"
    if family == "shift":
        return rf"n \in \mathbb{{Z}}^{{{s[0]}}}"
    if family == "sign":
        return rf"\varepsilon \in \{{\pm 1\}}^{{{s[0]}}}" if s else r"\varepsilon = \pm 1"
    if family == "scale":
        return r"c > 0" if s == (1,) else rf"c \in \mathbb{{R}}_{{>0}}^{{{s[0]}}},\; D_c = \operatorname{{diag}}(c)"
    if len(s) == 3 and family in _MATRIX:
        one = _MATRIX[family].format(n=s[1])
        if s[0] == 1:
            return rf"g \in {one}"
        dots = "" if s[0] == 2 else r"\dots, "
        return rf"g = \operatorname{{diag}}(g_1, {dots}g_{{{s[0]}}}),\; g_b \in {one}"
    table = next((m for m in symmetry.moves if m.kind == "normed_table"), None)
    if table is not None:
        return _of_table(table)
    zero = r",\; \textstyle\sum t = 0" if family.endswith("0") else ""
    letter = "a" if any(m.kind.startswith("outer") for m in symmetry.moves) else "t"
    power = " \\times ".join(str(k) for k in s if k > 1) or "1"
    return rf"{letter} \in \mathbb{{R}}^{{{power}}}{zero}"


def _of_table(move: Move) -> str:
    """s and u of ``symdisc.normed``."""
    d = move.index.size
    scales = r"s \in \mathbb{R}\, \mathbf{1}" if move.rep == CENTRED else rf"s \in \mathbb{{R}}^{{{d}}}"
    sums = {ALL: "", MODULO: r",\; \textstyle\sum u = 0", CENTRED: r",\; \textstyle\sum u/\gamma = 0"}[move.rep]
    return scales + (rf",\; u \in \mathbb{{R}}^{{{d}}}{sums}" if move.extra else "")


_MATRIX = {
    "gl": r"\mathrm{{GL}}({n})",
    "o": r"\mathrm{{SO}}({n})",
    "o1": r"\mathrm{{SO}}({n}),\; g \mathbf{{1}} = \mathbf{{1}}",
    "complex": r"\mathbb{{C}}^{{\times}}",
    "shear": r"\mathrm{{GL}}({n}),\; g = 1 + \mathbf{{1}} l^\top",
}


def _part(move: Move, shape: tuple[int, ...] | None) -> str:
    """Which positions of the axis move: empty when all do (or the shape is not known)."""
    if move.rows is not None:
        return f"[{move.rows[0]}:{move.rows[1]}]"
    if shape is None or move.kind in ("outer_bias", "shear_bias", "centred", "bn_shift", "charted"):
        return ""
    size = 1
    for s in shape:
        size *= s
    size = size if move.axis == -1 else shape[move.axis]
    where = np.unique(move.index.positions())
    if len(where) >= size or (move.kind == "outer" and move.axis == -1):
        return ""
    before = "" if move.axis < 1 else ":, " * move.axis
    steps_between = np.unique(np.diff(where))
    if len(steps_between) > 1:
        return f"[{before}{len(where)} of {size}]"
    step = int(steps_between[0]) if len(steps_between) else 1
    return f"[{before}{where[0]}:{where[-1] + 1}" + (f":{step}]" if step > 1 else "]")


def _image(move: Move, single: bool, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The new value of theta."""
    if move.kind == "matmul":
        return _matrix(move)
    if move.kind == "plane":
        own, across = ("11", "12") if move.rep == "first" else ("22", "21")
        return rf"g_{{{own}}}\, \theta {'-' if move.power < 0 else '+'} g_{{{across}}}\, {_name(move.extra[0])}"
    if move.kind == "charted":
        return _charted(move, single, shapes)
    if move.kind == "permute":
        return {0: r"P \theta", -1: r"P \theta", 1: r"\theta P^{\top}"}.get(
            move.axis, rf"P \cdot_{{{move.axis}}} \theta"
        )
    scale = _power("c" if single else "c_u", move.power)
    if move.kind == "scale":
        return _scaled(move, single)
    if move.kind == "log_scale":
        sign, size = "-" if move.power < 0 else "+", "" if abs(move.power) == 1 else rf"{_number(abs(move.power))}\, "
        return rf"\theta {sign} {size}\log {'c' if single else 'c_u'}"
    if move.kind == "curved_scale":
        return rf"\sigma^{{-1}}({scale}\, \sigma(\theta)),\; \sigma(x) = {sp.latex(parse(move.rep))}"
    if move.kind.startswith("normed_"):
        return _normed(move, single, shapes)
    if move.kind == "affine_scale":
        return rf"{scale}\, (\theta + {_number(move.offset)}) - {_number(move.offset)}"
    if move.kind == "recentre":
        centre = _name(move.extra[0])
        return rf"{centre} + {scale}\, (\theta - {centre})"
    if move.kind == "bn_shift":
        return rf"\theta + ({scale} - 1)\, \gamma\, \mu / \sqrt{{v + {_number(move.offset)}}}"
    if move.kind.startswith("bn_"):
        d = rf"d = \gamma / \sqrt{{v + {_number(move.offset)}}}"
        constant = r"d\,(b - \mu)" if len(move.extra) > 2 else r"-d\, \mu"
        if move.kind == "bn_recentre" and move.gain_power < 0:
            return rf"d\,(g\,(\theta/d - \mu) + \mu),\; {d}"
        rep = "g" if move.rep == "g" else r"g^{-\top}"
        return (rf"D_d^{{-1}} {rep}\, D_d \cdot_{{{move.axis}}} \theta,\; {d}" if move.kind == "bn_matmul"
                else rf"g\,(\theta + c) - c,\; c = {constant},\; {d}")
    return _shifted(move, shapes)


def _normed(move: Move, single: bool, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A table behind a norm N with eps, row by row, and the gain and the shift that it makes up for."""
    if move.kind == "normed_gain":
        return r"e^{s} \odot \theta"
    if move.kind == "normed_shift":
        return r"\theta + u"
    scale, mean = (_power("c", move.power),) * 2 if move.kind == "normed_scale" else ("e^{-s}", r"e^{-\bar s}")
    row, apart = (r"\theta", "") if move.rep == ALL else (r"\theta - m", rf" + N^{{-1}}({mean}\, N(m))")
    known = rf",\; N(x) = x / \sqrt{{|x|^2/d + {_number(move.offset)}}}" + (r",\; m = \text{mean of } \theta" if apart else "")
    if move.kind == "normed_scale":
        return rf"N^{{-1}}({scale}\, N({row})){apart}{known}"
    normed = rf"(N({row}) - u/\gamma)" if move.extra else f"N({row})"
    lean, sums = (r" + \kappa\, e^{-s}/\gamma", r",\; \mathbf{1}^\top (\theta' - m') = 0") if move.rep == MODULO else ("", "")
    return rf"N^{{-1}}({scale} \odot {normed}{lean}){apart}{known}{sums}"


def _chart_letters(move: Move, chart: Chart) -> list[str]:
    """Weight, size and direction: W = rho v / |v|, numbered where a move has several."""
    index = f"_{{{move.charts.index(chart) + 1}}}" if len(move.charts) > 1 else ""
    return [letter + index for letter in ("W", r"\rho", "v")]


def _charted(move: Move, single: bool, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What follows a weight: its direction, its size, or a parameter whose map reads the weight."""
    chart = next((c for c in move.charts if move.parameter in c.stored), None)
    images = [_image(m, single, shapes) for m in move.inner]

    def named(image: str) -> str:
        """The weights that are made, by their letters: no tensor has their name."""
        for c in move.charts:
            image = image.replace(_name(c.weight), _chart_letters(move, c)[0])
        return image

    if chart is None:
        return named(images[0])
    image = images[0]
    for later in images[1:]:
        image = later.replace(r"\theta", f"({image})")
    weight, size, _ = _chart_letters(move, chart)
    image = named(image).replace(r"\theta", weight)
    if move.parameter == chart.size:
        return rf"\operatorname{{sgn}}(\theta)\, |W'|,\; W' = {image}"
    return rf"\operatorname{{sgn}}({size})\, |\theta|\, W' / |W'|,\; W' = {image}"


def _matrix(move: Move) -> str:
    """rep on axis 0 stands left; on axis 1 its transpose stands right. With a gain rep is D rep D^-1 or D^-1 rep D."""
    right = move.axis == 1
    power = {("g", False): "g", ("g", True): r"g^{\top}", ("g^-T", False): r"g^{-\top}", ("g^-T", True): "g^{-1}"}
    rep = power[(move.rep, right)]
    if move.gain is not None:
        before, after = (r"D_\gamma", r"D_\gamma^{-1}")
        # (D rep D^-1)^T = D^-1 rep^T D
        if (move.gain_power > 0) == right:
            before, after = after, before
        rep = rf"{before} {rep} {after}"
    if right:
        return rf"\theta\, {rep}"
    return rf"{rep}\, \theta" if move.axis in (0, -1) else rf"{rep} \cdot_{{{move.axis}}} \theta"


def _power(base: str, power: float) -> str:
    return base if power == 1 else rf"{base}^{{{power:g}}}"


def _scaled(move: Move, single: bool) -> str:
    if single:
        return rf"{_power('c', move.power)}\, \theta"
    if move.axis == 0:
        return rf"{_power('D_c', move.power)}\, \theta"
    if move.axis == 1:
        return rf"\theta\, {_power('D_c', move.power)}"
    return rf"{_power('c_u', move.power)}\, \theta_u"


def _shifted(move: Move, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Translations; an unknown kind is named rather than guessed."""
    sign = "-" if move.power < 0 else "+"
    size = "" if abs(move.power) == 1 else rf"{_number(abs(move.power))}\, "
    if move.kind == "add":
        chain = r"\, ".join(_through(t, shapes) for t in reversed(move.through))
        return rf"\theta {sign} {size}{chain + chr(92) + ', ' if chain else ''}t"
    if move.kind == "outer":
        one = r"\mathbf{1}" if move.gain is None else r"(m/\gamma)"
        if move.axis == -1:
            return r"\theta + a"
        if len(shapes.get(move.parameter, (0, 0))) == 1:
            return rf"\theta + a\, {one}"
        if move.through and move.through[0].kind == "taps":
            return rf"\theta + a\, Z \otimes {one}^{{\top}}"
        if move.through:
            return rf"\theta + B_{{{_name(move.through[0].parameter)}}}\, t\, {one}^{{\top}}"
        return rf"\theta + {one} a^{{\top}}" if move.axis == 0 else rf"\theta + a\, {one}^{{\top}}"
    if move.kind == "isospectral":
        letter = {"turn": "O", "carry": "M"}.get(move.rep, "O")
        return rf"{letter} \cdot_{{{move.axis}}} \theta" if move.inner else r"\{x : \textstyle\prod_i (x - \theta_i) = t\}"
    if move.kind == "shear":
        inverse = f"S{'' if move.rep == 'g' else '^{-' + chr(92) + 'top}'} " + rf"\cdot_{{{move.axis}}} "
        return rf"{inverse}(\theta - \beta) + \beta" if move.extra else rf"{inverse}\theta"
    if move.kind == "shear_bias":
        return r"\theta + (W - W S^{-1})\, \beta"
    if move.kind == "blind":
        return r"\theta + C A^{\top}" if move.axis == 1 else r"\theta + A C^{\top}"
    if move.kind == "blind_bias":
        return rf"\theta {sign} C A^{{\top}} c"
    if move.kind == "branch":
        scale = rf"{_name(move.gain)}\, " if move.gain else ""
        less = rf" - t\, {scale}{_name(move.extra[1])}" if len(move.extra) > 1 else ""
        return rf"\theta\, (1 - t\, {scale}{_name(move.extra[0])}){'' if move.power > 0 else '^{-1}'}{less}"
    if move.kind == "product":
        change = rf"{_name(move.extra[0])}\, a" if move.rep == "left" else rf"a\, {_name(move.extra[0])}"
        return rf"\theta {sign} {size}{change if move.axis == 0 else f'({change})^T'}"
    if move.kind == "outer_bias":
        total = r"\textstyle\sum " + (r"\beta" if move.gain is None else r"m \beta / \gamma")
        return rf"\theta {sign} {size}a {chr(92) + 'zeta' + chr(92) + ', ' if move.through else ''}{total}"
    if move.kind == "centred":
        return r"\theta - \frac{\theta t\, (1/\gamma)^{\top}}{\sum (\beta + t)/\gamma}"
    return rf"\text{{{_tex(move.kind)}}}(\theta)"


def _through(step: Through, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A linear map that a translation passes; a kernel acts on constants by its sum over positions."""
    if step.kind == "scale":
        return _number(step.offset)
    if step.kind == "flip":
        return rf"{_number(step.offset)} \, \tfrac{{1 - \cdot}}{{2}}"
    if step.kind == "spread":
        return rf"\frac{{m}}{{{_name(step.parameter)}{f' + {_number(step.offset)}' if step.offset else ''}}}"
    if step.kind == "total":
        more = f" + {_number(step.offset)}" if step.offset else ""
        below = f" / ({_name(step.gain)}{more})" if step.gain else ""
        return rf"\textstyle\sum {'m ' if below else ''}{_name(step.parameter)}{below}"
    name = _name(step.parameter)
    if step.kind == "dense":
        if len(shapes.get(step.parameter, ())) > 2:
            name = rf"(\textstyle\sum_{{\kappa}} {name}_{{\kappa}})"
        return name if step.keep < step.axis else rf"{name}^{{\top}}"
    if step.kind == "per":
        return rf"\frac{{1}}{{{name}{f' + {_number(step.offset)}' if step.offset else ''}}}"
    if step.kind == "each":
        return name if not step.offset else rf"({name} + {_number(step.offset)})"
    if step.kind == "gain":
        return rf"\operatorname{{diag}}({name}{f' + {_number(step.offset)}' if step.offset else ''})"
    return rf"\operatorname{{diag}}({name} + {_number(step.offset)})^{{-1/2}}"


def _number(value: float) -> str:
    """1e-05 as 10^{-5}."""
    digits, _, power = f"{value:g}".partition("e")
    if not power:
        return digits
    return ("" if digits == "1" else rf"{digits} \cdot ") + rf"10^{{{int(power)}}}"


def _name(parameter: str) -> str:
    return rf"\texttt{{{_tex(parameter)}}}"


def _tex(name: str) -> str:
    return name.replace("_", r"\_")
