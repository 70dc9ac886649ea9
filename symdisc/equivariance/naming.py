"""Names for a null space on whole feature spaces: which families of matrices and shifts it consists of.

Each candidate family is a set of generators on the inputs; it is part of the algebra when every generator extends, by
some output pair, to an element of the null space. Families are taken while they add their full dimension, so that the
names span the null space exactly, and what no name covers is the remainder.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from symdisc.equivariance.record import Family
from symdisc.equivariance.system import Layout, Space
from symdisc.exact import null_space, rank

__all__ = ["name_families"]

_TOLERANCE = 1e-7


def name_families(layout: Layout, basis: np.ndarray) -> tuple[tuple[Family, ...], np.ndarray]:
    """Families of the null space ``basis`` [unknowns, k] and the remainder [unknowns, r] that no family covers."""
    if basis.shape[1] == 0:
        return (), basis
    q = np.linalg.qr(basis)[0]
    cut = layout.input_unknowns
    span = np.zeros((layout.unknowns, 0))
    families = []
    silent = _kernel_of(q[:cut])  # combinations that do nothing to the inputs: output kernels
    if silent.shape[1]:
        span = q @ silent
        families.append(_output_kernel(layout, span))
    for family, generators in itertools.chain(_candidates(layout), _some_units(layout, q, cut)):
        lifted = _lift(q, cut, generators)
        if lifted is None or _rank(np.hstack([span, lifted])) < span.shape[1] + lifted.shape[1]:
            continue
        span = np.hstack([span, lifted])
        families.append(family)
        if span.shape[1] == basis.shape[1]:
            break
    return tuple(families), _outside(q, span)


def _some_units(layout: Layout, q: np.ndarray, cut: int) -> Iterator[tuple[Family, np.ndarray]]:
    """Scales and translations of those units of an input that have one, where not all have."""
    for space in layout.inputs:
        for label, latex in (("scales", r"x_i \to d_i x_i"), ("translations", r"x_i \to x_i + t_i")):
            found = []
            for i, e in enumerate(np.eye(space.feature)):
                part = (np.diag(e), None) if label == "scales" else (None, e)
                generator = _stack(layout, [{space.name: part}])
                if _lift(q, cut, generator) is not None:
                    found.append((i, generator))
            if found:
                units = ", ".join(str(i) for i, _ in found)
                family = Family(f"{label} of units {units} of {space.name}", len(found), latex, space.name)
                yield family, np.hstack([g for _, g in found])


def _lift(q: np.ndarray, cut: int, generators: np.ndarray) -> np.ndarray | None:
    """Elements of the null space with the given input parts [unknowns, k], or None when one has no extension."""
    weights = np.linalg.lstsq(q[:cut], generators[:cut], rcond=1e-9)[0]
    if np.abs(q[:cut] @ weights - generators[:cut]).max() > _TOLERANCE:
        return None
    return q @ weights


def _kernel_of(matrix: np.ndarray) -> np.ndarray:
    """Null space of a part of an orthonormal basis; a one beside it fixes what counts as small."""
    m, n = matrix.shape
    padded = np.zeros((m + 1, n + 1))
    padded[:m, :n], padded[m, n] = matrix, 1.0
    return null_space(padded, rtol=1e-8, what="part of a null space").basis[:n]


def _rank(matrix: np.ndarray) -> int:
    norms = np.linalg.norm(matrix, axis=0)
    return rank(matrix / np.where(norms > 0, norms, 1), rtol=1e-7, what="span of families").rank


def _outside(q: np.ndarray, span: np.ndarray) -> np.ndarray:
    if span.shape[1] == q.shape[1]:
        return np.zeros((q.shape[0], 0))
    inside = np.linalg.qr(span)[0] if span.shape[1] else span
    rest = q - inside @ (inside.T @ q)
    u = _kernel_of((q.T @ inside).T) if span.shape[1] else np.eye(q.shape[1])
    return rest @ u


def _output_kernel(layout: Layout, span: np.ndarray) -> Family:
    a, b = layout.offsets[layout.output.name]
    g = layout.output.feature
    matrices = span[a : a + g * g].T.reshape(-1, g, g)
    if np.abs(matrices - matrices[:, :, :1]).max() > _TOLERANCE:
        return Family("output kernel", span.shape[1], r"N f(x) + n = 0", "y")
    # all rows of N are multiples of 1^T, so the sum of the outputs is a constant
    columns, shifts = matrices[:, :, 0].reshape(-1), span[b : b + g].T.reshape(-1)
    total = float(columns @ shifts / (columns @ columns)) if columns.any() else 0.0
    shift = "0" if abs(total) < _TOLERANCE else "-a" if abs(total + 1) < _TOLERANCE else rf"{total:.6g}\,a"
    return Family("output kernel a 1^T", span.shape[1], rf"N = a\,\mathbf 1^{{\mathsf T}},\ n = {shift}", "y")


def _candidates(layout: Layout) -> Iterator[tuple[Family, np.ndarray]]:
    """Families in order, larger ones first, each with its generators [unknowns, k]."""
    spaces = layout.inputs
    pairs = [(a, b) for i, a in enumerate(spaces) for b in spaces[i + 1 :] if a.feature == b.feature]
    for a, b in pairs:
        yield from _joint(layout, a, b)
    for space in spaces:
        yield from _single(layout, space)
    for a, b in pairs:
        yield from _joint_small(layout, a, b)
    if len(spaces) > 1 and len({s.feature for s in spaces}) == 1:
        yield from _together(layout)


def _units(f: int) -> list[np.ndarray]:
    return [np.eye(f)[:, [i]] @ np.eye(f)[[j], :] for i in range(f) for j in range(f)]


def _skew(f: int) -> list[np.ndarray]:
    return [u - u.T for k, u in enumerate(_units(f)) if k // f < k % f]


def _flat(f: int, matrices: list[np.ndarray]) -> list[np.ndarray]:
    """Matrices of size f - 1, acting on the complement of the vector of ones."""
    frame = np.linalg.qr(np.hstack([np.ones((f, 1)), np.eye(f)[:, : f - 1]]))[0][:, 1:]
    return [frame @ m @ frame.T for m in matrices]


def _stack(layout: Layout, elements: Sequence[Mapping[str, tuple[Any, Any]]]) -> np.ndarray:
    return np.array([layout.vector(e) for e in elements]).T.reshape(layout.unknowns, -1)


def _single(layout: Layout, space: Space) -> Iterator[tuple[Family, np.ndarray]]:
    f, x = space.feature, space.name
    ones = np.ones((f, 1))

    def matrices(name: str, latex: str, ms: list[np.ndarray]) -> tuple[Family, np.ndarray]:
        return Family(name, len(ms), latex, x), _stack(layout, [{x: (m, None)} for m in ms])

    if f > 1:
        yield matrices(f"gl({f}) on {x}", rf"{x} \to A {x},\ A \in GL({f})", _units(f))
    if f > 2:
        yield matrices(
            f"gl(1-perp) on {x}",
            rf"{x} \to A {x},\ A \in GL({f}),\ A\mathbf 1 = \mathbf 1,\ A^{{\mathsf T}}\mathbf 1 = \mathbf 1",
            _flat(f, _units(f - 1)),
        )
        yield matrices(f"so({f}) on {x}", rf"{x} \to R {x},\ R \in SO({f})", _skew(f))
        yield matrices(
            f"so(1-perp) on {x}", rf"{x} \to R {x},\ R \in SO({f}),\ R\mathbf 1 = \mathbf 1", _flat(f, _skew(f - 1))
        )
    elif f == 2:
        yield matrices(f"so(2) on {x}", rf"{x} \to R {x},\ R \in SO(2)", _skew(2))
    yield matrices(
        f"kernel 1 l^T on {x}",
        rf"{x} \to {x} + \mathbf 1\,\ell^{{\mathsf T}} {x}",
        [ones @ np.eye(f)[[j]] for j in range(f)],
    )
    if f > 1:
        yield matrices(
            f"scale of the mean of {x}", rf"{x} \to {x} + c\,\mathbf 1\mathbf 1^{{\mathsf T}} {x}", [ones @ ones.T]
        )
    yield matrices(f"diagonal on {x}", rf"{x} \to D {x},\ D > 0", [np.diag(e) for e in np.eye(f)])
    yield (
        Family(f"translations of {x}", f, rf"{x} \to {x} + t,\ t \in \mathbb R^{{{f}}}", x),
        _stack(layout, [{x: (None, e)} for e in np.eye(f)]),
    )
    yield (
        Family(f"translation of {x} along 1", 1, rf"{x} \to {x} + c\,\mathbf 1", x),
        _stack(layout, [{x: (None, np.ones(f))}]),
    )
    yield matrices(f"scale of {x}", rf"{x} \to c {x},\ c > 0", [np.eye(f)])


def _joint(layout: Layout, a: Space, b: Space) -> Iterator[tuple[Family, np.ndarray]]:
    """One matrix on both inputs, contragredient: the pairing of a and b is kept."""
    f = a.feature
    where = f"{a.name}, {b.name}"

    def both(name: str, latex: str, ms: list[np.ndarray]) -> tuple[Family, np.ndarray]:
        elements = [{a.name: (m, None), b.name: (-m.T, None)} for m in ms]
        return Family(f"{name} on ({where})", len(ms), latex, where), _stack(layout, elements)

    act = rf"({a.name}, {b.name}) \to (A {a.name}, A^{{-\mathsf T}} {b.name})"
    yield both(f"gl({f})", rf"{act},\ A \in GL({f})", _units(f))
    if len(a.parts) == 2 and a.parts[0] == 2:
        yield both("complex numbers", rf"{act},\ A \in (\mathbb C^*)^{{{a.parts[1]}}}", _complex(a.parts[1]))
    if f > 1:
        yield both(f"so({f})", rf"({a.name}, {b.name}) \to (R {a.name}, R {b.name}),\ R \in SO({f})", _skew(f))


def _complex(pairs: int) -> list[np.ndarray]:
    """Per pair (j, j + pairs) the complex numbers 1 and i."""
    found = []
    for j in range(pairs):
        unit = np.diag(np.eye(pairs)[j])
        found += [np.kron(np.eye(2), unit), np.kron(np.array([[0.0, -1.0], [1.0, 0.0]]), unit)]
    return found


def _joint_small(layout: Layout, a: Space, b: Space) -> Iterator[tuple[Family, np.ndarray]]:
    f, where = a.feature, f"{a.name}, {b.name}"
    diagonal = [{a.name: (np.diag(e), None), b.name: (-np.diag(e), None)} for e in np.eye(f)]
    yield (
        Family(f"diagonal on ({where})", f, rf"({a.name}, {b.name}) \to (D {a.name}, D^{{-1}} {b.name})", where),
        _stack(layout, diagonal),
    )
    yield (
        Family(f"scale of ({where})", 1, rf"({a.name}, {b.name}) \to (c {a.name}, c^{{-1}} {b.name})", where),
        _stack(layout, [{a.name: (np.eye(f), None), b.name: (-np.eye(f), None)}]),
    )


def _together(layout: Layout) -> Iterator[tuple[Family, np.ndarray]]:
    """The same matrix or shift on all inputs."""
    f = layout.inputs[0].feature
    where = ", ".join(s.name for s in layout.inputs)
    for name, latex, ms in (
        (f"gl({f})", rf"A \in GL({f})", _units(f)),
        (f"so({f})", rf"R \in SO({f})", _skew(f)),
        ("diagonal", "D > 0", [np.diag(e) for e in np.eye(f)]),
        ("scale", "c > 0", [np.eye(f)]),
    ):
        if ms:
            yield (
                Family(f"{name} on all of ({where})", len(ms), rf"\text{{the same }} {latex}", where),
                _stack(layout, [{s.name: (m, None) for s in layout.inputs} for m in ms]),
            )
    for label, shifts in (("translations", list(np.eye(f))), ("translation along 1", [np.ones(f)])):
        yield (
            Family(f"{label} of all of ({where})", len(shifts), r"\text{the same } t", where),
            _stack(layout, [{s.name: (None, t) for s in layout.inputs} for t in shifts]),
        )
