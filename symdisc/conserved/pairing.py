"""The generators of moves, paired with a covector: all that gradients, charges and one-forms need of a symmetry.

A symmetry with algebra element ``a`` moves the parameters along X_a(theta), linear in ``a``. Hence the pairing with any
vector x is <x, X_a(theta)> = <mu(x, theta), a> with an array ``mu`` shaped like ``a``. With x the gradient, mu must
vanish; with x = theta, half of it is the moment map; with x = d theta it is the one-form of the generator.

Arrays may be numpy (also of sympy objects) or torch tensors: only methods that both have are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from symdisc import normed
from symdisc.complement import complement
from symdisc.curves import curve
from symdisc.errors import BadInput
from symdisc.isospectral import generator, velocity
from symdisc.moves import Chart, Index, Move, Through

__all__ = ["depends_on", "pairing"]

Array = Any


def depends_on(move: Move) -> tuple[str, ...]:
    """Other parameters and buffers whose values the generator of a move reads."""
    if move.kind == "plane":  # the two sides move each other, linearly
        return ()
    names = [move.gain, *(n for t in move.through for n in t.reads), *move.extra]
    return tuple(dict.fromkeys(n for n in names if n))


def pairing(move: Move, x: Array, y: Array, state: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """mu with <x, X_a(y)> = <mu, a> for algebra arrays ``a`` of ``shape``; ``x``, ``y`` are shaped as the parameter.

    ``state`` gives the values that ``depends_on`` names. Raises BadInput for moves that have no generator
    (permutations).
    """
    if move.views:
        state = move.viewed(state)
        x, y = (move.viewed({move.parameter: a})[move.parameter] for a in (x, y))
    if move.kind.startswith("blind"):
        return _blind(move, x, y, state, shape)
    if move.kind in ("normed_gain", "normed_shift", "normed_table"):
        return _normed(move, x, y, state, shape)
    rule = _RULES.get(move.kind)
    if rule is None:
        raise BadInput(f"a move of kind {move.kind!r} has no infinitesimal generator; known kinds: {', '.join(_RULES)}")
    found = rule(move, x, y, state)
    if move.kind == "outer_bias" and move.through:
        found = found.reshape(-1, 1) @ _taps(move, found).swapaxes(0, 1)
    elif move.kind == "outer_bias":  # all taps of a kernel write into it
        found = found[np.repeat(np.arange(len(found)), int(np.prod(shape)) // len(found))]
    elif move.kind == "outer" and int(np.prod(shape)) == 1 and hasattr(found, "reshape"):
        found = found.sum()  # one number for all rows
    # A full sum over an array of objects (symbolic entries) is the bare object.
    return (found if hasattr(found, "reshape") else np.array(found)).reshape(shape)


# --- layout -----------------------------------------------------------------------------------------------------------
def lay_out(move: Move, x: Array) -> Array:
    """``x`` with the axis of the move in front and everything else flattened: [axis, rest]."""
    x = move.viewed({move.parameter: x})[move.parameter]
    flat = x.reshape(-1) if move.axis == -1 else x
    if move.rows is not None:
        flat = flat[move.rows[0]:move.rows[1]]
    front = _movedim(flat, (0 if move.axis == -1 else move.axis,), (0,))
    return front.reshape(front.shape[0], -1)


def _movedim(x: Array, source: tuple[int, ...], target: tuple[int, ...]) -> Array:
    return x.movedim(source, target) if hasattr(x, "movedim") else np.moveaxis(x, source, target)


def _span(positions: np.ndarray) -> slice | np.ndarray:
    """A slice where the positions are consecutive (no index is then sent to a device), else the positions."""
    flat = positions.reshape(-1)
    if np.array_equal(flat, np.arange(flat[0], flat[0] + len(flat))):
        return slice(int(flat[0]), int(flat[0]) + len(flat))
    return np.array(flat)


@lru_cache(maxsize=4096)
def _places(index: Index) -> tuple[slice | np.ndarray, tuple[int, int, int]]:
    """Where an index points, and its (copies, blocks, size); a training run asks at every step."""
    return _span(index.positions()), (index.copies, index.blocks, index.size)


def block_rows(move: Move, x: Array) -> Array:
    """Entries of a matrix move as [blocks, size, copies * rest]: the columns that the group multiplies."""
    span, (copies, blocks, size) = _places(move.index)
    rows = lay_out(move, x)[span].reshape(copies, blocks, size, -1)
    return rows.swapaxes(0, 1).swapaxes(1, 2).reshape(blocks, size, -1)


def unit_rows(move: Move, x: Array) -> Array:
    """Entries of a scaling move as [units, copies * rest]."""
    span, (copies, blocks, size) = _places(move.index)
    units = blocks * size
    return lay_out(move, x)[span].reshape(copies, units, -1).swapaxes(0, 1).reshape(units, -1)


def _like(values: np.ndarray | Array, move: Move, x: Array) -> Array:
    """A vector along the axis of the move, shaped to multiply ``x``."""
    if move.axis == -1:
        return values.reshape(x.shape)
    shape = [1] * len(x.shape)
    shape[move.axis] = -1
    return values.reshape(shape)


def matrix_rows(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> tuple[Array, Array]:
    """x' and y' [blocks, size, columns] with <x, X_a(y)> = <x' y'^T, a> (rep "g") or -<y' x'^T, a> (rep "g^-T")."""
    left, right = block_rows(move, x), block_rows(move, y)
    if move.gain is None:
        return left, right
    d = gain_rows(move, state)[..., None]  # X = D a D^-1 y, so <x, X> = <(D x)(D^-1 y)^T, a>
    (blocks, size, _), copies = left.shape, move.index.copies
    rest = left.shape[-1] // copies
    left = (left.reshape(blocks, size, copies, rest) * d).reshape(blocks, size, -1)
    return left, (right.reshape(blocks, size, copies, rest) / d).reshape(blocks, size, -1)


def gain_rows(move: Move, state: Mapping[str, Array]) -> Array:
    """The diagonal of the gain that conjugates a matrix move, [blocks, size, copies]."""
    assert move.gain is not None
    span, shape = _places(move.index)
    d = (state[move.gain].reshape(-1) + move.offset)[span].reshape(shape) ** move.gain_power
    return d.swapaxes(0, 1).swapaxes(1, 2)


# --- one function per kind --------------------------------------------------------------------------------------------
def _matmul(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    left, right = matrix_rows(move, x, y, state)
    if move.rep == "g":
        return left @ right.swapaxes(-1, -2)
    return -(right @ left.swapaxes(-1, -2))  # X = -a^T y


def _plane(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """The row of <., a .> that belongs to this side of the planes: [blocks, 2, 2]."""
    left = unit_rows(move, x)
    own, across = (left * unit_rows(move, y)).sum(-1), (left * unit_rows(move, state[move.extra[0]])).sum(-1) * _number(move.power)
    basis = np.eye(4).reshape(2, 2, 2, 2)[0 if move.rep == "first" else 1]
    mine, other = (basis[0], basis[1]) if move.rep == "first" else (basis[1], basis[0])
    return own[:, None, None] * _alike(mine, x) + across[:, None, None] * _alike(other, x)


def _scale(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    return (unit_rows(move, x) * unit_rows(move, y)).sum(-1) * _number(move.power)


def _log_scale(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = power at every entry of the unit."""
    return unit_rows(move, x).sum(-1) * _number(move.power)


