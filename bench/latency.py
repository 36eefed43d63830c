"""What adapters cost a decoder: prefill and decoding against the base alone, and against demonstrations in the prompt.

A decoder of random weights: what it says means nothing, what it takes is what one of that size takes.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from icl.attention import internals

SHOTS = 16
BARE = "zero-shot"
METHODS = {
    "hyper_icl": HyperICLConfig(),
    "hificl": HiFICLConfig(),
    "hificl, identity at the start": HiFICLConfig(start="identity"),
    "mimic": MimICConfig(),
}


def decoder(width: int, layers: int) -> Any:
    """Return a decoder of random weights."""
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
def turn(model: Any, tokens: torch.Tensor, steps: int) -> tuple[float, float]:
    """Seconds of the prompt, and the median of those of each further token, all of which see the same cache."""
    start = perf_counter()
    cache: Any = internals.cache_in(internals.outputs_of(model(input_ids=tokens, use_cache=True, logits_to_keep=1)))
    parameters = internals.parameters_of(internals.forward_of(model.__class__))
    handed = {next(name for name in internals.CACHES if name in parameters): cache}
    prefill = perf_counter() - start
    taken = []
    for _ in range(steps):
        start = perf_counter()
        model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=True, **handed)
        taken.append(perf_counter() - start)
        cache.crop(-1)
    return prefill, median(taken)


def main(
    width: Annotated[int, typer.Option(help="Of the decoder.")] = 1024,
    layers: Annotated[int, typer.Option(help="Of the decoder.")] = 8,
    tokens: Annotated[int, typer.Option(help="Of a prompt, and of a demonstration.")] = 512,
    rounds: Annotated[int, typer.Option(help="In each of which all methods take their turn.")] = 15,
    steps: Annotated[int, typer.Option(help="Tokens decoded in a turn.")] = 8,
) -> None:
    """Measure in turns, zero-shot before and after each: a ratio is of a turn to the mean of these two.

    Example: python bench/latency.py --width 128 --layers 2 --tokens 64 --rounds 3
    """
    model = decoder(width, layers)
    prompt = torch.randint(32000, (1, tokens), generator=torch.Generator().manual_seed(0))
    first, *others = METHODS
    adapters = attach(model, METHODS[first], first)
    for name in others:
        adapters.add([METHODS[name]], name)

    def bare(tokens: torch.Tensor = prompt) -> tuple[float, float]:
        with adapters.off():
            return turn(model, tokens, steps)

    taken: dict[str, list[Sequence[float]]] = {name: [] for name in (BARE, *METHODS)}
    for round_ in track(range(-1, rounds), description="rounds"):
        before = bare()
        for name in METHODS:
            with adapters.use(name):
                own = turn(model, prompt, steps)
            after = bare()
            if round_ >= 0:  # the first warms up
                beside = [(a + b) / 2 for a, b in zip(before, after)]
                taken[BARE].append((*after, 1.0, 1.0))
                taken[name].append((*own, *(a / b for a, b in zip(own, beside))))
            before = after
    shots = bare(prompt.repeat(1, SHOTS + 1))
    taken[f"{SHOTS}-shot"] = [(*shots, *(a / b for a, b in zip(shots, before)))]
    table = Table("", "prefill ms", "decode ms a token", "prefill of zero-shot", "decode of zero-shot")
    for name, turns in taken.items():
        prefill, decode, *ratios = map(median, zip(*turns))
        table.add_row(name, f"{1e3 * prefill:.1f}", f"{1e3 * decode:.1f}", *(f"{ratio:.3f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
