"""An ensemble without training: copies of one trained network along the orbit of a data-dependent symmetry.

For a pair U sigma(V x + b) of linear maps or convolutions the k-th copy computes U_k sigma(g_k (V x + b)) with
U_k = U pi(g_k, Z_k)^-1, so that it agrees with the trained network on the batch behind Z_k. All copies share every weight but
(g_k, U_k): one network and K pairs of small matrices are kept, and what comes before sigma is computed once for all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from symdisc.errors import BadInput
from symdisc.torchside.capture import capture
from symdisc.torchside.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from symdisc.torchside.datadep.batch import COMPLETIONS
from symdisc.torchside.datadep.segments import Pair, find_pairs
from symdisc.torchside.datadep.site import Sigma, Site, between, sites, turn, writer_module
from symdisc.torchside.recorded import Recorded

__all__ = ["PREFIX", "WHOLE", "Ensemble", "Memory", "build", "load", "random_elements"]

PREFIX = "symdisc.ensemble."  # of names in the file, beside the names of the shared weights
G, U = PREFIX + "g", PREFIX + "U"
FORMAT = "symdisc-ensemble-1"
FEW = 12  # samples below which [batch, h] [h, K h] is faster than its transpose
WHOLE = 2**24  # up to here float32 counts without rounding
SHORT = 32  # samples up to which a largest entry along the middle of three axes takes longer than putting that axis first


@dataclass(frozen=True)
class Memory:
    """Bytes: the shared weights, what the copies add, and what as many separate networks would take."""

    shared: int
    pairs: int
    separate: int

    @property
    def share(self) -> float:
        """Of the memory of separate networks."""
        return (self.shared + self.pairs) / self.separate


class _Turned(nn.Module):
    """The writer of a pair followed by g: z -> g z. The layer is computed once when only g differs between copies."""

    g: Tensor

    def __init__(self, layer: nn.Module, g: Tensor, pair: Pair) -> None:
        super().__init__()
        self.layer, self.pair, self.stops = layer, pair, False
        self.register_buffer("g", g)

    def forward(self, x: Tensor) -> Tensor:
        if self.stops:
            raise _Reached(self.layer(x))
        return turn(self.pair, self.layer(x), self.g)


class _Reached(Exception):
    """The pre-activations that all copies share: what comes behind need not be run."""

    def __init__(self, z: Tensor) -> None:
        super().__init__("the pair is reached")
        self.z = z


class Ensemble(nn.Module):
    """K copies of ``model``: ``g`` [K, h, h] behind the writer of ``pair`` and ``U`` [K, m, f] in place of its readers' weights.

    ``m`` counts the rows of all readers, ``f`` what they multiply (h for dense layers); ``sigma``, where it is given, is what the pair
    does between them, for pre-activations alone. ``model`` is copied and frozen. The result
    of ``forward`` is the logarithm of the mean probability [batch, classes], so that it can stand where the network's logits
    stood. Raises BadInput when shapes do not fit.
    """

    g: Tensor
    U: Tensor
    _own: tuple[Tensor, ...]

    def __init__(self, model: nn.Module, pair: Pair, g: Tensor, members: Tensor, sigma: Sigma | None = None) -> None:
        super().__init__()
        h, f = pair.width, pair.features
        m = self._share(model, pair, sigma, g.dtype)
        if g.ndim != 3 or g.shape[1:] != (h, h) or members.shape != (len(g), m, f) or not len(g):
            raise BadInput(f"g {list(g.shape)} and U {list(members.shape)} must be [K, {h}, {h}] and [K, {m}, {f}] for {pair.name}")
        self.register_buffer("g", g)
        self.register_buffer("U", members.permute(1, 0, 2).contiguous().permute(1, 0, 2))  # so that all U side by side are a view

    def _share(self, model: nn.Module, pair: Pair, sigma: Sigma | None, dtype: torch.dtype) -> int:
        """What all copies have together; the number of rows of all readers."""
        self.pair, self.lower, self.sigma = pair, writer_module(pair), sigma
        self.body = copy.deepcopy(model).eval().requires_grad_(False)
        self._rows = [len(r.matrix(self.body.get_parameter(r.weight))) for r in pair.readers]
        _replace(self.body, self.lower, _Turned(self.body.get_submodule(self.lower), torch.eye(pair.width, dtype=dtype), pair))
        self._names = [n for n, _ in (*self.body.named_parameters(), *self.body.named_buffers())]
        dense = sigma is not None and len(pair.readers) == 1
        self._run, self._own = Recorded(self._all, self._wide if dense else None), ()
        self._run_mean = Recorded(self._mean_of_all, self._folded if dense else None)
        return sum(self._rows)

    def __len__(self) -> int:
        return len(self.g)

    # --- predicting -------------------------------------------------------------------------------------------------------
    def logits(self, *inputs: Any) -> Tensor:
        """What each copy puts out, [K, batch, classes]; differentiable in the inputs."""
        return self._run(self._tensors(), inputs)

    def mean_logits(self, *inputs: Any) -> Tensor:
        """Mean of what the copies put out, [batch, classes]: cheaper than the others where a dense reader ends the network."""
        return self._run_mean(self._tensors(), inputs)

    def _tensors(self) -> tuple[Tensor, ...]:
        """The pairs and the weights of the body; walking through the modules takes as long as a small network, so they are kept."""
        pairs = tuple(self.pairs().values())
        if not self._own or self._own[0] is not pairs[0]:  # another dtype or device makes new buffers
            self._own = (*pairs, *self.body.parameters(), *self.body.buffers())
        return self._own

    def pairs(self) -> dict[str, Tensor]:
        """What the copies have of their own, by the names in a file."""
        return {G: self.g, U: self.U}

    def _state(self, own: Sequence[Tensor]) -> dict[str, Tensor]:
        """The weights of the body by name."""
        return dict(zip(self._names, own[len(own) - len(self._names):], strict=True))

    def _all(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        """The copies side by side; ``own`` are g, U and the weights of the body."""
        return self._side_by_side(own[0], own[1], self._state(own), inputs)

    def _side_by_side(self, elements: Tensor, members: Tensor, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> Tensor:

        def one(g: Tensor, upper: Tensor) -> Tensor:
            return functional_call(self.body, {**state, f"{self.lower}.g": g, **self._uppers(upper)}, tuple(inputs))

        return vmap(one)(elements, members)

    def _wide(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        """The same for a dense pair with elementwise sigma at the end of the network: one product with all g, one batch of products with
        all U, samples last. Whether the network is of that kind is seen by comparing with ``_all``."""
        (copies, _, h), z = own[1].shape, self._hidden(own, inputs)
        a, bias = z.reshape(copies, h, -1), self._bias(own)
        return (torch.bmm(own[1], a) if bias is None else torch.baddbmm(bias[None, :, None], own[1], a)).transpose(1, 2)

    def _mean_of_all(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        return self._all(own, inputs).mean(0)

    def _folded(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        """That for the pairs of ``_wide``: the mean of U_k a_k is one product with all U side by side."""
        side, bias = own[1].permute(1, 0, 2).flatten(1), self._bias(own)
        start = side.new_zeros(len(side)) if bias is None else bias
        return torch.addmm(start[:, None], side, self._hidden(own, inputs), alpha=1 / len(own[1])).T

    def _hidden(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        """sigma(g_k z) of all copies, [K h, batch]; of few samples in the order in which such products are fast."""
        assert self.sigma is not None
        g, z = own[0].flatten(0, 1), self._reached(self._state(own), inputs)
        return self.sigma(z @ g.T).T if len(z) < FEW else self.sigma(g @ z.T)

    def _bias(self, own: Sequence[Tensor]) -> Tensor | None:
        """Of the one reader."""
        name = self.pair.readers[0].bias
        return None if name is None else own[len(own) - len(self._names) + self._names.index(name)]

    def _reached(self, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> Tensor:
        """z [batch, h] of the network, which is not run further."""
        turned = self.body.get_submodule(self.lower)
        assert isinstance(turned, _Turned)
        turned.stops = True
        try:
            functional_call(self.body, dict(state), tuple(inputs))
        except _Reached as reached:
            return reached.z
        finally:
            turned.stops = False
        raise BadInput(f"{self.lower} is not run by the network")

    def forward(self, *inputs: Any) -> Tensor:
        return self.mean(*inputs).clamp_min(torch.finfo(self._tensors()[0].dtype).tiny).log()

    def mean(self, *inputs: Any) -> Tensor:
        """Mean probability of the copies, [batch, classes]."""
        return _probabilities(self.logits(*inputs)).mean(0).transpose(-1, -2)

    def vote(self, *inputs: Any) -> Tensor:
        """The class that most copies name, [batch]; ties go to the lowest class."""
        return _voted(self.logits(*inputs))

    def decide(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Classes by vote and by mean probability, from one pass."""
        logits = self.logits(*inputs)
        return _voted(logits), _probabilities(logits).mean(0).argmax(-2)

    def diversity(self, *inputs: Any) -> float:
        """Mean squared distance of a copy's probabilities from the mean: zero for an exact symmetry."""
        p = _probabilities(self.logits(*inputs))
        return float((p - p.mean(0)).square().sum(-2).mean())

    def agreement(self, model: nn.Module, *inputs: Any) -> tuple[float, float]:
        """How often a copy, and how often the vote, names the class that ``model`` does."""
        with torch.no_grad():
            truth = model(*inputs).argmax(-1)
            each = _named(self.logits(*inputs)) == truth
            return float(each.double().mean()), float((self.vote(*inputs) == truth).double().mean())

    # --- weights ----------------------------------------------------------------------------------------------------------
    def member(self, k: int) -> dict[str, Tensor]:
        """The k-th copy as a state_dict of the original model: V -> g V, b -> g b, U -> U_k."""
        state, writer = self.shared(), self.pair.writer
        state[writer.weight] = writer.weight_of(self.g[k] @ writer.matrix(state[writer.weight]), state[writer.weight])
        if writer.bias is not None:
            state[writer.bias] = self.g[k] @ state[writer.bias]
        return {**state, **self._uppers(self.U[k])}

    def _uppers(self, upper: Tensor) -> dict[str, Tensor]:
        """U [m, f] as the weights of the readers, under their names."""
        parts = upper.split(self._rows)
        return {r.weight: r.weight_of(part, self.body.get_parameter(r.weight)) for r, part in zip(self.pair.readers, parts, strict=True)}

    def shared(self) -> dict[str, Tensor]:
        """The state_dict of the trained network that all copies share."""
        lower = self.lower
        state = {n: t.detach() for n, t in self.body.state_dict().items() if n != f"{lower}.g"}
        return {n.replace(f"{lower}.layer.", f"{lower}.", 1) if n.startswith(f"{lower}.layer.") else n: t for n, t in state.items()}

    @property
    def memory(self) -> Memory:
        shared = sum(t.numel() * t.element_size() for t in self.shared().values())
        pairs = sum(t.numel() * t.element_size() for t in self.pairs().values())
        return Memory(shared, pairs, shared * len(self))

    def save(self, path: str | Path) -> None:
        """One safetensors file: the shared weights under their own names, the pairs, and the place of the pair in the metadata."""
        tensors = {**self.shared(), **self.pairs()}
        head = {"format": "pt", "symdisc": FORMAT, "pair": self.pair.name}
        write_checkpoint(Checkpoint(Path(path), {n: t.contiguous().clone() for n, t in tensors.items()}, head), path)


