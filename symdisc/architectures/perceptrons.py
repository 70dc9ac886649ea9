"""Perceptrons: three layers of linear maps with one activation between them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes, Source

__all__ = ["ENTRIES"]

Activation = Callable[[], nn.Module]

WIDTHS = {"n0": "inputs", "n1": "units of the first hidden layer", "n2": "units of the second hidden layer", "n3": "outputs"}
LENET = {"n0": 784, "n1": 300, "n2": 100, "n3": 10}
SMALL = tuple(dict(zip(WIDTHS, w, strict=True)) for w in ((5, 4, 3, 2), (6, 4, 3, 2), (7, 5, 4, 3)))
LINEAR_SMALL = tuple(dict(zip(WIDTHS, w, strict=True)) for w in ((3, 4, 3, 5), (4, 5, 4, 6), (3, 3, 3, 4)))
NAMED_WIDTHS = "the widths of LeNet-300-100"


class Pointwise(nn.Module):
    """A function of each entry that torch has no module for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class RadialRescaling(nn.Module):
    """x f(|x|) with f = tanh: the activation of radial networks."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(x.norm(dim=-1, keepdim=True))


class Maxout(nn.Module):
    """The largest of k linear pieces per unit."""

    def __init__(self, n: int, m: int, k: int) -> None:
        super().__init__()
        self.m, self.k, self.linear = m, k, nn.Linear(n, m * k)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, (self.m, self.k)).amax(-1)


class ResidualUnit(nn.Module):
    """x + W2 relu(W1 x + b1) + b2."""

    def __init__(self, d: int, f: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d, f), nn.Linear(f, d)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class BasisNetwork(nn.Module):
    """Gaussian bumps exp(-|x - c|^2 / 2 s^2) around learned centres, read by a linear map."""

    def __init__(self, n0: int, n1: int, n2: int) -> None:
        super().__init__()
        self.centres, self.widths = nn.Parameter(torch.randn(n1, n0)), nn.Parameter(torch.ones(n1))
        self.read = nn.Linear(n1, n2)

    def forward(self, x: Tensor) -> Tensor:
        distance = (x.unsqueeze(-2) - self.centres).square().sum(-1)
        return self.read(torch.exp(-distance / (2 * self.widths.square())))


def _layers(s: Sizes, activation: Activation) -> Built:
    model = nn.Sequential(nn.Linear(s["n0"], s["n1"]), activation(), nn.Linear(s["n1"], s["n2"]), activation(),
                          nn.Linear(s["n2"], s["n3"]))
    return model.eval(), (torch.randn(4, s["n0"]),)


def _mlp(name: str, title: str, activation: Activation, found: tuple[Source, ...], assumptions: tuple[str, ...] = ()) -> Architecture:
    return Architecture(name, title, WIDTHS, lambda s: _layers(s, activation), SMALL, (NAMED_WIDTHS, LENET), (*found, sources.LENET),
                        assumptions)


def _weight_norm(s: Sizes) -> Built:
    from torch.nn.utils.parametrizations import weight_norm

    model = nn.Sequential(weight_norm(nn.Linear(s["n0"], s["n1"])), nn.ReLU(), weight_norm(nn.Linear(s["n1"], s["n2"])), nn.ReLU(),
                          weight_norm(nn.Linear(s["n2"], s["n3"])))
    return model.eval(), (torch.randn(4, s["n0"]),)


def _maxout(s: Sizes) -> Built:
    model = nn.Sequential(Maxout(s["n0"], s["n1"], s["k"]), Maxout(s["n1"], s["n2"], s["k"]), nn.Linear(s["n2"], s["n3"]))
    return model.eval(), (torch.randn(4, s["n0"]),)


def _residual(s: Sizes) -> Built:
    blocks = nn.Sequential(*(ResidualUnit(s["d"], s["f"]) for _ in range(s["L"])))
    model = nn.Sequential(OrderedDict(stem=nn.Linear(s["n"], s["d"]), blocks=blocks, head=nn.Linear(s["d"], s["o"])))
    return model.eval(), (torch.randn(4, s["n"]),)


def _basis(s: Sizes) -> Built:
    return BasisNetwork(s["n0"], s["n1"], s["n2"]).eval(), (torch.randn(4, s["n0"]),)


FEW_OUTPUTS = "at least so many outputs that no quadratic form in the hidden units is left over (one output alone has more symmetry)"
SWITCHING = "every unit switches on the data (at generic weights; a unit that never does adds local symmetry)"

ENTRIES = (
    Architecture("mlp-linear", "Deep linear network", WIDTHS, lambda s: _layers(s, nn.Identity), LINEAR_SMALL, None,
                 (sources.LINEAR, sources.BALANCE),
                 ("generic weights: all matrices of full rank",
                  "widths at which nothing of a hidden layer is lost behind it "
                  "(n2 <= n0, n2 <= n1 and n2 <= n3); "
                  "elsewhere blind directions are added, which act nonlinearly")),
    _mlp("mlp-relu", "ReLU perceptron", nn.ReLU, (sources.POSITIVE_SCALES, sources.BALANCE), (SWITCHING,)),
    _mlp("mlp-leaky-relu", "Leaky ReLU perceptron", lambda: nn.LeakyReLU(0.1), (sources.GODFREY, sources.BALANCE),
         ("slope neither 0, 1 nor -1",)),
    _mlp("mlp-tanh", "Tanh perceptron", nn.Tanh, (sources.SIGNS,)),
    _mlp("mlp-sigmoid", "Sigmoid perceptron", nn.Sigmoid, (sources.GODFREY,), ("every layer that reads a sigmoid has a bias",)),
    _mlp("mlp-gelu", "GELU perceptron", nn.GELU, (sources.defines("Hendrycks, Gimpel, Gaussian error linear units, 2016, "
                                                                 "arXiv:1606.08415", "the activation"),)),
    _mlp("mlp-softplus", "Softplus perceptron", nn.Softplus, (sources.defines(
        "Dugas, Bengio, Belisle, Nadeau, Garcia, Incorporating second-order functional knowledge, NeurIPS 2000", "the activation"),)),
    _mlp("mlp-sine", "Sine perceptron (SIREN)", lambda: Pointwise(torch.sin), (sources.defines(
        "Sitzmann, Martel, Bergman, Lindell, Wetzstein, Implicit neural representations with periodic activation functions, NeurIPS 2020, "
        "arXiv:2006.09661", "the architecture"),), ("frequency factors are part of the weights",)),
    _mlp("mlp-squared-relu", "Squared ReLU perceptron", lambda: Pointwise(lambda x: F.relu(x).square()), (
        sources.GODFREY, sources.defines("So et al., Primer, NeurIPS 2021, arXiv:2109.08668", "the activation in a language model")),
         (SWITCHING,)),
    _mlp("mlp-polynomial", "Polynomial perceptron (x^2)", lambda: Pointwise(torch.square), (sources.GODFREY,), (FEW_OUTPUTS,)),
    _mlp("mlp-rbf", "Gaussian perceptron exp(-x^2 / 2)", lambda: Pointwise(lambda x: torch.exp(-x.square() / 2)), (sources.GODFREY,)),
    _mlp("mlp-radial", "Radial network x tanh|x|", RadialRescaling, (sources.RADIAL,)),
    Architecture("rbf-network", "Radial basis function network", {k: WIDTHS[k] for k in ("n0", "n1")} | {"n2": "outputs"}, _basis,
                 ({"n0": 3, "n1": 4, "n2": 2}, {"n0": 2, "n1": 5, "n2": 3}, {"n0": 4, "n1": 3, "n2": 4}), None,
                 (sources.defines("Broomhead, Lowe, Multivariable functional interpolation and adaptive networks, Complex Systems 2, 1988",
                                  "the architecture"),)),
    Architecture("mlp-maxout", "Maxout network", WIDTHS | {"k": "pieces of a unit"}, _maxout, (
        {"n0": 4, "n1": 3, "n2": 3, "n3": 2, "k": 2}, {"n0": 5, "n1": 4, "n2": 3, "n3": 2, "k": 3}, {"n0": 5, "n1": 3, "n2": 4,
        "n3": 2, "k": 2}),
        ("permutation-invariant MNIST network of the pylearn2 release", {"n0": 784, "n1": 240, "n2": 240, "n3": 10, "k": 5}),
        (sources.defines("Goodfellow, Warde-Farley, Mirza, Courville, Bengio, Maxout networks, ICML 2013, arXiv:1302.4389"),)),
    Architecture("mlp-residual", "Residual perceptron", {"n": "inputs", "d": "width of the stream", "f": "hidden units of a block",
                                                         "L": "blocks", "o": "outputs"}, _residual,
                 ({"n": 4, "d": 3, "f": 4, "L": 1, "o": 5}, {"n": 5, "d": 4, "f": 3, "L": 2, "o": 6},
                  {"n": 6, "d": 3, "f": 5, "L": 3, "o": 4}), None,
                 (sources.POSITIVE_SCALES, sources.defines("He, Zhang, Ren, Sun, Deep residual learning, CVPR 2016, arXiv:1512.03385",
                                                           "residual blocks")),
                 (SWITCHING, "the stream is no wider than the inputs and the outputs, else it has blind directions")),
    Architecture("mlp-weight-norm", "Perceptron with weight normalisation", WIDTHS, _weight_norm, SMALL, (NAMED_WIDTHS, LENET), (
        Source("Salimans, Kingma, Weight normalization, NeurIPS 2016, arXiv:1602.07868",
               "w = g v / |v|: the length of v does not matter", True), sources.POSITIVE_SCALES, sources.LENET), (SWITCHING,)),
)
