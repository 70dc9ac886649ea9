"""Random networks from all operators, small ones first; each is written as a recipe that rebuilds it.

    model, maker = grow(17)                  # seeded; the size of the network rises slowly with the seed
    text = model.describe()                  # one literal: kind of input, widths, steps
    model, maker = regrow(text)              # the same network
    small = shrink(text, fails)              # drop steps while fails(text) stays true

A recipe is {"input": kind, "width": n, "length": t, "steps": [...], "train": bool}. A step is a list, its name first;
steps inside steps are the bodies of residuals and concatenations. Widths follow from the steps, so dropping one never
breaks a recipe: bodies that must return to a width end in a linear layer that `Grown` adds.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from brute import InputMaker
from networks.base import floats, tokens
from networks.decoders import RMS, rotary_tables, rotate_half
from torch import Tensor, nn

Step = list[Any]
Recipe = dict[str, Any]

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.2), "abs": torch.abs, "tanh": torch.tanh, "gelu": F.gelu,
    "silu": F.silu, "softplus": F.softplus, "sigmoid": torch.sigmoid, "elu": F.elu, "sin": torch.sin, "mish": F.mish,
    "softsign": F.softsign, "softmax": lambda x: x.softmax(-1), "unit": lambda x: F.normalize(x, dim=-1, eps=0.0),
    "relu_squared": lambda x: F.relu(x) ** 2, "square": torch.square, "exp": lambda x: torch.exp(0.3 * x),
    "identity": lambda x: x,
}  # fmt: skip
WILD = ("relu_squared", "square", "exp")  # at most one of these in a network: deeper ones lose all digits
TAME = tuple(name for name in ACTS if name not in (*WILD, "identity"))
GATES = ("silu", "relu", "gelu", "sigmoid", "identity", "tanh", "leaky_relu")
NORMS = ("layer", "layer_eps0", "layer_plain", "layer_no_shift", "rms", "rms_eps0", "rms_plain", "batch")
VOCABULARY = 6


def norm(kind: str, width: int) -> nn.Module:
    """A norm over the last axis (batch: over channels, in the mode of the network)."""
    if kind == "batch":
        return Channels(width)
    if kind.startswith("rms"):
        return RMS(width, 1e-4 if kind == "rms" else 0.0, gain=kind != "rms_plain")
    eps = 0.0 if kind == "layer_eps0" else 1e-5
    return nn.LayerNorm(width, eps, elementwise_affine=kind != "layer_plain", bias=kind != "layer_no_shift")


class Channels(nn.Module):
    """Batch norm of the last axis, whatever stands before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(0, -2)).view(x.shape)