def _probabilities(logits: Tensor) -> Tensor:
    """[K, batch, classes] to [K, classes, batch]: a softmax over a short last axis takes longer than the copies."""
    return logits.transpose(-1, -2).contiguous().softmax(-2)


def _named(logits: Tensor) -> Tensor:
    """The class that each copy names, [K, batch]; argmax over an axis that is not the last takes seven times as long."""
    return logits.transpose(-1, -2).max(-2).indices


def _voted(logits: Tensor) -> Tensor:
    """The class that is most seldom smaller than another. Each copy has all but one of them smaller; fewer where several are largest
    (it names the lowest) or where one is not a number (it names that): then the copies are asked one by one."""
    if logits.ndim == 3:
        copies, batch, classes = logits.shape
        smaller, most = _smaller(logits.detach() if logits.requires_grad else logits), copies * batch * (classes - 1)
        if float(smaller.sum() if most < WHOLE else smaller.sum(dtype=torch.float64)) == most:
            return smaller.min(0).indices
    named = _named(logits)
    exact = named.new_zeros(logits.shape[-1], *named.shape[1:])
    return exact.scatter_add_(0, named, torch.ones_like(named)).argmax(0)


def _smaller(logits: Tensor) -> Tensor:
    """For how many copies a class is not the largest, [classes, batch]; no class is smaller than a largest that is not a number."""
    copies, batch, classes = logits.shape
    if batch > SHORT:
        below = torch.empty_like(logits.mT, dtype=torch.float32)
        return torch.lt(logits.mT, logits.mT.amax(-2, keepdim=True), out=below).sum(0)
    side = logits.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True).view(classes, -1)
    return torch.lt(side, side.amax(0), out=side).view(classes, copies, batch).sum(1)


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, by)


