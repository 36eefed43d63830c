"""Bases that are wrapped, offloaded, copied, saved whole, or used from several threads: right, or refused."""

from __future__ import annotations

import asyncio
import copy
import inspect
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from icl.adapters import (
    AdapterConfig,
    Adapters,
    HierarchyBias,
    HierarchyBiasConfig,
    HyperICLConfig,
    LoRAConfig,
    TaskVectorConfig,
    attach,
    attached,
)
from icl.attention.internals import CHECKPOINTING
from tests.icl import decoders

# peft asks models by names that transformers has given up.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def labelled(x: dict[str, Tensor]) -> Tensor:
    return x["input_ids"].masked_fill(torch.arange(14) < 9, -100)


def with_peft(model: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "peft": with_peft,
    "compile": compiled,
    "both": lambda model: compiled(with_peft(model)),
}


@pytest.mark.parametrize(
    ("wrapper", "config"),
    [
        *(("peft", config) for config in decoders.METHODS),
        # one of each kind: at the end of the prompt, in attention, and in projections
        *((wrapper, decoders.METHODS[i]) for wrapper in ("compile", "both") for i in (0, 3, 6)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.method,
)
def test_wrapped_bases_answer_as_the_base_does(wrapper: str, config: AdapterConfig) -> None:
    torch._dynamo.reset()
    model, x = decoders.make(), decoders.prompt(2)
    decoders.fill(attach(model, config))
    expected = decoders.answer(model, x)[1]
    wrapped = WRAPPERS[wrapper](decoders.make())
    adapters = decoders.fill(attach(wrapped, config))
    assert attached(wrapped) is adapters
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)
    labels = labelled(x)
    with torch.no_grad():
        torch.testing.assert_close(wrapped(**x, labels=labels).loss, model(**x, labels=labels).loss, **TOLERANCE)
    adapters.detach()
    bare = decoders.answer(decoders.make(), x)[1]
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], bare, **TOLERANCE)


def test_adapters_that_peft_has_frozen_are_not_trained_in_silence() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, HyperICLConfig()))
    expected = decoders.answer(model, x)[1]
    wrapped = with_peft(model)
    with pytest.raises(ValueError, match=r"peft has frozen them.*call get_peft_model first, then attach"):
        wrapped(**x, labels=labelled(x))
    # which is no reason not to answer
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)
    adapters.requires_grad_(True)
    wrapped(**x, labels=labelled(x)).loss.backward()
    assert all(p.grad is not None for p in adapters.parameters())


def test_prompt_learning_of_peft_is_refused() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="must not have prompts of peft"):
        attach(peft.get_peft_model(decoders.make(), config), HyperICLConfig())


def test_what_replaces_linear_maps_leaves_adapters_alone() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, [LoRAConfig(), HyperICLConfig()]))
    expected, names = decoders.answer(model, x)[1], [n for n, _ in adapters.named_parameters()]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    assert [n for n, _ in adapters.named_parameters()] == names
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)


# Weights that are elsewhere until they are needed.


def to_cpu(model: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def to_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def by_map(model: Any, folder: Path) -> Any:
    places: dict[str, Any] = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)}
    places |= {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder))


@pytest.mark.filterwarnings("ignore:.*offload.*")
@pytest.mark.parametrize("move", [to_cpu, to_disk, by_map])
@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_offloaded_bases(config: AdapterConfig, move: Callable[..., Any], tmp_path: Path) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    plain = decoders.fill(attach(model, config))
    expected = decoders.answer(model, x)[1]
    bare = decoders.answer(decoders.make(), x)[1]
    assert (expected - bare).abs().max() > 0.05
    away = move(decoders.make(), tmp_path / "away")
    adapters = decoders.fill(attach(away, config))
    assert not any(value.is_meta for value in [*adapters.parameters(), *adapters.buffers()])
    torch.testing.assert_close(decoders.answer(away, x)[1], expected, **TOLERANCE)
    # a base is told by values, wherever they lie
    plain.save_pretrained(tmp_path / "saved")
    Adapters.from_pretrained(away, tmp_path / "saved", "again")
    with pytest.raises(ValueError, match="trained on another base"):
        Adapters.from_pretrained(move(decoders.make(seed=1), tmp_path / "other"), tmp_path / "saved")


