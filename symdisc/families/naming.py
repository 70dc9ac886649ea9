"""Names, groups and formulas of the families, from what the moves show (never from module names)."""

from __future__ import annotations

from collections.abc import Sequence

from symdisc.moves import Move
from symdisc.symmetry import Symmetry

__all__ = ["LACKING", "common_path", "describe_affine", "describe_dense", "describe_torus"]

LACKING = "direction that a centred vector lacks"  # the reader of gamma n, n orthogonal to 1, may lean along 1/gamma
_GROUP = {"gl": ("GL({n})", r"\mathrm{{GL}}({n})"), "o": ("SO({n})", r"\mathrm{{SO}}({n})"),
          "o1": ("SO({m})", r"\mathrm{{SO}}({m})"), "complex": ("GL(1,C)", r"\mathrm{{GL}}(1,\mathbb{{C}})"),
          "shear": ("{{1 + 1 l^T}}({n})", r"\{{1 + \mathbf{{1}} l^\top\}}_{{{n}}}")}


def common_path(modules: Sequence[str]) -> str:
    """The longest module path that contains all of ``modules``."""
    split = [m.split(".") for m in modules if m]
    if not split:
        return ""
    path = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        path.append(parts[0])
    return ".".join(path)


def describe_dense(family: str, size: int, blocks: int, moves: tuple[Move, ...], parameters: tuple[str, ...],
                   modules: list[str]) -> Symmetry:
    """A matrix group acting on ``blocks`` spaces of ``size`` units."""
    plain, latex = (t.format(n=size, m=size - 1) for t in _GROUP[family])
    per = {"gl": size * size, "o": size * (size - 1) // 2, "o1": (size - 1) * (size - 2) // 2, "complex": 2, "shear": size}[family]
    group = plain if blocks == 1 else f"{plain}^{blocks}"
    group_latex = latex if blocks == 1 else f"{latex}^{{{blocks}}}"
    names = {"gl": "change of basis", "o": "rotation of the stream", "o1": "rotation of the stream fixing 1",
             "shear": "shear of the stream along 1", "complex": "complex scaling of rotary planes"}
    condition = {
        "gl": r"W_{\mathrm{out}}\, g^{-1} g\, W_{\mathrm{in}} = W_{\mathrm{out}} W_{\mathrm{in}}",
        "o": r"f(g x) = g f(x),\; g^\top g = 1", "o1": r"f(g x) = g f(x),\; g^\top g = 1,\; g \mathbf{1} = \mathbf{1}",
        "shear": r"f(x + \mathbf{1}\, l^\top x) = f(x),\; g = 1 + \mathbf{1} l^\top",
        "complex": r"g R_t = R_t g \;\text{for all } t,\; (g q)^\top (g^{-\top} k) = q^\top k",
    }[family]
    formula = r",\; ".join(_dense_formula(m) for m in moves[:6])
    assumptions = ("the norm's gain has no zero entry",) if any(m.gain for m in moves) else ()
    return Symmetry(names[family], group, family, common_path(modules), parameters, per * blocks, "proved",
                    (blocks, size, size), moves, group_latex, condition, formula, assumptions)


def _dense_formula(move: Move) -> str:
    rep = {"g": "g", "g^-T": r"g^{-\top}"}[move.rep]
    if move.gain:
        sign, other = ("", "^{-1}") if move.gain_power > 0 else ("^{-1}", "")
        rep = rf"D_\gamma{sign} {rep} D_\gamma{other}"
    return rf"\theta \mapsto {rep} \cdot_{{{move.axis}}} \theta \;(\texttt{{{_tex(move.parameter)}}})"


def _tex(name: str) -> str:
    return name.replace("_", r"\_")


def describe_torus(count: int, moves: tuple[Move, ...], parameters: tuple[str, ...], modules: list[str],
                   buffers: bool) -> Symmetry:
    """``count`` independent positive scalings."""
    powers = {abs(m.power) for m in moves}
    gains = _gains(moves)
    of = "gains" if gains else "hidden units"
    name = f"scaling of {of}" if count > 1 else "scaling"
    if powers - {1.0}:
        name = f"scaling of {of} (degrees {', '.join(f'{p:g}' for p in sorted(powers))})"
    modules = [m for p, m in zip(parameters, modules, strict=True) if p in gains] or modules
    group = "R_{>0}" if count == 1 else f"R_{{>0}}^{count}"
    latex = r"\mathbb{R}_{>0}" if count == 1 else rf"\mathbb{{R}}_{{>0}}^{{{count}}}"
    formula = r",\; ".join(rf"\theta_{{u}} \mapsto c_u^{{{m.power:g}}} \theta_{{u}} \;(\texttt{{{_tex(m.parameter)}}})"
                           for m in moves[:6])
    condition = r"\sigma(c x) = c^{p} \sigma(x),\; c > 0"
    return Symmetry(name, group, "scale", common_path(modules), parameters, count, "proved", (count,), moves, latex,
                    condition, formula, note="moves running statistics" if buffers else "")


def _gains(moves: tuple[Move, ...]) -> set[str]:
    """The parameters with one number for each unit, where these alone are traded against weights: a norm's gain against its readers."""
    sides = {m.power > 0 for m in moves if m.axis >= 0}  # biases of these weights stand on their side
    across = [m for m in moves if m.axis < 0 and (m.power > 0) not in sides]
    alone = len(sides) == 1 and all(m.axis == -1 and m.index.copies == 1 for m in across)
    return {m.parameter for m in across} if alone else set()


def describe_affine(name: str, family: str, count: int, shape: tuple[int, ...], moves: tuple[Move, ...],
                    parameters: tuple[str, ...], modules: list[str], condition: str, formula: str,
                    assumptions: tuple[str, ...] = ()) -> Symmetry:
    """An additive group R^count."""
    group = "R" if count == 1 else f"R^{count}"
    latex = r"\mathbb{R}" if count == 1 else rf"\mathbb{{R}}^{{{count}}}"
    return Symmetry(name, group, family, common_path(modules), parameters, count, "proved", shape, moves, latex, condition,
                    formula, assumptions)
