"""Graph networks on a dense adjacency, which is an input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes

__all__ = ["ENTRIES"]

NODES = 5


class GraphConvolution(nn.Module):
    """Â X W + b for a normalised adjacency Â."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n, m, bias=False), nn.Parameter(torch.zeros(m))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.lin(x) + self.bias


class GraphConvolutionNetwork(nn.Module):
    """Two graph convolutions with a ReLU between them."""

    def __init__(self, n: int, d: int, v: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = GraphConvolution(n, d), GraphConvolution(d, v)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x, adjacency)), adjacency)


class GraphAttention(nn.Module):
    """h heads of size k: softmax over neighbours of leaky_relu(a . W x_i + b . W x_j), applied to W x_j."""

    def __init__(self, n: int, h: int, k: int) -> None:
        super().__init__()
        self.h, self.k = h, k
        self.lin, self.bias = nn.Linear(n, h * k, bias=False), nn.Parameter(torch.zeros(h * k))
        self.att_src, self.att_dst = nn.Parameter(torch.randn(h, k)), nn.Parameter(torch.randn(h, k))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        y = self.lin(x).view(-1, self.h, self.k)
        to, come = (y * self.att_dst).sum(-1), (y * self.att_src).sum(-1)
        scores = F.leaky_relu(to[:, None] + come[None, :], 0.2).masked_fill(edges[..., None] == 0, float("-inf"))
        return torch.einsum("ijh,jhk->ihk", scores.softmax(1), y).flatten(1) + self.bias


class GraphAttentionNetwork(nn.Module):
    """Attention with concatenated heads and ELU, then attention with one head."""

    def __init__(self, n: int, h: int, k: int, v: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = GraphAttention(n, h, k), GraphAttention(h * k, 1, v)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.conv2(F.elu(self.conv1(x, edges)), edges)


def _ring() -> Tensor:
    """A cycle with loops, a chord, and an arrow: no two nodes have the same neighbours."""
    edges = torch.eye(NODES) + torch.roll(torch.eye(NODES), 1, 0) + torch.roll(torch.eye(NODES), -1, 0)
    edges[0, 2] = edges[2, 0] = edges[1, 4] = 1
    return edges


def _gcn(s: Sizes) -> Built:
    edges = _ring()
    degree = edges.sum(1).rsqrt()
    return GraphConvolutionNetwork(s["n"], s["d"], s["v"]).eval(), (torch.randn(NODES, s["n"]), degree[:, None] * edges * degree)


def _gat(s: Sizes) -> Built:
    return GraphAttentionNetwork(s["n"], s["h"], s["k"], s["v"]).eval(), (torch.randn(NODES, s["n"]), _ring())


FIXED = "the graph is the same for all inputs; its nodes are data, not parameters"

ENTRIES = (
    Architecture("gcn", "Graph convolutional network", {"n": "features of a node", "d": "hidden units", "v": "classes"}, _gcn,
                 ({"n": 6, "d": 4, "v": 3}, {"n": 5, "d": 4, "v": 2}, {"n": 7, "d": 5, "v": 3}),
                 ("GCN for Cora", {"n": 1433, "d": 16, "v": 7}),
                 (sources.defines("Kipf, Welling, Semi-supervised classification with graph convolutional networks, ICLR 2017, "
                                  "arXiv:1609.02907"), sources.POSITIVE_SCALES), (FIXED, "ReLU units switch on the data")),
    Architecture("gat", "Graph attention network", {"n": "features of a node", "h": "heads", "k": "size of a head", "v": "classes"}, _gat,
                 ({"n": 5, "h": 2, "k": 2, "v": 3}, {"n": 5, "h": 1, "k": 4, "v": 3}, {"n": 7, "h": 2, "k": 3, "v": 4}),
                 ("GAT for Cora", {"n": 1433, "h": 8, "k": 8, "v": 7}),
                 (sources.defines("Velickovic et al., Graph attention networks, ICLR 2018, arXiv:1710.10903"),), (FIXED,)),
)