def _curved_scale(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = power * sigma/sigma' at every entry of the unit."""
    found = curve(move.rep)
    assert found is not None
    return _scale(move, x, found.pushed(y), state)


def _normed_scale(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = power * c (1 + |c|^2/(d eps)), row by row."""
    return (x * normed.Ball(move.offset, move.rep != normed.ALL).pushed(y)).sum().reshape(1) * _number(move.power)


def _normed(move: Move, x: Array, y: Array, state: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """Covectors of s and u, in the coordinates of an element; zeros for the part that does not move this parameter."""
    d = y.shape[-1]
    shift = shape[0] > normed.size(move.rep, d, False)
    if move.kind == "normed_table":
        s, u = normed.slopes(move.rep, normed.Ball(move.offset, move.rep != normed.ALL), y, state[move.gain or ""], x)
    else:
        s, u = (x * y, x * 0) if move.kind == "normed_gain" else (x * 0, x)
    return normed.coordinates(move.rep, s, u if shift else None, lambda: state[move.gain] if move.gain else x * 0 + 1)


def _affine_scale(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    return _scale(move, x, y + move.offset, state)


def _recentre(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    return _scale(move, x, y - state[move.extra[0]].reshape(y.shape), state)


def _bn_shift(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    assert move.gain is not None
    mean, var = (state[n] for n in move.extra)
    return _scale(move, x, (state[move.gain] * mean * (var + move.offset) ** -0.5).reshape(x.shape), state)


def _constants(move: Move, state: Mapping[str, Array]) -> Array:
    """gamma / sqrt(v + eps), the diagonal of a BatchNorm in eval mode."""
    assert move.gain is not None
    return state[move.gain] * (state[move.extra[min(1, len(move.extra) - 1)]] + move.offset) ** -0.5


def _bn_matmul(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = D^-1 a D y, or with -a^T."""
    d = _like(_constants(move, state), move, x)
    if move.rep != "g":
        return -(block_rows(move, y * d) @ block_rows(move, x / d).swapaxes(-1, -2))
    return block_rows(move, x / d) @ block_rows(move, y * d).swapaxes(-1, -2)


def _bn_recentre(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    mean, _, *bias = (state[n] for n in move.extra)
    if move.gain_power < 0:
        d = _constants(move, state)
        return block_rows(move, x * d) @ block_rows(move, y / d - mean).swapaxes(-1, -2)
    return block_rows(move, x) @ block_rows(move, y + _constants(move, state) * (sum(bias) - mean)).swapaxes(-1, -2)


def _add(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    span, (copies, _, _) = _places(move.index)
    rows = lay_out(move, x).sum(-1)
    total = rows[span].reshape(copies, -1).sum(0) * _number(move.power)
    for step in reversed(move.through):
        total = _transpose(step, total, state)
    return total


def _transpose(step: Through, u: Array, state: Mapping[str, Array]) -> Array:
    """The transpose of what a translation passes through."""
    if step.kind == "scale":
        return u * _number(step.offset)
    if step.kind == "total":
        return u * (state[step.parameter].reshape(-1) / (state[step.gain].reshape(-1) + step.offset if step.gain else 1)).sum()
    if step.kind == "spread":
        return (u / (state[step.parameter].reshape(-1) + step.offset)).sum().reshape(1)
    assert isinstance(step.index, Index)
    p = step.index.positions().reshape(step.index.copies, -1)
    weight = state[step.parameter]
    if step.kind == "gain":
        return u * (weight.reshape(-1)[p[0]] + step.offset)
    if step.kind == "unseen":
        raise BadInput("what a weight turns into multiples of 1 is not a formula of its entries")
    if step.kind == "each":
        return (u * (weight.reshape(-1)[p[0]] + step.offset)).sum(axis=0, keepdims=True)
    if step.kind == "per":
        return (u / (weight.reshape(-1)[p[0]] + step.offset)).sum(axis=0, keepdims=True)
    if step.kind == "rsqrt":
        return u * (weight.reshape(-1)[p[0]] + step.offset) ** -0.5
    part = weight if step.rows is None else weight[step.rows[0]:step.rows[1]]
    moved = _movedim(part, (step.keep, step.axis), (0, 1))
    matrix = moved.reshape(moved.shape[0], moved.shape[1], -1).sum(-1)
    back = u @ matrix
    return back[p.reshape(-1)].reshape(p.shape).sum(0)


def _outer(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    if move.axis == -1:
        return x
    if move.rows is not None:
        x = x[move.rows[0]:move.rows[1]]
    if move.gain is not None:
        x = x / _like(state[move.gain].reshape(-1) + move.offset, move, x)
    x = x.sum(move.axis)
    return x.reshape(x.shape[0], -1) @ _taps(move, x).swapaxes(0, 1) if move.through and move.through[0].kind == "taps" else x


def _taps(move: Move, like: Array) -> Array:
    """[r, taps]"""
    index = move.through[0].index
    assert index is not None
    return _alike(index.positions()[0], like)


def _outer_bias(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    shift = state[move.extra[0]].reshape(-1)
    total = shift.sum() if move.gain is None else (shift / (state[move.gain].reshape(-1) + move.offset)).sum()
    entries = x.reshape(-1) if move.rows is None else x.reshape(-1)[move.rows[0]:move.rows[1]]
    return entries * total * _number(move.power)


def _centred(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = -(y t) (1/gamma)^T / sum(beta/gamma), contracted along the axis."""
    beta = state[move.extra[0]].reshape(-1)
    gain = beta * 0 + 1 if move.gain is None else state[move.gain].reshape(-1) + move.offset
    seen = (x * _like(1 / gain, move, x)).sum(move.axis)
    rows = lay_out(move, y)
    return -(rows @ seen.reshape(-1)) / (beta / gain).sum()


def _branch(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = -power gain extra[0] y, less gain extra[1]."""
    places = move.index.positions().reshape(-1)
    left, right = lay_out(move, x)[places], lay_out(move, y)[places]
    scale = 1 if move.gain is None else state[move.gain].reshape(-1)
    total = (scale * state[move.extra[0]].reshape(-1) * (left * right).sum(-1)).sum() * -_number(move.power)
    return (total if len(move.extra) < 2 else total - (scale * state[move.extra[1]].reshape(-1) * left.sum(-1)).sum()).reshape(1)


def _slices(chart: Chart, x: Array) -> Array:
    """Sums over all axes but ``dim``, shaped to broadcast over ``x``."""
    axes = tuple(a for a in range(len(x.shape)) if a != chart.dim)
    return x.sum(axis=axes, keepdims=True) if axes else x


def _charted(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """The covector pulled back to the weights W = g v/|v|: dv = |v|/g (dW - n <n, dW>) and dg = <n, dW> with n = v/|v|."""
    state, made = {**state, move.parameter: y}, {}
    for c in move.charts:
        v, g = state[c.direction], state[c.size]
        length = _slices(c, v * v) ** 0.5
        made[c.weight] = (v / length, length, g.reshape(length.shape))
    state.update({name: n * g for name, (n, _, g) in made.items()})
    chart = next((c for c in move.charts if move.parameter in c.stored), None)
    if chart is not None:
        n, length, g = made[chart.weight]
        x = x.reshape(g.shape) * n if move.parameter == chart.size else length / g * (x - n * _slices(chart, n * x))
        y = state[chart.weight]
    parts = [_RULES[m.kind](m, x, y, state).reshape(-1) for m in move.inner]
    return sum(parts[1:], parts[0])


def _isospectral(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """dgamma = dt / p'(gamma) for the gain, the derivative of its matrix for what it turns."""
    values = y if not move.inner else state[move.extra[0]]
    values = values.detach().cpu().double().numpy() if hasattr(values, "detach") else np.asarray(values, dtype=np.float64)
    places = move.index.positions().reshape(-1)
    gain = values.reshape(-1)[places] + move.offset
    if move.inner:
        return (_matmul(move.inner[0], x, y, state) * _alike(velocity(gain, move.rep), x)).sum().reshape(1)
    return (x.reshape(-1)[places] * _alike(generator(gain)[0], x)).sum().reshape(1)


def _leaning(move: Move, state: Mapping[str, Array]) -> tuple[Array | int, Array | int]:
    """(l, sum of l) with l = 1/gamma, or ones."""
    if move.gain is None:
        return 1, move.index.size
    l = 1 / (state[move.gain].reshape(-1) + _number(move.offset))
    return l, l.sum()


def _shear(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = 1 l^T (y - centre) / sum(l), or -l 1^T y / sum(l)."""
    l, total = _leaning(move, state)
    left, right = (unit_rows(move, a).reshape(move.index.size, -1) for a in (x, y))
    l = l if isinstance(l, int) else l.reshape(-1, 1)
    if move.rep != "g":
        return ((l * left).sum(0) * right.sum(0)).sum().reshape(1) * -1 / total
    centred = right - state[move.extra[0]].reshape(-1, 1) if move.extra else right
    return (left.sum(0) * (l * centred).sum(0)).sum().reshape(1) / total


def _shear_bias(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = W 1 l^T centre / sum(l)."""
    (l, total), (name, centre) = _leaning(move, state), move.extra
    return (x.reshape(-1) * state[name].sum(move.inner[0].axis)).sum().reshape(1) * (l * state[centre].reshape(-1)).sum() / total


def _product(move: Move, x: Array, y: Array, state: Mapping[str, Array]) -> Array:
    """X = power * other @ t or power * t @ other, transposed where the outputs are on axis 1."""
    x, other = (x if move.axis == 0 else x.swapaxes(0, 1)) * _number(move.power), state[move.extra[0]]
    return other.swapaxes(0, 1) @ x if move.rep == "left" else x @ other.swapaxes(0, 1)


def _blind(move: Move, x: Array, y: Array, state: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """X = t A^T for a reader, power * t A^T c for its bias."""
    basis, constant = complement(move, shape[-1], state)
    if move.kind == "blind_bias":
        entries = x.reshape(-1)[move.index.positions().reshape(-1)] * _number(move.power)
        return entries[:, None] * _alike(basis.T @ constant, x)[None]
    part = x if move.rows is None else x[move.rows[0]:move.rows[1]]
    along = _movedim(part, (move.axis,), (part.ndim - 1,))
    read = [along[..., copy.reshape(-1)] for copy in move.index.positions()]
    return sum(read[1:], read[0]) @ _alike(basis, x)


def _alike(values: np.ndarray, like: Array) -> Array:
    """The same numbers in the library of ``like``."""
    return like.new_tensor(values) if hasattr(like, "new_tensor") else values


def _number(value: float) -> float | int:
    """Integers stay integers, so that symbolic arrays stay exact."""
    return int(value) if value == int(value) else value


_RULES: dict[str, Callable[[Move, Array, Array, Mapping[str, Array]], Array]] = {
    "matmul": _matmul, "plane": _plane, "scale": _scale, "log_scale": _log_scale, "curved_scale": _curved_scale,
    "normed_scale": _normed_scale,
    "affine_scale": _affine_scale,
    "recentre": _recentre, "bn_shift": _bn_shift, "bn_matmul": _bn_matmul, "bn_recentre": _bn_recentre, "add": _add, "outer": _outer,
    "outer_bias": _outer_bias, "centred": _centred, "product": _product, "isospectral": _isospectral, "branch": _branch,
    "shear": _shear, "shear_bias": _shear_bias, "charted": _charted,
}
