"""The container: how adapters are chosen, what generation and training do with them, and that they come off whole."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from icl.adapters import AdapterConfig, Adapters, HiFICLConfig, HyperICLConfig, MimICConfig, attach, attached
from tests.icl import literal, zoo
from tests.icl.adapted import CONFIGS, GREEDY, ROUNDING, close, frozen, generate, run, strengthen

METHODS = ["hyper token", "hificl", "mimic", "all"]
HYPER, HIFICL, MIMIC = HyperICLConfig(), HiFICLConfig(), MimICConfig()


@pytest.fixture(params=zoo.FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel]:
    return request.param, zoo.make(request.param)


def test_detached_models_are_what_they_were(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    trainable = list(model.parameters())[::2]
    for parameter in trainable:
        parameter.requires_grad_(False)
    x = zoo.inputs(name)
    run(model, x)  # transformers puts hooks of its own on the first pass

    def state() -> Any:
        configs = [m.config for m in model.modules() if isinstance(m, PreTrainedModel)]
        return (
            {key: value.clone() for key, value in model.state_dict().items()},
            [c._attn_implementation for c in configs],
            [
                (k, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m.__dict__))
                for k, m in model.named_modules()
            ],
            [p.requires_grad for p in model.parameters()],
            json.loads(model.config.to_json_string(use_diff=False)),
        )

    before = state()
    for _ in range(2):
        adapters = strengthen(attach(model, CONFIGS["all"]))
        adapters.add([MIMIC], "other")
        assert not any(p.requires_grad for k, p in model.named_parameters() if not k.startswith("icl_adapters"))
        assert all(p.requires_grad for p in adapters.parameters())
        run(model, x)
        model.generate(**x, **GREEDY)
        adapters.detach()
        after = state()
        assert attached(model) is None
        assert before[0].keys() == after[0].keys()
        assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
        assert before[1:] == after[1:]


# Padding, caches and requests.


@pytest.mark.parametrize("what", [*METHODS, "hificl identity", "hificl added", "hyper output"])
def test_padding_changes_nothing(family: tuple[str, PreTrainedModel], what: str) -> None:
    name, model = family
    stock = run(model, zoo.inputs(name, batch=3, length=21, images=2))
    strengthen(attach(model, CONFIGS[what]))
    x = zoo.inputs(name, batch=3, length=21, images=2)
    together = run(model, x)
    assert (together - stock)[:, -1].abs().max() > 1e-2
    for row, length in enumerate(x["attention_mask"].sum(1).tolist()):
        close(together[row, -length:], run(model, zoo.alone(x, row))[0], ROUNDING, f"row {row}")


@pytest.mark.parametrize("what", METHODS)
def test_cached_generation_is_uncached_generation(family: tuple[str, PreTrainedModel], what: str) -> None:
    name, model = family
    x = zoo.inputs(name)
    stock = generate(model, x)
    strengthen(attach(model, CONFIGS[what]))
    uncached = generate(model, x, use_cache=False)
    assert (uncached - stock).abs().max() > 1e-2
    close(generate(model, x), uncached, ROUNDING, "dynamic")
    close(generate(model, x, cache_implementation="static"), uncached, ROUNDING, "static")
    beams = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2, "return_dict_in_generate": True}
    cached, uncached = (model.generate(**x, **beams, output_scores=True, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, uncached.sequences)
    close(cached.sequences_scores, uncached.sequences_scores, ROUNDING, "beams")


def test_each_request_has_its_own_adapters(family: tuple[str, PreTrainedModel]) -> None:
    """Each method on every fourth family."""
    name, model = family
    a = ["hyper token", "hificl", "hificl identity", "mimic"][list(zoo.FAMILIES).index(name) % 4]
    x = zoo.inputs(name, batch=3, length=20)
    valid = x["attention_mask"].bool()
    adapters = attach(model, CONFIGS[a], "a")
    adapters.add(CONFIGS["others"], "b")
    strengthen(adapters)
    rows = ["a", None, ("a", "b")]
    each, answers, beams = [], [], []
    by_beams = {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}
    for row, names in enumerate([("a",), (), ("a", "b")]):
        with adapters.use(*names):
            each.append(run(model, x)[row])
            answers.append(generate(model, x)[:, row])
            beams.append(model.generate(**x, **by_beams)[row])
    assert min(float((each[i] - run(model, x)[i])[-1].abs().max()) for i in (0, 1)) > 1e-2
    with adapters.use(rows=rows):
        assert adapters.active == [("a",), (), ("a", "b")]
        close(run(model, x)[valid], torch.stack(each)[valid], ROUNDING, "forward")
        close(generate(model, x), torch.stack(answers, 1), ROUNDING, "generate")
        assert torch.equal(model.generate(**x, **by_beams), torch.stack(beams))


def test_a_batch_of_another_size_is_refused() -> None:
    model, x = frozen(), zoo.inputs("idefics2", batch=3)
    adapters = attach(model, HYPER)
    with adapters.use(rows=["default", None]), pytest.raises(ValueError, match="rows has 2 choices for a batch of 3"):
        run(model, x)


# Training.


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("what", METHODS)
def test_checkpointing_changes_no_gradient(
    family: tuple[str, PreTrainedModel], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model = family
    adapters = strengthen(attach(model, CONFIGS[what]))
    asked = count(monkeypatch)
    x = zoo.inputs(name)
    x |= {"labels": zoo.labels(x), **zoo.positions(x)}
    model.train()

    def gradients() -> list[Tensor]:
        adapters.zero_grad()
        asked.clear()
        model(**x, use_cache=False).loss.backward()
        return [p.grad.clone() for p in adapters.parameters()]

    before, once = gradients(), len(asked)
    model.gradient_checkpointing_enable()
    after = gradients()
    targets = len(literal.targets(model))
    # Every layer once more in the backward pass.
    assert len(asked) - once >= targets
    assert all(g.abs().max() > 0 for g in before)
    for key, a, b in zip([k for k, _ in adapters.named_parameters()], after, before, strict=True):
        close(a, b, ROUNDING, key)


def count(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with each call of our attention."""
    asked: list[None] = []
    ours = ALL_ATTENTION_FUNCTIONS["icl_s"]

    def counting(*args: Any, **kwargs: Any) -> Any:
        asked.append(None)
        return ours(*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "icl_s", counting)
    return asked


