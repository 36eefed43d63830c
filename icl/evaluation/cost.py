"""What an answer costs: time to the first token and to each further one, floating-point operations, and memory.

Everything is taken from ``generate`` with a prompt of its own, so it is what users of a model wait for, whatever its
family does around the decoder. Machines are slow and fast by turns; therefore a prompt is timed in turns with another,
zero-shot, whose times are kept beside its own: what is to be trusted is the ratio of the two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache as cached
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import GenerationConfig

from icl.attention import internals
from icl.evaluation.measurement import Cost

# At least and at most, as long as these seconds last; and tokens after the first.
ROUNDS, SECONDS, STEPS = (3, 20), 1.0, 8
Inputs = Mapping[str, Any]
Use = Callable[[], AbstractContextManager[Any]]
"""Gives the context that a model runs in, such as ``adapters.off``."""


def cost(model: nn.Module, inputs: Inputs, use: Use, zero_shot: tuple[Inputs, Use] | None = None) -> Cost:
    """Medians over rounds in which both prompts (``Collator.prompts``, of one example) take their turns.

    ``zero_shot`` is ``None`` for what is that itself.
    """
    runs = [(inputs, use)] if zero_shot is None else [(inputs, use), zero_shot]
    rounds: list[list[tuple[float, float]]] = []
    start = perf_counter()
    while len(rounds) <= ROUNDS[0] or (perf_counter() - start < SECONDS and len(rounds) <= ROUNDS[1]):
        rounds.append([])
        for prompt, context in runs:
            with context():
                first = _seconds(model, prompt, 1)
                rounds[-1].append((first, (_seconds(model, prompt, 1 + STEPS) - first) / STEPS))
    # of each prompt, (prefill, decode), without the first round, which warms up
    medians = [[median(kind) for kind in zip(*own)] for own in zip(*rounds[1:])]
    (prefill, decode), (prefill0, decode0) = medians[0], medians[-1]
    with use():
        peak = _peak(model, inputs)
        flops = [_flops(model, inputs, tokens) for tokens in (1, 2)]
        cached = internals.cache_in(internals.outputs_of(_generate(model, inputs, 2)))
    return Cost(
        tokens=inputs["input_ids"].shape[1],
        prefill_ms=1e3 * prefill,
        decode_ms=1e3 * decode,
        zero_prefill_ms=1e3 * prefill0,
        zero_decode_ms=1e3 * decode0,
        prefill_flops=flops[0],
        decode_flops=flops[1] - flops[0],
        cache_bytes=sum(t.nbytes for layer in cached.layers for t in (layer.keys, layer.values)),
        peak_bytes=peak,
    )


def _generate(model: Any, inputs: Inputs, tokens: int) -> Any:
    """Exactly so many."""
    config = greedy_config(model.generation_config)
    config.update(max_new_tokens=tokens, min_new_tokens=tokens, return_dict_in_generate=True)
    return model.generate(**inputs, generation_config=config)


def greedy_config(config: GenerationConfig) -> GenerationConfig:
    """The model's own, without what draws or searches."""
    config = copy.deepcopy(config)
    config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, max_length=None)
    return config


def _seconds(model: Any, inputs: Inputs, tokens: int) -> float:
    _wait(model)
    start = perf_counter()
    _generate(model, inputs, tokens)
    _wait(model)
    return perf_counter() - start


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _peak(model: Any, inputs: Inputs) -> int | None:
    if model.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    _generate(model, inputs, 1)
    return torch.cuda.max_memory_allocated()


def _flops(model: nn.Module, inputs: Inputs, tokens: int) -> int:
    """Of matrix products, convolutions and attention, which torch counts as if nothing were masked."""
    _probe_counter()
    with _frozen(model), _counter() as counter:
        _generate(model, inputs, tokens)
    return int(counter.get_total_flops())


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={internals.cpu_attention(): _sdpa_on_cpu})


@cached
def _probe_counter() -> None:
    """Attention on a CPU ends in an operator that is torch's own, and would be left out under another name."""
    pair = torch.zeros(1, 1, 2, 8)
    with _counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(pair, pair, pair)
    if counter.get_total_flops() != 2 * 2 * 2 * 2 * 8:
        raise RuntimeError(f"cost: torch {torch.__version__} computes attention by an operator that is not counted")


def _sdpa_on_cpu(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """The counter looks for gradients of all that requires one, also where none are computed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
