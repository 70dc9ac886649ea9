"""Entries of encoders and encoder-decoder pairs, transformers' own classes: BERT, ALBERT, T5, Whisper, ViT, ConvNeXt, CLIP."""

from __future__ import annotations

import torch

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes
from symdisc.architectures.hf import configured, made, tokens

__all__ = ["ENTRIES"]

HEADS, SIZE, LAYERS, INNER = {"h": "heads"}, {"k": "size of a head"}, {"L": "layers"}, {"f": "feed-forward width"}
WORDS, PLACES = {"v": "vocabulary"}, {"n": "positions"}
IMAGE = {"p": "side of a patch", "s": "patches on a side"}
BLOCK = {**HEADS, **SIZE, **LAYERS, **INNER}
GENERIC = "generic weights, eval mode, no padding"
EPS = "eps > 0 in the norms"
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def _text(name: str, s: Sizes, **more: int) -> Built:
    config = configured(f"{name}Config", {
        "hidden_size": s["h"] * s["k"], "num_attention_heads": s["h"], "num_hidden_layers": s["L"], "intermediate_size": s["f"],
        "vocab_size": s["v"], "max_position_embeddings": s["n"], "type_vocab_size": 2, "pad_token_id": None, **more})
    shape = (2, s["n"])
    ids = tokens(s["v"], s["n"])
    return made(f"{name}Model", config).eval(), (ids, torch.ones_like(ids), torch.randint(0, 2, shape))


def _bert(s: Sizes) -> Built:
    return _text("Bert", s)


def _albert(s: Sizes) -> Built:
    return _text("Albert", s, embedding_size=s["e"])


def _t5(s: Sizes) -> Built:
    config = configured("T5Config", {
        **SPECIAL, "d_model": s["d"], "num_heads": s["h"], "d_kv": s["k"], "d_ff": s["f"], "num_layers": s["L"],
        "num_decoder_layers": s["L"],
        "vocab_size": s["v"], "relative_attention_num_buckets": s["r"], "relative_attention_max_distance": 4 * s["r"]})
    length = 4 * s["r"] + 2  # every bucket of distances is met
    return made("T5ForConditionalGeneration", config).eval(), (tokens(s["v"], length), None, tokens(s["v"], length))


def _whisper(s: Sizes) -> Built:
    config = configured("WhisperConfig", {
        **SPECIAL, "d_model": s["h"] * s["k"], "encoder_attention_heads": s["h"], "decoder_attention_heads": s["h"],
        "encoder_layers": s["L"],
        "decoder_layers": s["L"], "encoder_ffn_dim": s["f"], "decoder_ffn_dim": s["f"], "vocab_size": s["v"], "num_mel_bins": s["m"],
        "max_source_positions": s["n"], "max_target_positions": s["t"], "begin_suppress_tokens": None, "suppress_tokens": None})
    return made("WhisperForConditionalGeneration", config).eval(), (torch.randn(2, s["m"], 2 * s["n"]), None, tokens(s["v"], s["t"]))


def _vit(s: Sizes) -> Built:
    config = configured("ViTConfig", {
        "hidden_size": s["h"] * s["k"], "num_attention_heads": s["h"], "num_hidden_layers": s["L"], "intermediate_size": s["f"],
        "image_size": s["p"] * s["s"], "patch_size": s["p"], "num_labels": s["v"]})
    return made("ViTForImageClassification", config).eval(), (torch.randn(2, 3, s["p"] * s["s"], s["p"] * s["s"]),)


def _convnext(s: Sizes) -> Built:
    config = configured("ConvNextConfig", {
        "hidden_sizes": [s["c1"], s["c2"], s["c3"], s["c4"]], "depths": [s["b"], s["b"], s["m"], s["b"]], "num_labels": s["v"]})
    return made("ConvNextForImageClassification", config).eval(), (torch.randn(2, 3, 128, 128),)


