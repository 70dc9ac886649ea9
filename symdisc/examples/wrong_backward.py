"""Find a wrong backward pass by watching a run: python -m symdisc.examples.wrong_backward

Four trainings of a small network: a right one, one with a custom autograd.Function whose backward is wrong, one in which
an all-reduce over two workers misses a layer, and one in which the gradient of a branch is scaled. Losses fall in
all four. A correct gradient is orthogonal to every symmetry, so the monitor tells them apart and names the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import symdisc

STEPS, BATCH = 20, 32


class LeakyBackward(torch.autograd.Function):
    """ReLU forward; backward lets five percent through where nothing passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * (x > 0) + 0.05 * grads[0]


class Scaled(torch.autograd.Function):
    """Identity forward; backward multiplies by three, as a loss scale that one branch alone applies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 3


class Net(nn.Module):
    """A trunk of two hidden layers and two heads; ``second`` computes its second ReLU, ``branch`` is put before head b."""

    def __init__(self, second: Callable[[Tensor], Tensor] = torch.relu, branch: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.middle, self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 3), nn.Linear(12, 3)
        self.second, self.branch = second, branch

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.second(self.middle(torch.relu(self.first(x))))
        return self.a(h), self.b(h if self.branch is None else self.branch(h))


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    a, b = model(x)
    return (a - x[:, :3].sin()).square().mean() + (b - x[:, 3:6].tanh()).square().mean()


def one_worker(model: nn.Module, x: Tensor) -> float:
    """Backward on the whole batch."""
    loss = loss_of(model, x)
    loss.backward()
    return float(loss.detach())


def two_workers(missing: str) -> Callable[[nn.Module, Tensor], float]:
    """Each worker takes half of the batch; gradients are averaged, but those of ``missing`` stay the first worker's own."""
    def backward(model: nn.Module, x: Tensor) -> float:
        halves, losses = [], []
        for half in x.chunk(2):
            model.zero_grad()
            losses.append(one_worker(model, half))
            halves.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        for n, p in model.named_parameters():
            p.grad = halves[0][n] if n.startswith(missing) and missing else (halves[0][n] + halves[1][n]) / 2
        return sum(losses) / 2
    return backward


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], float]]] = {
    "everything right": (Net, one_worker),
    "two workers, right": (Net, two_workers("")),
    "custom backward of the second ReLU wrong": (lambda: Net(second=LeakyBackward.apply), one_worker),
    "all-reduce misses layer 'a'": (Net, two_workers("a.")),
    "gradient of branch 'b' scaled by 3": (lambda: Net(branch=Scaled.apply), one_worker),
}


def watch(case: str) -> tuple[symdisc.Monitor, list[float]]:
    """Train one case for a few steps with a monitor beside it; the catalog is that of the network as it is meant."""
    make, backward = CASES[case]
    torch.manual_seed(0)
    cat = symdisc.discover(Net(), (torch.randn(4, 8),))
    torch.manual_seed(1)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    monitor = symdisc.Monitor(cat, model, optimizer, every=1)
    draw, losses = torch.Generator().manual_seed(2), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(backward(model, torch.randn(BATCH, 8, generator=draw)))
        optimizer.step()
    return monitor, losses


def main() -> None:
    for case in CASES:
        monitor, losses = watch(case)
        print(f"{case}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        for s in monitor.suspects():
            print(f"    not orthogonal to {s.symmetry}: cosine {s.orthogonality:.1e}; look at {', '.join(s.blamed)}")
        if not monitor.suspects():
            worst = max(r["orthogonality"] for r in monitor.records)
            print(f"    gradients are orthogonal to every symmetry (largest cosine {worst:.1e}, float32)")


if __name__ == "__main__":
    main()