def test_adapters_that_are_offloaded_with_their_base_are_refused() -> None:
    model, x = decoders.make(), decoders.prompt()
    for config in (HyperICLConfig(), LoRAConfig()):
        decoders.fill(attach(model, config))
        away = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        with pytest.raises(ValueError, match=r"parameters have been offloaded.*dispatch the model first"):
            away(**x)
        model = decoders.make()


# Whole models.


@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_a_whole_model_is_saved_and_loaded(config: AdapterConfig, tmp_path: Path) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, config))
    expected = decoders.answer(model, x)[1]
    with adapters.off():
        bare = decoders.answer(model, x)[1]

    other = decoders.make(seed=1)
    attach(other, config)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(decoders.answer(other, x)[1], expected, rtol=0, atol=0)

    model.save_pretrained(tmp_path / "with state", state_dict=model.state_dict())
    model.save_pretrained(tmp_path)
    for folder in (tmp_path, tmp_path / "with state"):
        again, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        again.generation_config = model.generation_config
        again.requires_grad_(False).eval()
        torch.testing.assert_close(decoders.answer(again, x)[1], bare, **TOLERANCE)
        Adapters.from_pretrained(again, folder / "adapters" / "default")
        torch.testing.assert_close(decoders.answer(again, x)[1], expected, **TOLERANCE)
    assert attached(model) is adapters
    torch.testing.assert_close(decoders.answer(model, x)[1], expected, rtol=0, atol=0)


def test_copies_and_pickles_are_models_of_their_own() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    decoders.fill(attach(model, [HyperICLConfig(), LoRAConfig(), TaskVectorConfig(layers=(1,))]))
    expected = decoders.answer(model, x)[1]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(decoders.answer(twin, x)[1], expected, rtol=0, atol=0)
        others = attached(twin)
        assert others is not None
        assert others.model is twin
        decoders.fill(others, seed=6)
        assert (decoders.answer(twin, x)[1] - expected).abs().max() > 0.05
        torch.testing.assert_close(decoders.answer(model, x)[1], expected, rtol=0, atol=0)


def test_methods_of_the_model_look_as_they_did_and_come_back() -> None:
    model = decoders.make()

    def own(*args: Any, **kwargs: Any) -> str:
        return "own"

    signature = inspect.signature(model.generate)
    adapters = attach(model, HyperICLConfig())
    assert inspect.signature(model.generate) == signature
    assert model.generate.__doc__ == type(model).generate.__doc__
    adapters.detach()
    assert not {"generate", "save_pretrained"} & model.__dict__.keys()
    model.generate = own  # by somebody else
    adapters = attach(model, HyperICLConfig())
    assert model.generate(torch.ones(1, 1, dtype=torch.long)) == "own"
    adapters.detach()
    assert model.generate is own


# Several threads and tasks.


def two(config: AdapterConfig) -> tuple[Any, Adapters]:
    model = decoders.make()
    adapters = attach(model, config, "a")
    adapters.add([config], "b")
    decoders.fill(adapters)
    adapters.activate()
    return model, adapters


@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_threads_choose_for_themselves(config: AdapterConfig) -> None:
    model, adapters = two(config)
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


def in_thread(call: Callable[[], Any]) -> BaseException | Any:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_a_choice_made_around_a_thread_is_not_lost_in_silence() -> None:
    """As streaming does: generate in a thread of its own."""
    model, adapters = two(HyperICLConfig())
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
    model, adapters = two(HyperICLConfig())
    x = decoders.prompt(2)

    async def ask(name: str) -> Tensor:
        with adapters.use(name):
            await asyncio.sleep(0)
            assert adapters.active == (name,)
            found = decoders.answer(model, x)[1]
            await asyncio.sleep(0)
        return found

    async def both() -> list[Tensor]:
        return list(await asyncio.gather(ask("a"), ask("b"), ask("a")))

    found = asyncio.run(both())
    for name, logits in zip("aba", found):
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