# --- building -----------------------------------------------------------------------------------------------------------------
def random_elements(copies: int, width: int, scale: float, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """g = exp(scale T) [copies, h, h], entries of T normal of variance 1/h: the published choice. Drawn in float64."""
    draw = torch.Generator().manual_seed(seed)
    T = torch.randn(copies, width, width, dtype=torch.float64, generator=draw) / width**0.5
    return torch.linalg.matrix_exp(scale * T).to(dtype)


def build(model: nn.Module, x: Tensor, copies: int, scale: float = 0.1, seed: int = 0, *, samples: int | None = None,
          completion: str = "orthogonal", site: Site | None = None, g: Tensor | None = None, crossed: bool = False) -> Ensemble:
    """K copies of a trained ``model`` along the orbit of its last pair, without training.

    ``x`` [n, ...] are clean inputs. Each copy draws ``samples`` of them (by default as many as the pair allows to be kept
    exactly; for dense layers h, the width) and agrees with ``model`` there; with ``completion='lstsq'`` and more samples it agrees
    as well as it can, on all. ``g`` [K, h, h] replaces the random elements exp(scale T), ``site`` (a
    pair captured on the same ``x``) the last pair. ``crossed`` copies are made in rows and columns (``torchside.crossed``): cheaper,
    all exact on the same h/2 samples. Computed in float64, rounded once. Raises BadInput for sizes that do not fit
    and NotExact when the activations on the samples are of deficient rank.
    """
    if copies < 1:
        raise BadInput(f"an ensemble needs at least one copy, got {copies}")
    if scale < 0:
        raise BadInput(f"scale must not be negative, got {scale}")
    if completion not in COMPLETIONS:
        raise BadInput(f"completion {completion!r} is unknown; take one of {', '.join(COMPLETIONS)}")
    site = site or Site(model, x)
    if crossed:
        from symdisc.torchside.crossed import build_crossed

        return build_crossed(site, copies, scale, seed, samples, completion)
    if samples is None:
        samples = len(x) if completion == "lstsq" else site.default_count()
    elements = random_elements(copies, site.pair.width, scale, seed) if g is None else g.double()
    members = site.members(elements, samples, completion, seed + 1)
    dtype = model.get_parameter(site.pair.readers[0].weight).dtype
    return Ensemble(model, site.pair, elements.to(dtype), members.to(dtype), between(site.graph, site.pair))


def load(path: str | Path, model: nn.Module, example: tuple[Any, ...]) -> Ensemble:
    """Read what ``Ensemble.save`` wrote; ``model`` gives the architecture. Raises BadInput when the file is none, or of another model."""
    file = read_checkpoint(path)
    own = {n: t for n, t in file.tensors.items() if n.startswith(PREFIX)}
    if file.metadata.get("symdisc") != FORMAT or sorted(n.rpartition(".")[2] for n in own) != ["U", "g"]:
        raise BadInput(f"{path} is not an ensemble written by symdisc")
    shared = {n: t for n, t in file.tensors.items() if n not in own}
    filled = copy.deepcopy(model)
    _fill(filled, shared, path)
    graph = capture(filled.eval(), example).graph
    pairs = {p.name: p for p in sites(filled, find_pairs(graph))}
    name = file.metadata["pair"]
    if name not in pairs:
        raise BadInput(f"the model has no pair {name}, which {path} is made for: is it the right model?")
    sigma = between(graph, pairs[name])
    if G in own:
        return Ensemble(filled, pairs[name], own[G], own[U], sigma)
    from symdisc.torchside.crossed import CROSSED, Crossed

    if not own.keys() >= {*CROSSED}:
        raise BadInput(f"{path} is not an ensemble written by symdisc")
    return Crossed(filled, pairs[name], own[CROSSED[0]], own[CROSSED[1]], sigma)


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise BadInput(f"{path} does not fit the model: {reason}") from error


