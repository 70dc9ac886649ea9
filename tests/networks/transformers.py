"""Whole transformers: torch's layers, and look-alikes of the known families, small."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, Fn, add, floats, mlp, several, tokens
from .decoders import RMS, Attention, Block, Decoder, Glu, gelu_miniature, miniature
from .streams import Plus, Scale


def encoder(first: bool, act: str, wide: bool = True, layers: int = 1, causal: bool = False,
    **options: object) -> Built:
    """nn.TransformerEncoderLayer between two linear ends (or on the bare input)."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(5, 4) if wide else nn.Identity()
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(4, 2, 3, 0.0, act, batch_first=True, norm_first=first,
                **options) for _ in range(layers)
            )
            self.leave = nn.Linear(4, 5) if wide else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            mask = torch.full((4, 4), float("-inf"), dtype=x.dtype).triu(1) if causal else None
            for one in self.layers:
                x = one(x, src_mask=mask)
            return self.leave(x)

    return Wrapped().train(), floats(4, 5 if wide else 4, spread=0.5)


QKV = 2 * (4 + 4 + 2 + 2)  # two heads of 2 with biases: gl(2) twice, key bias, value bias
add("torch_encoder_pre", lambda: encoder(True, "gelu"), 68,
    "heads 24; norms 8 + 12 and 8 + 3; stream so(3), 1 l^T 4; translations 1, 1 and 4")  # fmt: skip
add("torch_encoder_pre_relu", lambda: encoder(True, "relu"), 71, "as torch_encoder_pre, and relu scales 3")
add("torch_encoder_post", lambda: encoder(False, "gelu"), 62,
    "heads 24; stream 1 l^T 4, translation 4; writers 5 + 4; inner shift 4, reader 3; last norm 8 + "
    "5; and one turn of both sides of "
    "the inner gains (4 numbers, 3 singular values)")
add("torch_encoder_post_two", lambda: encoder(False, "relu", layers=2), 123,
    "measured at three seeds, and at seed 0 with ten times the inputs; with few inputs a unit of the relu that hardly "
    "ever fires makes it 124")  # fmt: skip
add("torch_encoder_bare", lambda: encoder(True, "gelu", wide=False), 56,
    "heads 24; norms 8 + 12 and 8 + 3; one constant between the two branches")  # fmt: skip
add("torch_encoder_causal", lambda: encoder(True, "gelu", causal=True), 68, "as torch_encoder_pre")
add("torch_encoder_no_bias", lambda: encoder(True, "relu", bias=False), 50,
    "heads 16; relu 3; gains 8; readers 15; stream so(3), 1 l^T 4, translation 1")  # fmt: skip


class TorchDecoder(nn.Module):
    """nn.TransformerDecoderLayer: self attention, cross attention, feed-forward."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(4, 2, 3, 0.0, "gelu", batch_first=True, norm_first=first)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.layer(x, memory))


add("torch_decoder_pre", lambda: (TorchDecoder(True), several((4, 4), (3, 4), spread=0.4)), 97,
    "heads 48; norms 20 + 12 + 11; constants 1, 1 and 4")  # fmt: skip
add("torch_decoder_post", lambda: (TorchDecoder(False), several((4, 4), (3, 4), spread=0.4)), 90,
    "heads 48; writers 5 + 5 + 4; shifts 4 + 4; readers 4 + 3; last norm 8 + 5")  # fmt: skip

# decoders of the design's kind, other corners
add("llama_tied", lambda: miniature(2, 1, "rms", 0.0, tied=True), 35,
    "17 per layer; the tie costs so(4) and the final gain; scale against the final gain")  # fmt: skip
add("llama_tied_eps", lambda: miniature(1, 2, "rms", 1e-5, tied=True), 23, "qk 4, vo 8, glu 3, gains 8")
add("gpt2_tied", lambda: gelu_miniature(1, tied=True), 70, "layer 64; mean of positions 6; the tie costs the rest")
add("gpt2_eps0", lambda: gelu_miniature(1, eps=0.0), 92, "layer 64; final norm 8; embeddings 16; so(3); scale")
add("llama_narrow_vocabulary", lambda: miniature(1, 1, "rms", 1e-5, vocabulary=3), None,
    "3 tokens in a stream of 4: blind directions at both ends")  # fmt: skip
add("llama_narrow_tied", lambda: miniature(1, 1, "rms", 0.0, tied=True, vocabulary=3), None, "3 tokens, tied")
add("llama_torch_norm", lambda: miniature(1, 1, "torch", 1e-5), 27, "nn.RMSNorm: as mini_rms_one_layer")


def feed(d: int, f: int, act: Callable[[], nn.Module], bias: bool = True) -> nn.Sequential:
    return mlp((d, f, d), act, bias)


def family(kind: str, d: int = 4, vocabulary: int = 7) -> Built:
    """Decoders that differ in one thing each."""
    causal = Attention(d, 2, 2, 1, True, kind == "qwen")
    norm: Callable[[], nn.Module] = {
        "plain": lambda: RMS(d, 0.0, gain=False), "gemma": lambda: Plus(d, 1e-5), "olmo": lambda: nn.LayerNorm(d,
        elementwise_affine=False),
    }.get(kind, lambda: RMS(d, 1e-5))  # fmt: skip
    body: dict[str, Callable[[], nn.Module]] = {
        "moe": lambda: ExpertBlock(d), "relu": lambda: feed(d, 3, nn.ReLU, False), "gemma": lambda: Glu(d, 3, F.gelu),
        "relu2": lambda: feed(d, 3, lambda: Fn(lambda x: F.relu(x) ** 2), False), "nope": lambda: Glu(d, 3),
    }  # fmt: skip
    block: nn.Module = Block(causal, body.get(kind, lambda: Glu(d, 3))(), norm)
    if kind == "parallel":
        block = Parallel(d)
    if kind == "sandwich":
        block = Sandwich(d)
    blocks = [block, block] if kind == "albert" else [block]
    net: nn.Module = Decoder(vocabulary, d, blocks, norm(), tied=kind == "gemma")
    if kind == "scaled":
        net = Scaled(net)
    if kind == "capped":
        net = nn.Sequential(net, Fn(lambda z: 2 * torch.tanh(z / 2)))
    if kind == "softmax":
        net = nn.Sequential(net, nn.LogSoftmax(-1))
    return net, tokens(vocabulary, 6)


add("llama_parallel_few_tokens", lambda: family("parallel"), 50,
    "as llama_parallel; the feed-forward sees 7 tokens only, a table that the embedding can hold: 21 more")  # fmt: skip
add("llama_parallel", lambda: family("parallel", vocabulary=19), 29,
    "one gain less than the usual block; two key heads")  # fmt: skip


class ExpertBlock(nn.Module):
    """Two gated experts behind a softmax router."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(d, 2, bias=False), nn.ModuleList(Glu(d, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        w = self.router(x).softmax(-1)
        return sum(w[..., i : i + 1] * e(x) for i, e in enumerate(self.experts))