def test_a_backward_pass_in_another_thread_sees_the_pass_that_it_belongs_to() -> None:
    """As autograd's own threads do on a GPU, where checkpointed layers are computed again."""
    model = decoders.make().train()
    adapters = decoders.fill(attach(model, [HyperICLConfig(), TaskVectorConfig(layers=(1,))]))
    x = decoders.prompt(2)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")(**{f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}})
        adapters.zero_grad()
        with adapters.use("default"):
            loss = model(**x, labels=labelled(x), use_cache=False).loss
        in_thread(loss.backward)
        gradients.append([p.grad.clone() for p in adapters.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(adapters.parameters()))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_no_pass_holds_on_to_what_was_recorded() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = attach(model, HyperICLConfig())
    with adapters.record() as seen:
        model(**x)
    assert len(seen.hidden) == 4
    assert adapters.step.record is None
    model(**x)
    assert len(seen.hidden) == 4
    assert isinstance(seen.hidden[0], Tensor)


class Wrapped(nn.Module):
    """A model in a model of somebody's own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **kwargs: Any) -> Any:
        return self.model(**kwargs)


def test_a_wrapper_that_nobody_knows_is_refused_or_calls_the_model() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    with pytest.raises(ValueError, match="model must be one of transformers with a text decoder, got Wrapped"):
        attach(Wrapped(model), HyperICLConfig())
    decoders.fill(attach(model, HyperICLConfig()))
    with torch.no_grad():
        assert torch.equal(Wrapped(model)(**x).logits, model(**x).logits)


def test_blocks_that_end_out_of_order_are_an_error() -> None:
    """As those of generators do, which yield inside of them."""
    _, adapters = two(HyperICLConfig())

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


def test_layers_that_two_models_share_have_one_set_of_adapters() -> None:
    model = decoders.make()
    attach(model, HyperICLConfig())
    with pytest.raises(ValueError, match="have adapters already, attached to a model that shares them"):
        attach(model.model, HyperICLConfig())
    assert attached(model.model) is None
    attached(model).detach()  # type: ignore[union-attr]
    attach(model.model, HyperICLConfig()).detach()


@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_adapters_stay_float32_when_their_model_does_not(config: AdapterConfig) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, config))
    before = {name: value.clone() for name, value in adapters.state_dict().items()}
    for narrow in (model.bfloat16, model.half):
        narrow()
        assert all(torch.equal(value, before[name]) for name, value in adapters.state_dict().items())
    model.bfloat16()
    assert decoders.answer(model, x)[1].isfinite().all()


def test_states_that_the_model_tells_are_those_of_its_layers() -> None:
    """Also where it was asked for them before adapters were attached, and watches its layers since."""
    x = decoders.prompt(2)
    for first in (True, False):
        model = decoders.make()
        if first:
            model(**x, output_hidden_states=True)
        adapters = decoders.fill(attach(model, TaskVectorConfig(layers=(1,))))
        vector = adapters.state_dict()["loaded.default.0.layers.1.vector"]
        states = model(**x, output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[2][:, -1], vector.expand(2, -1))


def test_what_is_in_use_stays_until_an_answer_ends() -> None:
    model, adapters = two(HyperICLConfig())
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


def test_lora_that_would_not_act_or_cannot_tell_is_refused() -> None:
    x = decoders.prompt(2)
    model = decoders.make()
    decoders.fill(attach(model, LoRAConfig(targets=("up_proj",))))
    model.model.layers[1].mlp = copy.deepcopy(decoders.make().model.layers[1].mlp)
    with pytest.raises(ValueError, match=r"projection mlp.up_proj of lora .* decoder layer 1 ran in a way"):
        model(**x)
    model = decoders.make()
    model.model.layers[2].mlp = model.model.layers[1].mlp
    with pytest.raises(ValueError, match="found one linear map in several decoder layers"):
        attach(model, LoRAConfig(targets=("up_proj",)))


def test_attention_with_more_than_a_mask_is_not_recorded() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {**decoders.TEXT, "head_dim": 16, "sliding_window": 200, "attn_logit_softcapping": 1.0}
    model: Any = Gemma2ForCausalLM(Gemma2Config(**sizes)).eval()
    model.set_attn_implementation("eager")
    adapters = attach(model, HyperICLConfig())
    x = decoders.prompt(2)
    places = torch.tensor([[13], [13]])
    with adapters.record(attention=places), pytest.raises(ValueError, match="is more than a softmax of scaled"):
        model(**x)


def test_adapters_are_loaded_onto_wrapped_bases(tmp_path: Path) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    decoders.fill(attach(model, HyperICLConfig())).save_pretrained(tmp_path)
    expected = decoders.answer(model, x)[1]
    wrapped = with_peft(decoders.make())
    Adapters.from_pretrained(wrapped, tmp_path)
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)
