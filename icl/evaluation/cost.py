"""The cost of an answer: time to the first token and to each further one, floating-point operations, and memory.

Everything is taken from ``generate`` with one prompt, so it is what users of a model wait for, whatever its family
does around the decoder. Machines are slow and fast by turns; therefore a prompt is timed in turns with a zero-shot
one, whose times are kept beside its own: what is to be trusted is the ratio of the two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import GenerationConfig

from icl.attention import internals
from icl.evaluation.measurement import Cost

# The least and the most rounds, which go on for so many seconds; and tokens after the first.
ROUNDS, SECONDS, STEPS = (3, 20), 1.0, 8
Inputs = Mapping[str, Any]
Use = Callable[[], AbstractContextManager[Any]]
"""Returns the context that a model runs in, such as ``adapters.off``."""


def measure_cost(model: nn.Module, inputs: Inputs, use: Use, zero_shot: tuple[Inputs, Use] | None = None) -> Cost:
    """Return medians over rounds in which a prompt and the zero-shot prompt take turns.

    Args:
        model: in evaluation mode.
        inputs: the prompt of one example, as :meth:`icl.prompts.Collator.prompts` returns it.
        use: the context that ``inputs`` are answered in.
        zero_shot: the other prompt and its context; ``None`` where ``inputs`` are zero-shot themselves.
    """
    prompts = [(inputs, use)] if zero_shot is None else [(inputs, use), zero_shot]
    rounds: list[list[tuple[float, float]]] = []
    start = perf_counter()
    while len(rounds) <= ROUNDS[0] or (perf_counter() - start < SECONDS and len(rounds) <= ROUNDS[1]):
        rounds.append([])
        for prompt, context in prompts:
            with context():
                first = _time_answer(model, prompt, 1)
                rounds[-1].append((first, (_time_answer(model, prompt, 1 + STEPS) - first) / STEPS))
    # (prefill, decode) of each prompt, without the first round, which warms up
    medians = [[1e3 * median(times) for times in zip(*turns)] for turns in zip(*rounds[1:])]
    (prefill, decode), (zero_prefill, zero_decode) = medians[0], medians[-1]
    with use():
        peak = _measure_peak(model, inputs)
        flops = [_count_flops(model, inputs, tokens) for tokens in (1, 2)]
        cached = internals.cache_in(internals.outputs_of(_generate(model, inputs, 2)))
    return Cost(
        tokens=inputs["input_ids"].shape[1],
        prefill_ms=prefill,
        decode_ms=decode,
        zero_prefill_ms=zero_prefill,
        zero_decode_ms=zero_decode,
        prefill_flops=flops[0],
        decode_flops=flops[1] - flops[0],
        cache_bytes=sum(t.nbytes for layer in cached.layers for t in (layer.keys, layer.values)),
        peak_bytes=peak,
    )


def greedy_config(config: GenerationConfig) -> GenerationConfig:
    """Return a copy of a model's generation configuration that neither samples nor searches."""
    config = copy.deepcopy(config)
    config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, max_length=None)
    return config


def _generate(model: Any, inputs: Inputs, tokens: int) -> Any:
    config = greedy_config(model.generation_config)
    config.update(max_new_tokens=tokens, min_new_tokens=tokens, return_dict_in_generate=True)
    return model.generate(**inputs, generation_config=config)


def _time_answer(model: Any, inputs: Inputs, tokens: int) -> float:
    def synchronized_clock() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter()

    start = synchronized_clock()
    _generate(model, inputs, tokens)
    return synchronized_clock() - start


def _measure_peak(model: Any, inputs: Inputs) -> int | None:
    if model.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    _generate(model, inputs, 1)
    return torch.cuda.max_memory_allocated()


def _count_flops(model: nn.Module, inputs: Inputs, tokens: int) -> int:
    """Count matrix products, convolutions and attention, which torch counts as if nothing were masked."""
    _check_flop_counter()
    with _without_gradients(model), _flop_counter() as counter:
        _generate(model, inputs, tokens)
    return int(counter.get_total_flops())


def _flop_counter() -> FlopCounterMode:
    def count_attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    return FlopCounterMode(display=False, custom_mapping={internals.cpu_attention(): count_attention})


@cache
def _check_flop_counter() -> None:
    """Raise if attention on a CPU is not counted: it ends in torch's own operator, which may get another name."""
    pair = torch.zeros(1, 1, 2, 8)
    with _flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(pair, pair, pair)
    if counter.get_total_flops() != 2 * 2 * 2 * 2 * 8:
        raise RuntimeError(f"cost: torch {torch.__version__} computes attention by an operator that is not counted")


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient, which the counter looks for also where none are computed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
