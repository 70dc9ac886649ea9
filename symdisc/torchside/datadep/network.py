"""The data-dependent action on the weights of a whole network, several pairs in one go, and its generators.

The network itself is run to see the activations: after each pair with the weights changed so far, so that every layer sees the
*transformed* activations before it. That the outputs on the batch are kept is tested on every use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import jvp

from symdisc.errors import BadInput, NotExact
from symdisc.torchside.apart import apart
from symdisc.torchside.capture import Capture
from symdisc.torchside.datadep import pointwise
from symdisc.torchside.datadep.batch import MAX_CONDITION, transport
from symdisc.torchside.datadep.segments import Pair, find_pairs
from symdisc.torchside.interpret import ancestors, evaluate
from symdisc.torchside.network import Network, plain_kernels
from symdisc.torchside.witness import varied

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.torchside.datadep.whitened import WhitenedLaw

__all__ = ["FORMS", "DataDependent", "Moved", "act_layers", "data_dependent", "generators", "move", "run", "sized"]

State = dict[str, Tensor]
# form -> what is true of it; the pointwise ones act at a single sample and position
FORMS: dict[str, str] = {
    "batch": "pi = R_gZ R_Z^-1 with R_Z = [sigma(Z) | N(Z)] for up to h samples; an action, analytic where no v has Q v = -E v "
             "(Q, E: orthonormal bases of the columns of sigma(Z) and of the first unit vectors)",
    **{name: f"pi = R_s(gz) R_s(z)^-1 at one sample; an action, and {said}" for name, said in pointwise.JUMPS.items()},
    "pseudo-inverse": "pi = sigma(gZ) sigma(Z)^+ for up to h samples; exact on them but no action: at g = 1 a projector for fewer than h",
    "least-squares": "pi = sigma(gZ) sigma(Z)^+ for any number of samples; not exact beyond h",
}
_BATCHED = {"batch": "orthogonal", "pseudo-inverse": "pinv", "least-squares": "lstsq"}
ON_BATCH = 1e-9  # change of the outputs on the batch, relative to their size, that rounding may cause in an exact action


@dataclass(frozen=True)
class Moved:
    """New weights, and the largest change of the outputs on the batch (float64, relative to their size)."""

    state: State
    on_batch: float


@dataclass(frozen=True)
class DataDependent:
    """One pair U sigma(V x + b) of a captured network with the action of GL_h on it: V -> gV, b -> gb, U -> U pi(g, Z)^-1."""

    pair: Pair
    captured: Capture

    @property
    def name(self) -> str:
        return self.pair.name

    @property
    def width(self) -> int:
        return self.pair.width

    def sample(self, seed: int = 0, scale: float = 0.1) -> Tensor:
        """A random g = exp(scale T) [h, h], T with entries N(0, 1/h), float64."""
        gen = torch.Generator().manual_seed(seed)
        t = torch.randn(self.width, self.width, generator=gen, dtype=torch.float64)
        return torch.linalg.matrix_exp(scale * t / self.width**0.5)

    def apply(self, state: Mapping[str, Tensor], g: Tensor, inputs: Sequence[Any] | None = None, form: str = "batch",
              max_condition: float = MAX_CONDITION) -> Moved:
        """New weights with the outputs of the old ones on ``inputs`` (the example by default), U moved by one of FORMS.

        Raises as ``act_layers``.
        """
        return act_layers(self.captured, [(self.pair, g)], state, inputs, form, max_condition)

    @property
    def forms(self) -> dict[str, str]:
        """The forms that this pair admits, with what is true of each: is it an action, and where is it discontinuous?"""
        continuous = self.pair.features in (1, 2, 4, 8)
        return {name: said for name, said in FORMS.items() if continuous or name != "multiplication"}

    @property
    def whitened(self) -> WhitenedLaw:
        """What gradient flow keeps of this pair at whitened input X = 1, one number per hidden unit, though it is no function symmetry.

        Raises BadInput with the reason where there is no such law.
        """
        from symdisc.torchside.datadep.whitened import whitened_law

        return whitened_law(self.captured, self.pair)

    def latex(self) -> str:
        """The action and its generators in the batch form, as formulas."""
        return (r"\pi(g,Z)\,\sigma(Z)=\sigma(gZ),\quad R_Z=[\sigma(Z)\,|\,N(Z)],\quad \pi(g,Z)=R_{gZ}R_Z^{-1}\\"
                r"(U,V,b)\mapsto\bigl(U\,\pi(g,Z)^{-1},\,gV,\,gb\bigr),\quad Z=VX+b\mathbf 1^{\top}\\"
                r"g=e^{tM}:\quad \dot V=MV,\quad \dot b=Mb,\quad \dot U=-U\,\dot R_Z R_Z^{-1},\quad "
                r"\dot R_Z=[\,d\sigma_Z(MZ)\,|\,dN_{\sigma(Z)}(d\sigma_Z(MZ))\,]\\"
                r"\dot U\sigma(Z)+U\,d\sigma_Z(\dot VX+\dot b\mathbf 1^{\top})=-U\,d\sigma_Z(MZ)+U\,d\sigma_Z(MZ)=0")


def data_dependent(cat: Catalog) -> tuple[DataDependent, ...]:
    """All pairs of a catalog fresh from ``discover``; raises BadInput for one read from a file."""
    if cat.captured is None:
        raise BadInput("data-dependent symmetries need the model in memory: run discover on it")
    return tuple(DataDependent(p, cat.captured) for p in find_pairs(cat.captured.graph))


def act_layers(captured: Capture, elements: Sequence[tuple[Pair, Tensor]], state: Mapping[str, Tensor],
               inputs: Sequence[Any] | None = None, form: str = "batch", max_condition: float = MAX_CONDITION) -> Moved:
    """New weights under one g [h, h] per pair, in the order of ``elements``; the given state is left as it is.

    ``form`` is one of FORMS. Arithmetic in float64; the result has the dtypes of ``state``. Raises NotExact with the reason when the
    batch allows no exact action, or when the outputs on the batch, always compared, change by more than rounding (not for
    'least-squares'), and BadInput for an unknown form.
    """
    if form not in FORMS:
        raise BadInput(f"form {form!r} is unknown; take one of {', '.join(FORMS)}")
    network, batch = Network(captured, state), batch_of(captured, inputs)
    now = dict(network.parameters)
    for pair, g in elements:
        if g.shape != (pair.width, pair.width):
            raise BadInput(f"g {list(g.shape)} must be [{pair.width}, {pair.width}] for {pair.name}")
        try:
            now = move(network, now, pair, g.double(), batch, form, max_condition=max_condition)
        except NotExact as error:
            raise NotExact(f"{pair.name}: {error}") from error
    before, after = (torch.from_numpy(network.output(p, [batch])) for p in (network.parameters, now))
    change = apart(before, after)
    if form != "least-squares" and not change <= ON_BATCH:
        raise NotExact(f"the outputs on the batch change by {change:.1e}, more than rounding may: lower max_condition or take a g nearer 1")
    return Moved({n: now[n].to(t.dtype) if n in now else t for n, t in _all_names(captured, state).items()}, change)


def _all_names(captured: Capture, state: Mapping[str, Tensor]) -> State:
    """Every name of the state; further names of tied tensors are never moved, since pairs are untied."""
    missing = [n for n in captured.parameters if n not in state]
    if missing:
        raise BadInput(f"the state has no {missing[0]}")
    return dict(state)


def batch_of(captured: Capture, inputs: Sequence[Any] | None) -> tuple[Any, ...]:
    """The batch in float64; its shapes must be those that the model was captured with."""
    batch = tuple(captured.example if inputs is None else inputs)
    shapes = [tuple(x.shape) for x in captured.example]
    if [tuple(x.shape) for x in batch] != shapes:
        raise BadInput(f"a batch of shapes {[tuple(x.shape) for x in batch]} does not fit the captured {shapes}: capture (discover) the "
                       "model with example inputs of that batch")
    return tuple(x.double() if x.is_floating_point() else x for x in batch)


def sized(example: Sequence[Any], count: int, seed: int = 0) -> tuple[Any, ...]:
    """Inputs like the example with ``count`` samples along their first axis, redrawn with its spread where it has fewer."""
    grown = []
    for x in example:
        more = x if not isinstance(x, Tensor) or x.ndim == 0 else x.repeat(-(-count // max(len(x), 1)), *(1,) * (x.ndim - 1))[:count]
        grown.append(more)
    fresh = varied(grown, seed)
    return tuple(f if isinstance(x, Tensor) and x.ndim and count > len(x) else g
                 for x, g, f in zip(example, grown, fresh, strict=True))


def run(network: Network, parameters: Mapping[str, Tensor], wanted: Sequence[str], batch: Sequence[Any]) -> State:
    """Values of the graph on the batch."""
    env: dict[str, Any] = {**network.fixed, **dict(zip(network.graph.inputs, batch, strict=True))}
    env.update({v: parameters[n] for v, n in network.graph.parameters.items()})
    with plain_kernels():
        return evaluate(ancestors(network.graph, wanted), env, wanted, torch.float64)


def move(network: Network, parameters: State, pair: Pair, g: Tensor, batch: Sequence[Any], form: str = "batch", *,
         check: bool = True, max_condition: float = MAX_CONDITION) -> State:
    """Parameters after g on one pair: differentiable in g, all tensors float64. Raises as ``batch.pi``."""
    writer, reader = pair.writer, pair.readers[0]
    new = dict(parameters)
    new[writer.weight] = writer.weight_of(g @ writer.matrix(parameters[writer.weight]), parameters[writer.weight])
    if writer.bias is not None:
        new[writer.bias] = g @ parameters[writer.bias]
    before, after = (reader.columns(run(network, p, [pair.a], batch)[pair.a]) for p in (parameters, new))
    back = _back(before, after, form, check, max_condition)
    for r in pair.readers:
        new[r.weight] = r.weight_of(r.matrix(parameters[r.weight]) @ back, parameters[r.weight])
    return new


def _back(before: Tensor, after: Tensor, form: str, check: bool, max_condition: float) -> Tensor:
    """What U is multiplied by: the matrix of this form that sends the activations ``after`` to those ``before``, [f, k] both."""
    if form in _BATCHED:
        return transport(after, before, _BATCHED[form], check=check, max_condition=max_condition)
    if before.shape[1] != 1:
        raise NotExact(f"the {form} form acts at one sample and position, and the batch has {before.shape[1]}: take one, or form='batch'")
    return pointwise.at_one_sample(after[:, 0], before[:, 0], form)


def generators(network: Network, pair: Pair, batch: Sequence[Any]) -> Tensor:
    """Tangents of the action at g = 1, one row per matrix unit of gl_h: [h^2, D] in the order of ``network.layout``.

    Raises NotExact when the batch allows no exact action.
    """
    h = pair.width
    one = torch.eye(h, dtype=torch.float64)
    with torch.no_grad():
        move(network, network.parameters, pair, one, batch)

    def along(unit: Tensor) -> Tensor:
        moved = jvp(lambda g: move(network, network.parameters, pair, g, batch, check=False), (one,), (unit,))[1]
        found = {n: moved[n] for n in pair.parameters}
        return torch.cat([found[n].reshape(-1) if n in found else torch.zeros(network.parameters[n].numel(), dtype=torch.float64)
                          for n in network.layout])

    with plain_kernels():
        return torch.stack([along(m.reshape(h, h)) for m in torch.eye(h * h, dtype=torch.float64)])