def _clip(s: Sizes) -> Built:
    text = {"hidden_size": s["h"] * s["k"], "num_attention_heads": s["h"], "num_hidden_layers": s["L"], "intermediate_size": s["f"],
            "vocab_size": s["v"], "max_position_embeddings": s["n"], "projection_dim": s["e"], "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2}
    vision = {"hidden_size": s["g"] * s["k"], "num_attention_heads": s["g"], "num_hidden_layers": s["L"], "intermediate_size": s["u"],
              "image_size": s["p"] * s["s"], "patch_size": s["p"], "projection_dim": s["e"]}
    config = configured("CLIPConfig", {"text_config": text, "vision_config": vision, "projection_dim": s["e"]})
    side = s["p"] * s["s"]
    return made("CLIPModel", config).eval(), (tokens(s["v"], s["n"]), torch.randn(2, 3, side, side))


BERT_SMALL = ({"h": 2, "k": 2, "L": 1, "f": 5, "v": 9, "n": 3}, {"h": 1, "k": 3, "L": 2, "f": 4, "v": 8, "n": 2},
              {"h": 2, "k": 3, "L": 1, "f": 7, "v": 11, "n": 4})
# two layers at least: one that is used once can do more
ALBERT_SMALL = ({"h": 2, "k": 2, "L": 2, "f": 5, "e": 3, "v": 9, "n": 4}, {"h": 2, "k": 2, "L": 3, "f": 5, "e": 3, "v": 8, "n": 5},
                {"h": 2, "k": 3, "L": 2, "f": 7, "e": 4, "v": 11, "n": 5})
STAGES = {f"c{i}": f"channels of stage {i}" for i in range(1, 5)}

ENTRIES = (
    Architecture("bert", "BERT", {**BLOCK, **WORDS, **PLACES}, _bert, BERT_SMALL,
                 ("BERT-base, uncased", {"h": 12, "k": 64, "L": 12, "f": 3072, "v": 30522, "n": 512}),
                 (sources.defines("Devlin, Chang, Lee, Toutanova, BERT, NAACL 2019, arXiv:1810.04805"), sources.KEY_BIAS),
                 (GENERIC, EPS, "without the head of masked language modelling; with the pooler")),
    Architecture("albert", "ALBERT (layers shared, narrow embeddings)", {**BLOCK, "e": "embedding width", **WORDS, **PLACES}, _albert,
                 ALBERT_SMALL,
                 ("ALBERT-base v2", {"h": 12, "k": 64, "L": 12, "f": 3072, "e": 128, "v": 30000, "n": 512}),
                 (sources.defines("Lan et al., ALBERT, ICLR 2020, arXiv:1909.11942"), sources.KEY_BIAS),
                 (GENERIC, EPS, "without the head of masked language modelling; with the pooler")),
    Architecture("t5", "T5", {"d": "model width", **BLOCK, **WORDS, "r": "buckets of distances"}, _t5,
                 ({"d": 4, "h": 2, "k": 2, "L": 1, "f": 5, "v": 9, "r": 4}, {"d": 5, "h": 1, "k": 3, "L": 1, "f": 6, "v": 11, "r": 6},
                  {"d": 3, "h": 1, "k": 2, "L": 2, "f": 4, "v": 8, "r": 4}),
                 ("T5-small", {"d": 512, "h": 8, "k": 64, "L": 6, "f": 2048, "v": 32128, "r": 32}),
                 (sources.defines("Raffel et al., Exploring the limits of transfer learning, JMLR 21, 2020, arXiv:1910.10683"),
                  sources.KEY_BIAS), (GENERIC, EPS, "embeddings and head are tied", "sequences long enough to meet every bucket")),
    Architecture("whisper", "Whisper", {**BLOCK, **WORDS, "m": "bands of the spectrogram", "n": "positions of the encoder",
                                        "t": "positions of the decoder"}, _whisper,
                 ({"h": 1, "k": 4, "L": 1, "f": 5, "v": 9, "m": 2, "n": 5, "t": 5},
                  {"h": 2, "k": 2, "L": 1, "f": 6, "v": 8, "m": 3, "n": 6, "t": 5},
                  {"h": 1, "k": 4, "L": 1, "f": 5, "v": 7, "m": 1, "n": 5, "t": 6}),
                 ("Whisper tiny", {"h": 6, "k": 64, "L": 4, "f": 1536, "v": 51865, "m": 80, "n": 1500, "t": 448}),
                 (sources.defines("Radford et al., Robust speech recognition via large-scale weak supervision, ICML 2023, "
                                  "arXiv:2212.04356"),
                  sources.KEY_BIAS), (GENERIC, EPS, "an even width; positions of the encoder count as parameters",
                  "embeddings and head are tied")),
    Architecture("vit", "Vision transformer", {**BLOCK, **IMAGE, "v": "classes"}, _vit,
                 ({"h": 2, "k": 2, "L": 2, "f": 5, "p": 1, "s": 2, "v": 5}, {"h": 2, "k": 2, "L": 2, "f": 4, "p": 2, "s": 2, "v": 4},
                  {"h": 2, "k": 2, "L": 3, "f": 5, "p": 1, "s": 2, "v": 6}),
                 ("ViT-B/16", {"h": 12, "k": 64, "L": 12, "f": 3072, "p": 16, "s": 14, "v": 1000}),
                 (sources.defines("Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021, arXiv:2010.11929"), sources.KEY_BIAS,
                  sources.STREAM), (GENERIC, EPS)),
    Architecture("convnext", "ConvNeXt", {**STAGES, "b": "blocks of stages 1, 2 and 4", "m": "blocks of stage 3", "v": "classes"},
                 _convnext,
                 ({"c1": 3, "c2": 3, "c3": 3, "c4": 3, "b": 1, "m": 1, "v": 3}, {"c1": 3, "c2": 4, "c3": 3, "c4": 3, "b": 1, "m": 1,
                  "v": 4},
                  {"c1": 3, "c2": 3, "c3": 3, "c4": 4, "b": 1, "m": 1, "v": 5}),
                 ("ConvNeXt-T", {"c1": 96, "c2": 192, "c3": 384, "c4": 768, "b": 3, "m": 9, "v": 1000}),
                 (sources.defines("Liu et al., A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545"), sources.STREAM), (GENERIC, EPS)),
    Architecture("clip", "CLIP", {"h": "heads of the text tower", "g": "heads of the image tower", **SIZE, **LAYERS,
                                  "f": "feed-forward width of the text tower", "u": "feed-forward width of the image tower", **IMAGE,
                                  "e": "width of the common space", **WORDS, **PLACES}, _clip,
                 ({"h": 1, "g": 2, "k": 3, "L": 1, "f": 4, "u": 7, "p": 2, "s": 2, "e": 3, "v": 8, "n": 2},
                  {"h": 1, "g": 2, "k": 3, "L": 1, "f": 5, "u": 8, "p": 2, "s": 2, "e": 4, "v": 9, "n": 2},
                  {"h": 1, "g": 1, "k": 4, "L": 1, "f": 5, "u": 6, "p": 2, "s": 2, "e": 3, "v": 7, "n": 3}),
                 ("CLIP ViT-B/32", {"h": 8, "g": 12, "k": 64, "L": 12, "f": 2048, "u": 3072, "p": 32, "s": 7, "e": 512, "v": 49408,
                 "n": 77}),
                 (sources.defines("Radford et al., Learning transferable visual models from natural language supervision, ICML 2021, "
                                  "arXiv:2103.00020"), sources.KEY_BIAS, sources.STREAM), (GENERIC, EPS)),
)