class Parallel(nn.Module):
    """x + attention(norm x) + feed(norm x), one norm (GPT-J, PaLM)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.attention, self.feed = RMS(d, 1e-5), Attention(d, 2, 2, 2, True, False), Glu(d, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attention(y) + self.feed(y)


class Sandwich(nn.Module):
    """Norms before and after each branch (Gemma 2)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.n = nn.ModuleList(RMS(d, 0.0) for _ in range(4))
        self.attention, self.feed = Attention(d, 2, 2, 2, True, False), Glu(d, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.n[1](self.attention(self.n[0](x)))
        return x + self.n[3](self.feed(self.n[2](x)))


class Scaled(nn.Module):
    """Logits times a learned temperature."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.temperature = net, nn.Parameter(torch.tensor(1.3))

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(ids) * self.temperature


BASE = 27  # one layer of the design's table: so(4) 6, final gain 4, two gains 8, qk 2, vo 4, glu 3
for _kind, _dim, _why in (
    ("qwen", 27 - 0 + 2, "qkv and o biases: the value bias joins the output's 2"), ("plain", 6 + 9 + 1,
    "no gains: so(4), scale, 9 inside"),
    ("gemma", 17, "1 + w gains, tied: 2 + 4 + 3 + 8"), ("olmo", 47,
    "LayerNorm without gain or shift: 9; so(3); writers 14; readers 21"), ("relu", 27, "relu feed-forward"),
    ("relu2", 27, "squared relu"), ("moe", 27 - 3 + 4 + 4, "two experts of 2; common logit 4"),
    ("sandwich", 29, "gains after the branches sit on the stream: 15, two gains 8, two scales, final gain 4"),
    ("albert", 27, "one block used twice"),
    ("scaled", 28, "temperature against the head"), ("capped", 27, "the cap leaves the head alone"), ("softmax",
    27 + 4, "a common row of the head"),
):  # fmt: skip
    add(f"llama_{_kind}", lambda k=_kind: family(k), _dim, _why)


class Bert(nn.Module):
    """Tokens, segments, positions, embedding norm, post-norm blocks, a pooled head or a tied one with bias."""

    def __init__(self, masked: bool, d: int = 4) -> None:
        super().__init__()
        self.word, self.segment, self.place = nn.Embedding(7, d), nn.Embedding(2, d), nn.Embedding(5, d)
        self.norm0, self.norm1, self.norm2 = (nn.LayerNorm(d) for _ in range(3))
        self.attention, self.feed = Attention(d, 2, 2, 2, False, True, causal=False), feed(d, 3, nn.GELU)
        self.masked = masked
        if masked:
            self.dense, self.norm3, self.bias = nn.Linear(d, d), nn.LayerNorm(d), nn.Parameter(torch.zeros(7))
        else:
            self.pool, self.head = nn.Linear(d, d), nn.Linear(d, 3)

    def forward(self, ids: Tensor, segments: Tensor) -> Tensor:
        x = self.norm0(self.word(ids) + self.segment(segments % 2) + self.place.weight)
        x = self.norm1(x + self.attention(x))
        x = self.norm2(x + self.feed(x))
        if self.masked:
            return self.norm3(F.gelu(self.dense(x))) @ self.word.weight.t() + self.bias
        return self.head(torch.tanh(self.pool(x[:, 0])))


add("bert_pooled", lambda: (Bert(False), tokens(7, 5, streams=2)), 88,
    "tables 14 + 6; heads 24; shifts 4 + 4; readers 12 + 3; writers 5 + 4; last norm 8 + 4")  # fmt: skip
add("bert_masked", lambda: (Bert(True), tokens(7, 5, streams=2)), 83,
    "tables 7 + 3, and words along 1/gain of the last norm 1; heads 24; 4 + 12 + 5 + 4 + 3 + 4; 8 + "
    "4; last shift against the bias 4")


class Relative(nn.Module):
    """T5 attention: no scaling, no biases, a learned table of distances per head."""

    def __init__(self, d: int, cross: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.table = None if cross else nn.Embedding(9, 2)
        self.causal = causal

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        b, t, d = x.shape
        s = y.shape[1]
        q, k, v = self.q(x).view(b, t, 2, -1), self.k(y).view(b, s, 2, -1), self.v(y).view(b, s, 2, -1)
        scores = torch.einsum("bihk,bjhk->bhij", q, k)
        if self.table is not None:
            place = torch.arange(t)[:, None] - torch.arange(s)[None]
            scores = scores + self.table(place + 4).permute(2, 0, 1)
            if self.causal:
                scores = scores.masked_fill(place < 0, float("-inf"))
        return self.o(torch.einsum("bhij,bjhk->bihk", scores.softmax(-1), v).reshape(b, t, d))


class T5(nn.Module):
    """Encoder and decoder sharing one embedding; RMS norms; tied and scaled head."""

    def __init__(self, tied: bool, d: int = 4, eps: float = 1e-5) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, d)
        self.head = None if tied else nn.Linear(d, 7, bias=False)
        self.n = nn.ModuleList(RMS(d, eps) for _ in range(7))
        self.enc, self.dec, self.cross = Relative(d), Relative(d, causal=True), Relative(d, cross=True)
        self.ff1, self.ff2 = feed(d, 3, nn.ReLU, False), feed(d, 3, nn.ReLU, False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        x = self.embed(source)
        x = x + self.enc(self.n[0](x), self.n[0](x))
        x = self.n[2](x + self.ff1(self.n[1](x)))
        y = self.embed(target)
        y = y + self.dec(self.n[3](y), self.n[3](y))
        y = y + self.cross(self.n[4](y), x)
        y = self.n[6](y + self.ff2(self.n[5](y)))
        return 0.5 * y @ self.embed.weight.t() if self.head is None else self.head(y)


add("t5_tied", lambda: (T5(True), tokens(7, 5, streams=2)), 90, "as t5_untied without so(4) and the final gain")
add("t5_untied", lambda: (T5(False), tokens(7, 5, streams=2)), 100,
    "heads 48; tables 2 + 2, unused rows 8; relu 6; seven gains 28; so(4) of both streams together")  # fmt: skip


class VitBlock(nn.Module):
    """Pre-norm block with LayerNorm, biases and optional layer scales."""

    def __init__(self, d: int, act: Callable[[], nn.Module], scale: bool) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention, self.feed = Attention(d, 2, 2, 2, False, True, causal=False), feed(d, 3, act)
        self.s1, self.s2 = (Scale(d), Scale(d)) if scale else (nn.Identity(), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.s1(self.attention(self.n1(x)))
        return x + self.s2(self.feed(self.n2(x)))


class Vit(nn.Module):
    """Convolutional patches, class token, positions, pre-norm blocks, head on the class token."""

    def __init__(self, d: int = 4, act: Callable[[], nn.Module] = nn.GELU, scale: bool = False, mean: bool = False,
        blocks: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, d, 2, stride=2)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, d)), nn.Parameter(torch.randn(1, 5, d))
        self.blocks = nn.ModuleList(VitBlock(d, act, scale) for _ in range(blocks))
        self.norm = nn.LayerNorm(d)
        self.head, self.mean = nn.Linear(d, 3), mean

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1) if self.mean else x[:, 0]))


add("vit", lambda: (Vit(), floats(2, 4, 4)), 163,
    "blocks 64 each; last norm 8 + 3; patches, token, positions 21; so(3)")  # fmt: skip
add("vit_one_block", lambda: (Vit(blocks=1), floats(2, 4, 4)), None,
    "one block read at the class token: its query is one constant vector")  # fmt: skip
add("vit_scaled_mean", lambda: (Vit(scale=True, mean=True, blocks=1), floats(2, 4, 4)), 107,
    "as vit with one block, read at all tokens; layer scales 8")  # fmt: skip
add("vit_relu", lambda: (Vit(act=nn.ReLU, mean=True, blocks=1), floats(2, 4, 4)), 64 + 11 + 21 + 3 + 3, "relu scales 3")
