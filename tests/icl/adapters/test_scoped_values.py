"""Choices of threads and tasks that use one model at a time: their own, and never lost in silence."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from icl.adapters import (
    AdapterConfig,
    HierarchyBias,
    HierarchyBiasConfig,
    HyperICLConfig,
    attach,
)
from tests.icl import decoders
from tests.icl.decoders import in_thread, load_two


@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_threads_choose_for_themselves(config: AdapterConfig) -> None:
    model, adapters = load_two(config)
    prompts = {"a": decoders.prompt(2, 20), "b": decoders.prompt(2, 17, seed=4)}
    expected = {}
    for name, x in prompts.items():
        with adapters.use(name):
            expected[name] = decoders.answer(model, x)[1]
    wrong: list[float] = []

    def work(name: str) -> None:
        for _ in range(6):
            with adapters.use(name):
                wrong.append(float((decoders.answer(model, prompts[name])[1] - expected[name]).abs().max()))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 12
    assert max(wrong) < 1e-4


def test_a_choice_made_around_a_thread_is_not_lost_in_silence() -> None:
    """As streaming does: generate in a thread of its own."""
    model, adapters = load_two(HyperICLConfig())
    x = decoders.prompt(2)
    with adapters.use("b"):
        expected = decoders.answer(model, x)[1]
        error = in_thread(lambda: decoders.answer(model, x))
        assert isinstance(error, RuntimeError)
        assert "`use`" in str(error)
    adapters.activate("b")  # for all threads
    torch.testing.assert_close(in_thread(lambda: decoders.answer(model, x))[1], expected)

    def chosen() -> Tensor:
        with adapters.use("b"):
            return decoders.answer(model, x)[1]

    adapters.activate()
    with adapters.use("a"):
        torch.testing.assert_close(in_thread(chosen), expected)


def test_tasks_choose_for_themselves() -> None:
    model, adapters = load_two(HyperICLConfig())
    x = decoders.prompt(2)

    async def ask(name: str) -> Tensor:
        with adapters.use(name):
            await asyncio.sleep(0)
            assert adapters.active == (name,)
            logits = decoders.answer(model, x)[1]
            await asyncio.sleep(0)
        return logits

    async def both() -> list[Tensor]:
        return list(await asyncio.gather(ask("a"), ask("b"), ask("a")))

    results = asyncio.run(both())
    for name, logits in zip("aba", results):
        with adapters.use(name):
            torch.testing.assert_close(decoders.answer(model, x)[1], logits)
    assert adapters.active == ()


def test_threads_have_demonstrations_of_their_own() -> None:
    model = decoders.make()
    adapters = decoders.fill(attach(model, HierarchyBiasConfig()))
    (part,) = adapters["default"]
    assert isinstance(part, HierarchyBias)
    x = decoders.prompt(2)
    segments = torch.arange(14).expand(2, -1) // 5
    points = [torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]

    def ask(i: int) -> Tensor:
        with part.demonstrations(points[i], segments):
            return decoders.answer(model, x)[1]

    expected = [ask(0), ask(1)]
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    with part.demonstrations(points[0], segments):
        torch.testing.assert_close(in_thread(lambda: ask(1)), expected[1])
        assert isinstance(in_thread(lambda: decoders.answer(model, x)), RuntimeError)
        torch.testing.assert_close(decoders.answer(model, x)[1], expected[0])


def test_blocks_that_end_out_of_order_are_an_error() -> None:
    """As those of generators do, which yield inside of them."""
    _, adapters = load_two(HyperICLConfig())

    def held(name: str) -> Any:
        with adapters.use(name):
            yield adapters.active

    a, b = held("a"), held("b")
    assert [next(a), next(b)] == [("a",), ("b",)]
    with pytest.raises(RuntimeError, match="ended before another one that began inside of it"):
        a.close()
    with pytest.raises(RuntimeError, match="ended before another one that began inside of it"):
        b.close()
    assert adapters.active == ()


def test_what_is_in_use_stays_until_an_answer_ends() -> None:
    model, adapters = load_two(HyperICLConfig())
    x = decoders.prompt(2)
    adapters.activate("a")
    expected = decoders.answer(model, x)[1]

    def during(change: Callable[[], Any]) -> Tensor:
        calls: list[int] = []

        def watch(ids: Tensor, scores: Tensor) -> Tensor:
            calls.append(len(calls))
            if len(calls) == 2:
                in_thread(change)
            return scores

        return decoders.answer(model, x, logits_processor=[watch])[1]

    torch.testing.assert_close(during(lambda: adapters.activate("b")), expected)
    assert adapters.active == ("b",)
    adapters.activate("a")
    torch.testing.assert_close(during(lambda: attach(model, HyperICLConfig(), "c")), expected)
    adapters.activate("a")
    with pytest.raises(ValueError, match="a was removed while it was in use by generate"):
        during(lambda: adapters.remove("a"))
