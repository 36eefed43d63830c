"""What an answer costs, against sums on paper."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from icl import testbed
from icl.adapters import HyperICLConfig, attach
from icl.evaluation.cost import STEPS, greedy_config, measure_cost

L, D, MLP, V = 4, 64, 128, 82


@pytest.fixture(scope="module")
def model() -> Any:
    return testbed.load()[0]


def prompt(tokens: int) -> dict[str, torch.Tensor]:
    """Words alone, so that the decoder is all there is."""
    ids = torch.arange(20, 20 + tokens)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_operations_and_cache_are_those_of_the_decoder(model: Any) -> None:
    n = 24
    found = measure_cost(model, prompt(n), nullcontext)
    weights = L * (4 * D * D + 3 * D * MLP)
    # each weight once a token and each pair of tokens twice, 2 operations each; the vocabulary for the last token alone
    assert found.prefill_flops == pytest.approx(2 * n * weights + 2 * V * D + 2 * L * 2 * n * n * D, rel=0.005)
    assert found.decode_flops == pytest.approx(2 * weights + 2 * V * D + 2 * L * 2 * (n + 1) * D, rel=0.005)
    assert found.cache_bytes == 2 * L * (n + 1) * D * 4
    assert found.tokens == n
    assert found.peak_bytes is None or torch.cuda.is_available()
    assert (found.zero_prefill_ms, found.zero_decode_ms) == (found.prefill_ms, found.decode_ms)


def test_prompts_take_turns_in_their_own_contexts(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    inside: list[str] = []

    @contextmanager
    def use(name: str) -> Iterator[None]:
        inside.append(name)
        yield
        inside.pop()

    generate = model.generate

    def counted(**kwargs: Any) -> Any:
        out = generate(**kwargs)
        calls.append((*inside, out.sequences.shape[1] - kwargs["input_ids"].shape[1]))
        return out

    monkeypatch.setattr(model, "generate", counted)
    measure_cost(model, prompt(8), lambda: use("adapter"), (prompt(4), lambda: use("zero")))
    assert calls[:4] == [("adapter", 1), ("adapter", 1 + STEPS), ("zero", 1), ("zero", 1 + STEPS)]
    assert calls[4:8] == calls[:4]
    assert {name for name, _ in calls[-3:]} == {"adapter"}


def test_rank_adds_its_operations(model: Any) -> None:
    n, H, dh = 16, 2, 32
    before = measure_cost(model, prompt(n), nullcontext).prefill_flops
    adapters = attach(model, HyperICLConfig(rank=4))
    try:
        found = measure_cost(model, prompt(n), lambda: adapters.use("default"))
        assert measure_cost(model, prompt(n), adapters.off).prefill_flops == before
    finally:
        adapters.detach()
    # two factors and a gate for each head
    assert found.prefill_flops - before == 2 * n * L * H * (2 * dh * 4 + dh)
    assert all(p.requires_grad for p in model.parameters())


def test_greedy_keeps_what_is_not_about_drawing() -> None:
    config = testbed.load()[0].generation_config
    config.update(do_sample=True, temperature=0.3, num_beams=4, max_length=99)
    made = greedy_config(config)
    assert (made.do_sample, made.temperature, made.num_beams, made.max_length) == (False, None, 1, None)
    assert made.eos_token_id == config.eos_token_id
    assert config.do_sample