class Attend(nn.Module):
    """Attention with heads h on kv key/value heads of size k; options: bias, rotary, causal, fused, qk norm."""

    def __init__(self, d: int, h: int, kv: int, k: int, bias: bool, options: list[str], length: int) -> None:
        super().__init__()
        self.h, self.kv, self.k, self.options = h, kv, k, options
        self.q, self.key, self.v = nn.Linear(d, h * k, bias), nn.Linear(d, kv * k, bias), nn.Linear(d, kv * k, bias)
        self.o = nn.Linear(h * k, d, bias)
        if "qknorm" in options:
            self.nq, self.nk = RMS(k, 1e-4), RMS(k, 1e-4)
        if "rotary" in options:
            cos, sin = rotary_tables(length, k)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (m(x).view(b, t, -1, self.k).transpose(1, 2) for m in (self.q, self.key, self.v))
        if "qknorm" in self.options:
            q, k = self.nq(q), self.nk(k)
        if "rotary" in self.options:
            q, k = rotate_half(q, self.cos, self.sin), rotate_half(k, self.cos, self.sin)
        k, v = (m.repeat_interleave(self.h // self.kv, 1) for m in (k, v))
        if "fused" in self.options:
            y = F.scaled_dot_product_attention(q, k, v, is_causal="causal" in self.options)
        else:
            scores = q @ k.transpose(-1, -2)
            if "causal" in self.options:
                scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
            y = scores.softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


class Gated(nn.Module):
    """down(act(gate x) * up x)."""

    def __init__(self, d: int, f: int, act: str, bias: bool) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(d, f, bias), nn.Linear(d, f, bias), nn.Linear(f, d, bias)
        self.act = ACTS[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


class Across(nn.Module):
    """An MLP over the token axis."""

    def __init__(self, length: int, f: int, act: str, bias: bool) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(length, f, bias), nn.Linear(f, length, bias), ACTS[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x.transpose(1, 2)))).transpose(1, 2)


class Conv(nn.Module):
    """A 1-d convolution over tokens, padded to keep the length."""

    def __init__(self, d: int, n: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d, n, 3, padding=1, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class Gain(nn.Module):
    """A learned factor per channel."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((d,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Shift(nn.Module):
    """A learned vector per token and channel (positions)."""

    def __init__(self, length: int, d: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(length, d))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.place


class Act(nn.Module):
    """A parameter-free elementwise or last-axis function by name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.act = ACTS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class Join(nn.Module):
    """x + body(x), cat(x, body(x)) or x * body(x)."""

    def __init__(self, how: str, body: nn.Module) -> None:
        super().__init__()
        self.how, self.body = how, body

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.how == "residual" else x * y if self.how == "times" else torch.cat([x, y], -1)


class Mean(nn.Module):
    """Mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Tied(nn.Module):
    """Logits by the transpose of an embedding's table (which this module does not own)."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Builder:
    """Turns steps into modules, following the width; keeps linear layers so that "again" can reuse one."""

    def __init__(self, recipe: Recipe) -> None:
        self.length, self.sequence = recipe["length"], recipe["input"] != "vector"
        self.linears: list[nn.Linear] = []
        self.embedding: nn.Embedding | None = None

    def linear(self, m: int, n: int, bias: bool) -> nn.Linear:
        self.linears.append(nn.Linear(m, n, bias))
        return self.linears[-1]

    def run(self, steps: list[Step], width: int) -> tuple[list[nn.Module], int]:
        layers: list[nn.Module] = []
        for step in steps:
            made, width = self.step(step, width)
            layers += made
        return layers, width

    def step(self, step: Step, w: int) -> tuple[list[nn.Module], int]:
        name, rest = step[0], step[1:]
        if name == "linear":
            return [self.linear(w, rest[0], rest[1])], rest[0]
        if name == "act":
            return [Act(rest[0])], w
        if name == "norm":
            return ([norm(rest[0], w)] if w > 2 else []), w  # two channels centred and scaled are a mere sign
        if name in ("residual", "cat", "times"):
            body, v = self.run(rest[0], w)
            if name != "cat":
                body.append(self.linear(v, w, True))
                v = 0
            return [Join(name, nn.Sequential(*body))], w + v
        if name == "glu":
            return [Gated(w, *rest)], w
        if name == "gain":
            return [Gain(w)], w
        if name == "again":
            fit = [m for m in self.linears if (m.in_features, m.out_features) == (w, w)]
            return fit[:1], w
        if name == "tied":
            fits = self.embedding is not None and self.embedding.embedding_dim == w
            return ([Tied(self.embedding)] if fits else []), w
        return self.token_step(name, rest, w)

    def token_step(self, name: str, rest: Step, w: int) -> tuple[list[nn.Module], int]:
        if not self.sequence:
            return [], w
        if name == "mean":
            self.sequence = False
            return [Mean()], w
        if name == "attend":
            return [Attend(w, *rest, length=self.length)], w
        if name == "across":
            return [Across(self.length, *rest)], w
        if name == "place":
            return [Shift(self.length, w)], w
        if name == "conv":
            n, depthwise, bias = rest
            return [Conv(w, w if depthwise else n, w if depthwise else 1, bias)], w if depthwise else n
        raise ValueError(f"unknown step {name}")


class Grown(nn.Module):
    """The network of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        builder, first, width = Builder(recipe), [], recipe["width"]
        if recipe["input"] == "tokens":
            builder.embedding = nn.Embedding(VOCABULARY, width)
            first = [builder.embedding]
        layers, _ = builder.run(recipe["steps"], width)
        self.layers = nn.Sequential(*first, *layers)
        self.train(recipe["train"])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def describe(self) -> str:
        """One literal that `regrow` turns into the same network."""
        return repr(self.recipe)


def regrow(text: str) -> tuple[Grown, InputMaker]:
    """The network a description tells of, at fixed initial values, with its input maker."""
    recipe = ast.literal_eval(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Grown(recipe)
    batch = 6 if recipe["train"] else 3
    if recipe["input"] == "tokens":
        return model, tokens(VOCABULARY, recipe["length"], batch)
    shape = (recipe["length"], recipe["width"]) if recipe["input"] == "sequence" else (recipe["width"],)
    return model, floats(*shape, batch=batch, spread=0.8)


class Draw:
    """Draws steps; `size` bounds their number and widths."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng, self.size, self.wild = random.Random(seed), size, True
        self.kind = self.rng.choice(["vector", "vector", "sequence", "tokens"]) if size > 1 else "vector"

    def width(self, least: int = 2) -> int:
        """Not 1 inside a network: what stands behind one channel is a function of one number, too flat for float64."""
        return self.rng.randint(least, 3 + min(self.size, 3))

    def act(self) -> Step:
        if self.wild and self.rng.random() < 0.15:
            self.wild = False
            return ["act", self.rng.choice(WILD)]
        return ["act", self.rng.choice(TAME)]

    def flag(self) -> bool:
        return self.rng.random() < 0.6

    def plain(self) -> list[Step]:
        return [["linear", self.width(), self.flag()], self.act()]

    def attend(self) -> Step:
        kv = self.rng.choice([1, 2])
        options = [o for o in ("rotary", "causal", "fused", "qknorm") if self.rng.random() < 0.35]
        return ["attend", kv * self.rng.choice([1, 2]), kv, 2, self.flag(), options]

    def body(self, depth: int) -> list[Step]:
        out: list[Step] = [["norm", self.rng.choice(NORMS)]] if self.flag() else []
        choice = self.rng.random()
        if self.kind != "vector" and choice < 0.35:
            return [*out, self.attend()]
        if choice < 0.55:
            return [*out, ["glu", self.width(2), self.rng.choice(GATES), self.flag()]]
        return out + (self.steps(depth + 1, 1) if choice < 0.65 and depth < 2 else self.plain())

    def step(self, depth: int) -> list[Step]:
        kinds = {"plain": 5, "residual": 4, "norm": 2}
        kinds |= dict.fromkeys(("glu", "gain", "cat", "times", "again", "linear"), 1)
        if self.kind != "vector":
            kinds |= {"attend": 2, "across": 1, "conv": 1, "place": 1}
        kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
        if kind == "plain":
            return self.plain()
        if kind in ("residual", "cat", "times"):
            return [[kind, self.body(depth)]]
        return [{
            "norm": lambda: ["norm", self.rng.choice(NORMS)], "linear": lambda: ["linear", self.width(), self.flag()],
            "glu": lambda: ["glu", self.width(2), self.rng.choice(GATES), self.flag()], "gain": lambda: ["gain"],
            "again": lambda: ["again"], "attend": self.attend, "place": lambda: ["place"],
            "across": lambda: ["across", self.width(2), self.act()[1], self.flag()],
            "conv": lambda: ["conv", self.width(2), self.flag(), self.flag()],
        }[kind]()]  # fmt: skip

    def steps(self, depth: int, count: int) -> list[Step]:
        return [s for _ in range(count) for s in self.step(depth)]

    def recipe(self) -> Recipe:
        width = self.width(1 if self.size == 1 else 2)
        first: list[Step] = [] if self.kind == "tokens" else [["linear", self.width(2), self.flag()]]
        steps = first + self.steps(0, self.size)
        if self.kind != "vector" and self.rng.random() < 0.3:
            steps.append(["mean"])
        last = ["tied"] if self.kind == "tokens" and self.rng.random() < 0.5 else ["linear", self.width(1), self.flag()]
        train = self.rng.random() < 0.1
        return {"input": self.kind, "width": width, "length": 4, "steps": [*steps, last], "train": train}


def grow(seed: int, size: int | None = None) -> tuple[Grown, InputMaker]:
    """Network number `seed`; its size (steps between the ends) is 1 for the first 40 seeds, then one more per 40."""
    recipe = Draw(seed, size if size is not None else 1 + seed // 40).recipe()
    return regrow(repr(recipe))


def smaller(steps: list[Step]) -> list[list[Step]]:
    """All step lists with one step dropped, or one replaced by its body or by one with a smaller body."""
    out = []
    for i, step in enumerate(steps):
        out.append(steps[:i] + steps[i + 1 :])
        if step[0] in ("residual", "cat", "times"):
            out.append(steps[:i] + step[1] + steps[i + 1 :])
            out += [[*steps[:i], [step[0], body], *steps[i + 1 :]] for body in smaller(step[1])]
    return out


def shrink(text: str, fails: Callable[[str], bool]) -> str:
    """The smallest recipe reached by dropping steps one at a time while `fails` stays true."""
    recipe = ast.literal_eval(text)
    while True:
        for steps in smaller(recipe["steps"]):
            trial = {**recipe, "steps": steps}
            if fails(repr(trial)):
                recipe = trial
                break
        else:
            return repr(recipe)