def test_adapters_stay_wide_over_a_narrow_base(family: tuple[str, PreTrainedModel]) -> None:
    """Each method on every fourth family."""
    name, model = family
    what = METHODS[list(zoo.FAMILIES).index(name) % 4]
    x = zoo.inputs(name)
    x |= {"labels": zoo.labels(x), **zoo.positions(x)}
    adapters = attach(model, CONFIGS[what])
    torch.manual_seed(0)
    strengthen(adapters)
    wide = float(model(**x).loss.detach())
    assert_trains(model, adapters, x, wide, autocast=True)
    strengthen(adapters)
    state = {key: value.clone() for key, value in adapters.state_dict().items()}
    adapters.detach()
    model.to(torch.bfloat16)
    x["pixel_values"] = x["pixel_values"].to(torch.bfloat16)
    adapters = attach(model, CONFIGS[what])
    adapters.load_state_dict(state)
    assert_trains(model, adapters, x, wide, autocast=False)
    assert {p.dtype for k, p in model.named_parameters() if not k.startswith("icl_")} == {torch.bfloat16}


def assert_trains(model: PreTrainedModel, adapters: Adapters, x: zoo.Inputs, wide: float, autocast: bool) -> None:
    """From about the loss of float32 downwards."""
    optimizer = torch.optim.Adam(adapters.parameters(), 1e-2)
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**x).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in adapters.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert abs(losses[0] - wide) < 0.1
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in adapters.parameters())


def test_compiled_models_say_the_same() -> None:
    model, x = frozen("llava", num_hidden_layers=1), zoo.inputs("llava")
    valid = x["attention_mask"].bool()
    adapters = strengthen(attach(model, CONFIGS["all"]))
    wanted = run(model, x)[valid]
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    close(run(compiled, x)[valid], wanted, ROUNDING, "compiled")
    with adapters.off():
        off = run(model, x)[valid]
        close(run(compiled, x)[valid], off, ROUNDING, "compiled, off")
    assert (off - wanted).abs().max() > 1e-2


# Which are loaded, and which in use.


