"""What one more equal layer costs: torch.export alone, and discovery with everything in it, on small Llamas of more and more layers.

    python -m benchmarks.layers

Each depth in turn, three times; the least seconds count. The last lines give what a layer costs beyond the fourth.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from symdisc import discover

DEPTHS, TIMES = (1, 2, 4, 8, 16, 32), 3


def llama(layers: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, use_cache=False)).eval()


def main() -> None:
    torch.set_num_threads(1)
    x = torch.arange(8)[None]
    discover(llama(1), (x,), solve=False)  # imports, and proofs that are kept
    seconds: dict[int, tuple[float, float, float]] = {}
    print("layers  export  discover  of it beside the capture")
    for depth in DEPTHS:
        model, found = llama(depth), []
        for _ in range(TIMES):
            start = time.perf_counter()
            torch.export.export(model, (x,), strict=False)
            exported = time.perf_counter()
            catalog = discover(model, (x,), solve=False)
            whole = time.perf_counter() - exported
            found.append((exported - start, whole, whole - catalog.timings["capture"]))
        seconds[depth] = tuple(min(column) for column in zip(*found, strict=True))  # type: ignore[assignment]
        print(f"{depth:6d}  {seconds[depth][0]:6.2f}  {seconds[depth][1]:8.2f}  {seconds[depth][2]:8.2f}", flush=True)
    few, many = 4, DEPTHS[-1]
    export, whole, own = ((b - a) / (many - few) * 1000 for a, b in zip(seconds[few], seconds[many], strict=True))
    print(f"a layer beyond the fourth: {export:.0f} ms of torch.export alone, {whole:.0f} ms of discovery, {own:.0f} ms beside the capture")


if __name__ == "__main__":
    main()
