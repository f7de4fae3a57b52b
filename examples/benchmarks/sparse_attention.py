"""What the sparse pattern costs beside dense attention and Longformer's, from 512 to 16,384 tokens.

    python examples/benchmarks/sparse_attention.py [--lengths 512 1024 4096 16384] [--rounds 5]

Whole layers with their four projections: 8 heads of 64, window 128 each side, batch 1, one thread. Times
are medians of the process's CPU seconds, all layers taking turns in each round; printed as how many
times faster ours is. Memory is what a run adds to a fresh process's peak, ours over dense, in MB.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from diptych.fusion.sparse import sparse_attention, visible_pairs
from measuring import conditions, high_water
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LongformerConfig
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

HEADS, DIM, WINDOW, GLOBALS = 8, 512, 128, 4
LARGEST_DENSE_MASK = 4096  # tokens; beyond, the mask alone is gigabytes


class Layer(nn.Module):
    """Projections around `attend`, which takes query, key and value (batch, heads, tokens, head_dim)."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.query, self.key, self.value, self.out = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        """(batch, tokens, dim) in and out."""
        three = (
            linear(states).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        return self.out(self.attend(*three).transpose(1, 2).flatten(2))


class Longformer(nn.Module):
    """Hugging Face's layer, and the projection that follows it there in another module."""

    def __init__(self, is_global: Tensor) -> None:
        super().__init__()
        config = LongformerConfig(
            hidden_size=DIM, num_attention_heads=HEADS, attention_window=[2 * WINDOW], attention_probs_dropout_prob=0.0
        )
        self.attention, self.out = LongformerSelfAttention(config, 0), nn.Linear(DIM, DIM)
        self.is_global, self.has_global = is_global, bool(is_global.any())

    def forward(self, states: Tensor) -> Tensor:
        """(batch, tokens, dim) in and out."""
        mask = torch.where(self.is_global, 10000.0, 0.0)
        return self.out(self.attention(states, mask, mask < 0, self.is_global, self.has_global)[0])


def build(name: str, tokens: int, chosen: int) -> nn.Module:
    """The layer of that name; its first `chosen` tokens are global (dense attention sees all anyway)."""
    is_global = (torch.arange(tokens) < chosen).unsqueeze(0)
    if name == "longformer":
        return Longformer(is_global)
    if name == "dense":
        return Layer(F.scaled_dot_product_attention)
    some = is_global if chosen else None
    return Layer(lambda query, key, value: sparse_attention(query, key, value, window=WINDOW, is_global=some))


def run(layer: nn.Module, states: Tensor, backward: bool) -> Tensor:
    """Once through the layer, and back if asked for."""
    layer.zero_grad()
    states = states.detach().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        out = layer(states)
    if backward:
        out.backward(torch.ones_like(out))
    return out.detach()


def seconds(layers: dict[str, nn.Module], states: Tensor, backward: bool, rounds: int) -> dict[str, float]:
    """The median CPU seconds of each layer; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(rounds + 1):
        for name, layer in layers.items():
            start = time.process_time()
            run(layer, states, backward)
            times[name].append(time.process_time() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def difference(tokens: int, chosen: int) -> str:
    """The largest difference of the output from a dense softmax under the same mask."""
    if tokens > LARGEST_DENSE_MASK:
        return "-"
    is_global = (torch.arange(tokens) < chosen).unsqueeze(0)
    three = [torch.randn(1, HEADS, tokens, DIM // HEADS) for _ in range(3)]
    visible = visible_pairs(torch.ones(1, tokens, dtype=torch.bool), window=WINDOW, is_global=is_global)
    expected = F.scaled_dot_product_attention(*three, attn_mask=visible.unsqueeze(1))
    return f"{(sparse_attention(*three, window=WINDOW, is_global=is_global) - expected).abs().max():.0e}"


def peak(name: str, tokens: int, chosen: int, backward: bool) -> float:
    """MB that a run adds to the peak of a process of its own."""
    arguments = [name, str(tokens), str(chosen), str(int(backward))]
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--peak", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(name: str, tokens: int, chosen: int, backward: bool) -> None:
    """In that process: what a short run needs is there already, so that only the length is counted."""
    run(build(name, 512, chosen), torch.randn(1, 512, DIM), backward)
    layer, states = build(name, tokens, chosen), torch.randn(1, tokens, DIM)
    before = high_water()
    run(layer, states, backward)
    print(high_water() - before)


def rows(lengths: Iterable[int], rounds: int) -> Iterable[list[str]]:
    """One row of the table for each length, without and with global tokens."""
    for tokens in lengths:
        for chosen in (0, GLOBALS):
            cells = [f"{tokens:,}", str(chosen), difference(tokens, chosen)]
            layers = {name: build(name, tokens, chosen) for name in ("ours", "dense", "longformer")}
            for backward in (False, True):
                taken = seconds(layers, torch.randn(1, tokens, DIM), backward, rounds)
                cells += [f"{1000 * taken['ours']:.0f} ms"]
                cells += [f"{taken[name] / taken['ours']:.2f}" for name in ("dense", "longformer")]
            for backward in (False, True):
                ours, dense = (peak(name, tokens, chosen, backward) for name in ("ours", "dense"))
                cells += [f"{ours:.0f} / {dense:.0f}"]
            yield cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 4096, 16384], help="multiples of 256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.peak:
        name, tokens, chosen, backward = options.peak
        return print_peak(name, int(tokens), int(chosen), backward == "1")
    print(f"{conditions(options.rounds)}\n")
    heads = ["tokens", "global", "difference", "forward", "x dense", "x Longformer"]
    heads += ["forward + backward", "x dense", "x Longformer", "MB forward", "MB forward + backward"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for cells in rows(options.lengths, options.rounds):
        print("| " + " | ".join(cells) + " |", flush=True)
    return None


if __name__ == "__main__":
    main()
