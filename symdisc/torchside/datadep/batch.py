"""The action of GL_h on a pair U sigma(V x + b) that keeps its outputs on a chosen batch.

``g . (U, V, b) = (U pi(g, Z)^-1, g V, g b)`` with Z = V X + b the pre-activations [h, k] on the batch X [n, k] (samples are
columns) and ``pi(g, Z) sigma(Z) = sigma(g Z)``. With an invertible matrix R_Z = [sigma(Z) | N(Z)] [h, h],

    pi(g, Z) = R_{gZ} R_Z^-1,    so that    pi(1, Z) = 1    and    pi(g1, g2 Z) pi(g2, Z) = pi(g1 g2, Z):

an action of the whole group. The plain pseudo-inverse, pi = sigma(gZ) sigma(Z)^+, is a projector at g = 1 for k < h.
Everything is differentiable in g and, with ``check=False``, runs under vmap.

Source: Zhao, Ganev, Walters, Yu, Dehmamy (arXiv:2210.17216), nonlinear action; the completion is derived in ``completion``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from symdisc.errors import BadInput, NotExact

__all__ = ["COMPLETIONS", "MAX_CONDITION", "act_pair", "completion", "frame", "pi", "pi_inverse", "transport"]

Sigma = Callable[[Tensor], Tensor]

# R_Z with a larger condition number loses more digits of the outputs than float64 can spare (1e-16 * 1e8 = 1e-8)
MAX_CONDITION = 1e8
COMPLETIONS = ("orthogonal", "pinv", "lstsq")


def completion(S: Tensor) -> Tensor:
    """N [h, h - k]: an orthogonal basis of the complement of the columns of S [h, k], of the size of these columns.

    With S = Q T (T upper triangular, positive diagonal) and Q = [A; B], A [k, k], the block reflector
    ``H = 1 - Y (1 + A^T)^-1 Y^T``, Y = Q + E, E = [1; 0], is orthogonal and sends E to -Q; N is the rest of its columns,
    times |S|_F / sqrt(k), so that sigma(cz) = c^p sigma(z) gives pi(c, Z) = c^p. N is an analytic function of S of full rank
    outside of {Q v = -E v for some v}, of codimension h - k; for k = h - 1 that singularity is removable (det [Q | N] = 1).
    No choice is continuous everywhere, but for few (h, k): see ``pointwise``.
    """
    h, k = S.shape[-2:]
    if k == h:
        return S[..., :0]
    Q, T = torch.linalg.qr(S)
    Q = Q * torch.where(T.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(S.dtype).unsqueeze(-2)
    A, B = Q[..., :k, :], Q[..., k:, :]
    one = torch.eye(k, dtype=S.dtype, device=S.device)
    rest = torch.eye(h - k, dtype=S.dtype, device=S.device)
    half = torch.linalg.solve(one + A.mT, B.mT)
    N = torch.cat([-(one + A) @ half, rest - B @ half], -2)
    return N * (S.square().sum((-2, -1), keepdim=True) / k).sqrt()


def frame(S: Tensor) -> Tensor:
    """R = [S | N(S)] [h, h] for activations S = sigma(Z) [h, k] of full rank, k <= h."""
    return torch.cat([S, completion(S)], -1)


def pi(g: Tensor, Z: Tensor, sigma: Sigma, completion: str = "orthogonal", *, check: bool = True,
       max_condition: float = MAX_CONDITION) -> Tensor:
    """pi(g, Z) [h, h] with ``pi(g, Z) sigma(Z) = sigma(g Z)`` for g [h, h] and pre-activations Z [h, k].

    ``completion``: 'orthogonal' (k <= h; invertible, an action), 'pinv' (k <= h; of rank k, a projector at g = 1) or 'lstsq'
    (any k; the best fit, exact for k <= h only). Raises NotExact with the reason when the batch allows no such matrix and
    BadInput for shapes that do not fit; ``check=False`` skips both tests (needed under vmap).
    """
    S, gS = _activations(g, Z, sigma, check)
    return transport(S, gS, completion, check=check, max_condition=max_condition)


def pi_inverse(g: Tensor, Z: Tensor, sigma: Sigma, completion: str = "orthogonal", *, check: bool = True,
               max_condition: float = MAX_CONDITION) -> Tensor:
    """What U is multiplied by: pi(g, Z)^-1 = pi(g^-1, gZ) [h, h], taken in this direction in all three forms.

    For 'pinv' and 'lstsq' that is sigma(Z) sigma(gZ)^+, the choice that keeps U sigma(Z) exactly and in the best fit.
    Arguments and errors as for ``pi``.
    """
    S, gS = _activations(g, Z, sigma, check)
    return transport(gS, S, completion, check=check, max_condition=max_condition)


def act_pair(U: Tensor, V: Tensor, b: Tensor | None, sigma: Sigma, X: Tensor, g: Tensor, completion: str = "orthogonal", *,
             check: bool = True, max_condition: float = MAX_CONDITION) -> tuple[Tensor, Tensor, Tensor | None]:
    """(U pi(g, Z)^-1, g V, g b) for U [m, h], V [h, n], b [h] or None, batch X [n, k] (samples are columns), g [h, h].

    The new pair has the outputs of the old one at the columns of X, for every further layer and bias behind it. The given
    tensors are left as they are. Arguments and errors as for ``pi``.
    """
    h, n = V.shape[-2:]
    if check and (U.shape[-1] != h or X.shape[-2] != n or (b is not None and b.shape[-1] != h)):
        raise BadInput(f"U {list(U.shape)}, V {list(V.shape)}, X {list(X.shape)} do not fit: U is [m, h], V [h, n], b [h] and "
                       "X [n, k] with samples as columns")
    Z = V @ X if b is None else V @ X + b.unsqueeze(-1)
    back = pi_inverse(g, Z, sigma, completion, check=check, max_condition=max_condition)
    return U @ back, g @ V, None if b is None else (g @ b.unsqueeze(-1)).squeeze(-1)


def _activations(g: Tensor, Z: Tensor, sigma: Sigma, check: bool) -> tuple[Tensor, Tensor]:
    h = Z.shape[-2]
    if check and g.shape[-2:] != (h, h):
        raise BadInput(f"g {list(g.shape)} must be [{h}, {h}] for pre-activations of width {h}")
    return sigma(Z), sigma(g @ Z)


def transport(source: Tensor, target: Tensor, completion: str = "orthogonal", *, check: bool = True,
              max_condition: float = MAX_CONDITION) -> Tensor:
    """P [h, h] with ``P source = target`` for activations [h, k]: R_target R_source^-1, or target source^+.

    Arguments and errors as for ``pi``; the activations may be those of any piece of a network.
    """
    if completion not in COMPLETIONS:
        raise BadInput(f"completion {completion!r} is unknown; take one of {', '.join(COMPLETIONS)}")
    if check:
        h, k = source.shape[-2:]
        if k > h and completion != "lstsq":
            raise NotExact(f"a batch of {k} is larger than the width {h}: no linear map sends sigma(Z) to sigma(gZ) in general; take "
                           f"at most {h} samples (positions count), or least squares, which is not exact")
        with torch.no_grad():
            _check_rank(source, "activations sigma(Z)", max_condition)
            _check_rank(target, "activations sigma(Z)", max_condition)
    if completion == "orthogonal":
        return torch.linalg.solve(frame(source), frame(target), left=False)
    return target @ torch.linalg.pinv(source)


def _check_rank(S: Tensor, what: str, max_condition: float) -> None:
    """Refuse activations that are not finite, of deficient rank, or too badly conditioned."""
    if not bool(S.isfinite().all()):
        raise NotExact(f"{what} holds NaN or infinite values: take a smaller g or other samples")
    values = torch.linalg.svdvals(S.double())
    top, low = float(values.max()), float(values.min())
    cut = max(top * torch.finfo(S.dtype).eps * max(S.shape[-2:]), torch.finfo(S.dtype).tiny ** 0.5)  # squares must not underflow
    if low <= cut:
        raise NotExact(f"{what} [{S.shape[-2]}, {S.shape[-1]}] has rank {int((values > cut).sum())}, not {min(S.shape[-2:])}: samples are "
                       "dependent or units are dead on them; take other or fewer samples")
    if top > max_condition * low:
        raise NotExact(f"{what} has condition number {top / low:.1e}, over the bound {max_condition:.1e}: take fewer or better "
                       "spread samples, a g nearer to 1, or raise the bound")