def test_adapters_are_loaded_swapped_and_removed() -> None:
    model, x = frozen(), zoo.inputs("idefics2")
    base = run(model, x)
    adapters = strengthen(attach(model, HYPER, "a"))
    a = run(model, x)
    assert attach(model, [HIFICL, MIMIC], "b") is adapters is attached(model)
    assert (adapters.names, adapters.active) == (("a", "b"), ("b",))
    assert [part.config for part in adapters["b"]] == [HIFICL, MIMIC]
    with torch.no_grad():
        for weight in adapters.loaded["b"].parameters():
            weight.copy_(torch.randn_like(weight))
    b = run(model, x)
    adapters.activate("a", "b")
    both = run(model, x)

    def fail_inside() -> None:
        with adapters.use("b", "a"):
            assert torch.equal(run(model, x), both)
            raise RuntimeError("inside")

    with adapters.use("a"):
        assert torch.equal(run(model, x), a)
        with adapters.off():
            assert adapters.active == ()
            assert torch.equal(run(model, x), base)
            with adapters.use("b"):
                assert torch.equal(run(model, x), b)
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
        assert adapters.active == ("a",)
        assert torch.equal(run(model, x), a)
    assert adapters.active == ("a", "b")
    assert len({float(o[0, -1, -1]) for o in (base, a, b, both)}) == 4
    with adapters.use("b"):
        adapters.remove("a")
        assert torch.equal(run(model, x), b)
    assert (adapters.names, adapters.active) == (("b",), ("b",))
    adapters.remove("b")
    assert torch.equal(run(model, x), base)
    adapters.add([HYPER], "a")
    assert adapters.active == ("a",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda a: a.activate("x"), "there is no 'x', but default"),
        (lambda a: a.remove("x"), "there is no 'x', but default"),
        (lambda a: a["x"], "there is no 'x', but default"),
        (lambda a: a.use("default", "x").__enter__(), "there is no 'x', but default"),
        (lambda a: a.use(rows=["x"]).__enter__(), "there is no 'x', but default"),
        (lambda a: a.use(rows=[]).__enter__(), "rows with one choice a request"),
        (lambda a: a.use("default", rows=["default"]).__enter__(), "names for all requests, or rows"),
        (lambda a: attach(a.model, HYPER), "name must be new and without dots, got 'default' with .'default'. loaded"),
        (lambda a: attach(a.model, HYPER, "a.b"), "without dots, got 'a.b'"),
        (lambda a: attach(a.model, HYPER, ""), "name must be new"),
        (lambda a: attach(a.model, [], "b"), "config must be one or several configurations"),
        (lambda a: attach(a.model, ["hyper_icl"], "b"), "config must be one or several configurations"),
        (lambda a: attach(a.model, HyperICLConfig(layers=(3,)), "b"), "layers must be from 0 to 2, got 3"),
        (lambda a: attach(torch.nn.Linear(2, 2), HYPER), "model must be one of transformers .* got Linear"),
        (lambda a: HyperICLConfig(rank=0), "rank must be a whole number of 1 or more, got 0"),
        (lambda a: HyperICLConfig(gate="heads"), "gate must be one of token, head, layer, got 'heads'"),
        (lambda a: HyperICLConfig(correct="values"), "correct must be one of scores, output, got 'values'"),
        (lambda a: HiFICLConfig(tokens=1.5), "tokens must be a whole number of 1 or more, got 1.5"),
        (lambda a: HiFICLConfig(factorise="all"), "factorise must be one of both, keys, values, none, got 'all'"),
        (lambda a: HiFICLConfig(start="zero"), "start must be one of paper, identity, got 'zero'"),
        (lambda a: HiFICLConfig(mass="none"), "mass must be one of shared, added, got 'none'"),
        (lambda a: HiFICLConfig(mass="added", start="identity"), 'start must be "paper"'),
        (lambda a: MimICConfig(direction="token"), "direction must be one of head, layer, got 'token'"),
        (lambda a: MimICConfig(mass="key"), "mass must be one of query, constant, got 'key'"),
        (lambda a: AdapterConfig.from_dict({"method": "peft"}), "method must be one of .*hificl.*, got 'peft'"),
        (lambda a: AdapterConfig.from_dict({"method": "mimic", "r": 4}), "mimic: there is no 'r', only direction"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(wrong: Callable[[Adapters], Any], message: str) -> None:
    model = frozen()
    adapters = attach(model, HYPER)
    with pytest.raises(ValueError, match=message):
        wrong(adapters)
    assert attached(model) is adapters
    assert (adapters.names, adapters.active) == (("default",), ("default",))


def test_a_copy_is_independent() -> None:
    model, x = frozen(), zoo.inputs("idefics2")
    adapters = strengthen(attach(model, CONFIGS["all"]))
    before = run(model, x)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, x), before)
    others = attached(twin)
    assert others is not adapters
    assert others.model is twin
    strengthen(others, seed=1)
    changed = run(twin, x)
    assert (changed - before).abs().max() > 1e-2
    assert torch.equal(run(model, x), before)
    others.detach()
    assert torch.equal(run(model, x), before)
    with adapters.off():
        assert torch.equal(run(twin, x), run(model, x))


@pytest.mark.parametrize("whole", [True, False])
def test_the_implementation_can_change_underneath(family: tuple[str, PreTrainedModel], whole: bool) -> None:
    name, model = family
    x = zoo.inputs(name)
    valid = x["attention_mask"].bool()
    adapters = strengthen(attach(model, CONFIGS["all"]))
    before = run(model, x)[valid]
    decoder = model.get_decoder()
    for implementation, ours in (("eager", "icl_e"), ("sdpa", "icl_s")):
        if whole:
            model.set_attn_implementation(implementation)
        else:
            decoder.set_attn_implementation({"": implementation})
        close(run(model, x)[valid], before, ROUNDING, implementation)
        assert decoder.config._attn_implementation == ours
    decoder.set_attn_implementation({"": "eager"})
    adapters.detach()
    assert decoder.config._attn_implementation == "eager"


def test_models_that_share_a_configuration_keep_theirs_apart(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    twin = type(model)(model.config)
    twin.load_state_dict(model.state_dict())
    twin.eval()
    x = zoo.inputs(name)
    adapters = strengthen(attach(model, CONFIGS["all"]))
    on = run(model, x)
    attach(twin, HIFICL).detach()
    assert torch.equal(run(model, x), on)
    strengthen(attach(twin, CONFIGS["all"]), seed=1)
    adapters.detach()
    with torch.no_grad():
        off = run(twin, x)
    assert (off - on)[:, -1].abs().max() > 1e-2
    attached(twin).activate()
    close(run(twin, x), run(model, x), ROUNDING, "off")
