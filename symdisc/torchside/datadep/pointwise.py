"""Pointwise forms: R_z with first column z, and pi(g, z) = R_{sigma(gz)} R_{sigma(z)}^-1.

Every form gives R_z = |z| times an orthogonal matrix, for all z but zero and all signs of its coordinates. A choice that is
*continuous* on all of R^h minus zero would make the sphere S^{h-1} parallelisable, so it exists for h = 1, 2, 4, 8 only
(Adams 1962): ``multiplication`` gives it, by complex numbers, quaternions and octonions. For other h:

- ``householder`` is continuous outside of the ray z = -|z| e_1;
- ``spherical`` outside of the points where the coordinates z_i, ..., z_h all vanish for some i >= 2 (poles of the angles); its last
  angle is an atan2, so that the sign of z_h is kept (arccos would lose it).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from symdisc.errors import BadInput, NotExact

__all__ = ["FORMS", "JUMPS", "at_one_sample", "householder", "multiplication", "pi_at", "spherical"]


def householder(z: Tensor) -> Tensor:
    """|z| times a product of two reflections (a rotation for h >= 2) that sends e_1 to z/|z|; [h, h] for z [h]."""
    h, r = len(z), _size(z)
    if h == 1:
        return z.reshape(1, 1)
    e = torch.zeros_like(z)
    e[0] = 1.0
    c = z / r + e
    if float(c.norm()) < 4 * torch.finfo(z.dtype).eps:  # on the bad ray: turn in the plane of the first two coordinates
        c = torch.roll(e, 1)
    c = c / c.norm()
    # reflect e to -e first, then -e to z/|z| along the bisector c
    turned = torch.eye(h, dtype=z.dtype) - 2.0 * torch.outer(e, e)
    rotation = turned - 2.0 * torch.outer(c, c @ turned)
    return r * torch.cat([(z / r).unsqueeze(1), rotation[:, 1:]], 1)


def spherical(z: Tensor) -> Tensor:
    """r times the frame of spherical coordinates: z/r, then its unit derivatives in the angles; [h, h] for z [h].

    z_i = r sin(a_1) ... sin(a_{i-1}) cos(a_i), z_h = r sin(a_1) ... sin(a_{h-1}), with a_1 ... a_{h-2} in [0, pi].
    """
    h, r = len(z), _size(z)
    if h == 1:
        return z.reshape(1, 1)
    tails = z.flip(0).square().cumsum(0).flip(0).sqrt()
    angles = [torch.atan2(tails[i + 1], z[i]) for i in range(h - 2)] + [torch.atan2(z[h - 1], z[h - 2])]
    rotation = torch.eye(h, dtype=z.dtype)
    for i in range(h - 1):  # turns e_i towards e_{i+1}: the product sends e_1 to z/r
        c, s = torch.cos(angles[i]), torch.sin(angles[i])
        rows = torch.stack([c * rotation[i] - s * rotation[i + 1], s * rotation[i] + c * rotation[i + 1]])
        rotation = torch.cat([rotation[:i], rows, rotation[i + 2:]])
    return r * rotation


def multiplication(z: Tensor) -> Tensor:
    """The matrix of y -> y z (right multiplication) in the reals, complex numbers, quaternions or octonions: linear in z.

    [h, h] for z [h] with h = 1, 2, 4, 8; its first column is 1 z = z. Raises BadInput for other h: there is no continuous choice.
    """
    h = len(z)
    if h not in (1, 2, 4, 8):
        raise BadInput(f"a continuous R_z exists for h = 1, 2, 4, 8 only, not {h}: take householder, spherical or the batch form")
    _size(z)
    return torch.stack([_product(unit, z) for unit in torch.eye(h, dtype=z.dtype)], 1)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Cayley-Dickson: (a, b)(c, d) = (ac - d* b, da + b c*)."""
    if len(x) == 1:
        return x * y
    n = len(x) // 2
    a, b, c, d = x[:n], x[n:], y[:n], y[n:]
    return torch.cat([_product(a, c) - _product(_conjugate(d), b), _product(d, a) + _product(b, _conjugate(c))])


def _conjugate(x: Tensor) -> Tensor:
    return torch.cat([x[:1], -x[1:]])


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"householder": householder, "spherical": spherical, "multiplication": multiplication}


# where R_s jumps, s = sigma(z): there nearby samples and nearby g get weights far apart, though each keeps its output
JUMPS: dict[str, str] = {
    "householder": "R_s is continuous outside of the ray s = -|s| e_1",
    "spherical": "R_s is continuous outside of the points where s_i, ..., s_h all vanish for some i >= 2",
    "multiplication": "R_s is linear in s, continuous everywhere: such a choice exists for h = 1, 2, 4, 8 only",
}


def pi_at(g: Tensor, z: Tensor, sigma: Callable[[Tensor], Tensor], form: str = "householder") -> Tensor:
    """pi(g, z) [h, h] at one sample z [h], with ``pi sigma(z) = sigma(gz)``.

    Raises NotExact where sigma(z) or sigma(gz) is zero, and BadInput for an unknown form.
    """
    return at_one_sample(sigma(z), sigma(g @ z), form)


def at_one_sample(source: Tensor, target: Tensor, form: str) -> Tensor:
    """R_target R_source^-1 [h, h] for activations [h] at one sample. Raises as ``pi_at``."""
    if form not in FORMS:
        raise BadInput(f"form {form!r} is unknown; take one of {', '.join(FORMS)}")
    R = FORMS[form](source)
    # R is |s| times an orthogonal matrix: its inverse is its transpose over |s|^2
    return FORMS[form](target) @ R.T / R[:, 0].square().sum()


def _size(z: Tensor) -> Tensor:
    r = z.norm()
    if not float(r) > torch.finfo(z.dtype).tiny ** 0.5:
        raise NotExact("sigma(z) is zero: no invertible matrix has it as its first column; take another sample or a smaller g")
    return r
