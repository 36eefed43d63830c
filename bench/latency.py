"""What adapters cost a decoder: prefill and decoding against the base alone, and against demonstrations in the prompt.

A decoder of random weights: what it says means nothing, what it takes is what one of that size takes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PixtralVisionConfig

from icl.adapters import HiFICLConfig, HyperICLConfig, MimICConfig, attach

SHOTS = 16
BARE = "zero-shot"
METHODS = {
    "hyper_icl": HyperICLConfig(),
    "hificl": HiFICLConfig(),
    "hificl, identity at the start": HiFICLConfig(start="identity"),
    "mimic": MimICConfig(),
}


def decoder(width: int, layers: int) -> Any:
    text = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        intermediate_size=4 * width,
        vocab_size=32000,
        max_position_embeddings=1 << 15,
    )
    vision = PixtralVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision)).eval()


@torch.inference_mode()
def prefill(model: Any, tokens: torch.Tensor) -> tuple[float, Any]:
    start = perf_counter()
    cache = model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values
    return perf_counter() - start, cache


@torch.inference_mode()
def decode(model: Any, cache: Any, steps: int) -> list[float]:
    """Seconds of each further token. The cache grows by them, and is cut back, so that all see the same."""
    taken = []
    for _ in range(steps):
        start = perf_counter()
        model(input_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
        taken.append(perf_counter() - start)
    cache.crop(-steps)
    return taken


def main(
    width: Annotated[int, typer.Option(help="Of the decoder.")] = 1024,
    layers: Annotated[int, typer.Option(help="Of the decoder.")] = 8,
    tokens: Annotated[int, typer.Option(help="Of a prompt, and of a demonstration.")] = 512,
    rounds: Annotated[int, typer.Option(help="In each of which all take their turn.")] = 15,
    steps: Annotated[int, typer.Option(help="Tokens decoded in a turn.")] = 8,
) -> None:
    """Measure in turns; ratios are medians of those within a round.

    Example: python bench/latency.py --width 128 --layers 2 --tokens 64 --rounds 3
    """
    model = decoder(width, layers)
    prompt = torch.randint(32000, (1, tokens), generator=torch.Generator().manual_seed(0))
    first, *others = METHODS
    adapters = attach(model, METHODS[first], first)
    for name in others:
        adapters.add([METHODS[name]], name)
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {BARE: adapters.off}
    ways |= {name: lambda name=name: adapters.use(name) for name in METHODS}
    before: dict[str, list[float]] = {name: [] for name in ways}
    after: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in track(range(-1, rounds), description="rounds"):
        # The first warms up. The order turns, so that nobody is always the one after the same other.
        names = list(ways)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            with ways[name]():
                seconds, cache = prefill(model, prompt)
                taken = decode(model, cache, steps)
            if round_ >= 0:
                before[name].append(seconds)
                after[name].append(median(taken))
    with adapters.off():
        shots, cache = prefill(model, prompt.repeat(1, SHOTS + 1))
        decoding = median(decode(model, cache, steps))
    demonstrated = f"{SHOTS}-shot"
    before[demonstrated], after[demonstrated] = [shots] * rounds, [decoding] * rounds
    table = Table("", "prefill ms", "of zero-shot", "decode ms a token", "of zero-shot")
    for name in before:
        # A ratio is of neighbours in time, so that what the machine does besides falls on both.
        figures = (
            (1e3 * median(own), median(a / b for a, b in zip(own, base)))
            for own, base in ((before[name], before[BARE]), (after[name], after[BARE]))
        )
        table.add_row(name, *(text for ms, ratio in figures for text in (f"{ms:.1f}", f"{ratio:.3f}")))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
