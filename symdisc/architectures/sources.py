"""Citations shared by several entries."""

from __future__ import annotations

from symdisc.architectures.base import Source

__all__ = [
    "BALANCE", "BATCH_NORM", "GODFREY", "KEY_BIAS", "LENET", "LINEAR", "LSTM_SIGNS", "POSITIVE_SCALES", "RADIAL", "ROTARY_GAUGE", "SIGNS",
    "STREAM", "defines",
]

POSITIVE_SCALES = Source("Neyshabur, Salakhutdinov, Srebro, Path-SGD, NeurIPS 2015, arXiv:1506.02617",
                         "rescaling of a ReLU unit leaves the function unchanged", True)
SIGNS = Source("Sussmann, Uniqueness of the weights for minimal feedforward nets with a given input-output map, Neural Networks 5, 1992",
               "one hidden tanh layer: permutations and sign flips are all there is, generically", True)
LINEAR = Source("Zhao, Ganev, Walters, Yu, Dehmamy, Symmetries, flat minima and conserved quantities of gradient flow, ICLR 2023, "
                "arXiv:2210.17216", "GL(h) at each hidden layer of a linear network", True)
BALANCE = Source("Du, Hu, Lee, Algorithmic regularization in learning deep homogeneous models, NeurIPS 2018, arXiv:1806.00900",
                 "gradient flow conserves the differences of squared norms of neighbouring layers", True)
GODFREY = Source("Godfrey, Brown, Emerson, Kvinge, On the symmetries of deep learning models and their internal representations, "
                 "NeurIPS 2022, arXiv:2205.14258", "intertwiner groups of elementwise activations", True)
BATCH_NORM = Source("van Laarhoven, L2 regularization versus batch and weight normalization, 2017, arXiv:1706.05350",
                    "a normalised weight has a scale that the function does not see", True)
KEY_BIAS = Source("Complete characterization of gauge symmetries in transformer architectures, NeurReps 2025",
                  "without biases: (GL(d_k)^h x GL(d_v)^h) with S_h is the whole symmetry of multi-head attention, generically", True)
ROTARY_GAUGE = Source("Tran et al., ICML 2026, arXiv:2606.17830", "rotary positions shrink the symmetry of queries and keys", True)
STREAM = Source("Ashkboos et al., SliceGPT, ICLR 2024, arXiv:2401.15024",
                "rotations of the residual stream pass through RMSNorm; LayerNorm becomes RMSNorm once the mean is taken out", True)
LSTM_SIGNS = Source("Albertini, Sontag, For neural networks, function determines form, Neural Networks 6, 1993",
                    "recurrent nets with odd activations: permutations and sign flips, generically", True)
RADIAL = Source("Ganev, van Laarhoven, Walters, Universal approximation and model compression for radial neural networks, 2021, "
                "arXiv:2107.02550", "radial rescaling activations commute with O(n)", True)
LENET = Source("LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998",
               "LeNet-300-100: the widths 784, 300, 100, 10")


def defines(text: str, where: str = "the architecture and its published sizes") -> Source:
    """A source of the architecture, not of its symmetry."""
    return Source(text, where)
