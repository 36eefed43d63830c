"""The hierarchy bias against a T x T matrix that is added to the scores, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from icl.adapters import Adapters, HierarchyBias, HierarchyBiasConfig, HyperICLConfig, attach
from icl.attention.internals import CHECKPOINTING
from tests.icl import literal, zoo
from tests.icl.adapted import begin

KINDS = ("neg_dist", "inverse", "bilinear")
LENGTH, SEGMENTS, NEW = 20, 3, 4
CURVATURE = 0.7
_NAME = "bias_matrix"


def demonstrations(x: zoo.Inputs) -> tuple[Tensor, Tensor]:
    """Points of the segments, and thirds of each prompt, which padding and every fifth token are not in."""
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(len(x["input_ids"]), SEGMENTS, 4, generator=generator)
    mask = x["attention_mask"]
    place = mask.cumsum(1) - 1
    segments = place * SEGMENTS // mask.sum(1, keepdim=True)
    return points, segments.where((mask > 0) & (place % 5 > 0), -1)


def weights(model: PreTrainedModel) -> Tensor:
    """(L, H)"""
    generator = torch.Generator().manual_seed(6)
    config = model.config.get_text_config()
    return torch.randn(config.num_hidden_layers, config.num_attention_heads, generator=generator)


def relation(points: Tensor, kind: str) -> Tensor:
    """H from the definition of the inner product."""
    x, c = points.double(), CURVATURE
    time = (1 / c + x.square().sum(-1)).sqrt()
    inner = x @ x.mT - time[:, :, None] * time[:, None]
    itself = torch.eye(SEGMENTS, dtype=torch.bool)
    dist = torch.acosh((-c * inner).masked_fill(itself, 2)).masked_fill(itself, 0) / math.sqrt(c)
    return {"neg_dist": -dist, "inverse": 1 / (1 + dist), "bilinear": c * inner}[kind]


def bias_matrix(points: Tensor, segments: Tensor, kind: str, tokens: int) -> Tensor:
    """(B, tokens, tokens): H of each pair of tokens, those after the prompt in its last segment."""
    H = relation(points, kind)
    rows = []
    for row, of_row in enumerate(segments.tolist()):
        of = of_row + [of_row[-1]] * (tokens - len(of_row))
        zero = H.new_zeros(())
        rows.append(torch.stack([torch.stack([H[row, i, j] if min(i, j) >= 0 else zero for j in of]) for i in of]))
    return torch.stack(rows)


def install(model: PreTrainedModel, lambdas: Tensor, matrix: Tensor) -> None:
    """Has a stock model add it. For passes without a cache."""
    layers = {module: lambdas[at].double() for at, (_, module) in enumerate(literal.targets(model))}

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        groups, T = query.shape[1] // key.shape[1], query.shape[2]
        key, value = (a.repeat_interleave(groups, 1).double() for a in (key, value))
        scores = scaling * query.double() @ key.mT
        if module in layers:
            bias = layers[module][:, None, None] * matrix[:, None, :T, :T]
            scores = scores + bias.repeat_interleave(len(query) // len(matrix), 0)
        if mask is not None:
            scores = scores + mask
        return (scores.softmax(-1) @ value).transpose(1, 2).to(query.dtype), None

    AttentionInterface.register(_NAME, forward)
    AttentionMaskInterface.register(_NAME, eager_mask)
    model.get_decoder().set_attn_implementation({"": _NAME})


def attach_bias(model: PreTrainedModel, kind: Any = "neg_dist") -> tuple[Adapters, HierarchyBias]:
    adapters = attach(model, HierarchyBiasConfig(kind=kind, c=CURVATURE))
    part = cast(HierarchyBias, adapters["default"][0])
    with torch.no_grad():
        for layer, values in zip(part.layers.values(), weights(model)):
            layer.weight.copy_(values)
    return adapters, part


def real(x: zoo.Inputs, logits: Tensor) -> Tensor:
    """Without padding, for which there is nothing to compare."""
    return logits[x["attention_mask"] > 0]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_is_a_matrix_added_to_the_scores(family: tuple[str, PreTrainedModel], kind: Any, implementation: str) -> None:
    name, model = family
    model.get_decoder().set_attn_implementation({"": implementation})
    x = zoo.inputs(name, length=LENGTH)
    demos = demonstrations(x)
    with torch.no_grad():
        plain = model(**x).logits
        adapters, hierarchy = attach_bias(model, kind)
        with hierarchy.demonstrations(*demos):
            out = model(**x).logits
        assert torch.equal(model(**x).logits, plain)
        adapters.detach()
        install(model, weights(model), bias_matrix(*demos, kind, LENGTH))
        wanted = model(**x).logits
    torch.testing.assert_close(real(x, out), real(x, wanted), rtol=1e-5, atol=2e-5)
    assert (real(x, wanted) - real(x, plain)).abs().max() > 0.01


@pytest.mark.parametrize("settings", [{}, {"cache_implementation": "static"}, {"num_beams": 2}], ids=str)
def test_generation(family: tuple[str, PreTrainedModel], settings: dict[str, Any]) -> None:
    name, model = family
    x = zoo.inputs(name, length=LENGTH)
    demos = demonstrations(x)
    greedy = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    adapters, hierarchy = attach_bias(model)
    with torch.no_grad():
        with hierarchy.demonstrations(*demos):
            out = model.generate(**x, **greedy, **settings)
        adapters.detach()
        install(model, weights(model), bias_matrix(*demos, "neg_dist", LENGTH + NEW))
        beams = settings.get("num_beams", 1)
        wanted = model.generate(**x, **greedy, use_cache=False, num_beams=beams)
    assert torch.equal(out.sequences, wanted.sequences)
    torch.testing.assert_close(torch.stack(out.logits), torch.stack(wanted.logits), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(kind: Any, checkpointing: bool) -> None:
    model = zoo.make("llava")
    x = zoo.inputs("llava", length=LENGTH)
    labels = zoo.labels(x)
    points, segments = demonstrations(x)
    points.requires_grad_()
    adapters, hierarchy = attach_bias(model, kind)
    if checkpointing:
        getattr(model, f"{CHECKPOINTING}_enable")()
        model.train()
    with hierarchy.demonstrations(points, segments):
        for _ in range(2):  # more than one pass
            loss = model(**x, labels=labels, use_cache=False).loss
        gradients = torch.autograd.grad(loss, [points, *hierarchy.parameters()])
    adapters.detach()
    lambdas = weights(model).requires_grad_()
    install(model.eval(), lambdas, bias_matrix(points, segments, kind, LENGTH))
    wanted = torch.autograd.grad(model(**x, labels=labels).loss, [points, lambdas])
    torch.testing.assert_close(gradients[0], wanted[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.stack(gradients[1:]), wanted[1], rtol=1e-4, atol=1e-6)
    assert wanted[0].abs().max() > 1e-4


def test_starts_as_the_identity_and_has_one_parameter_a_head(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = zoo.inputs(name, length=LENGTH)
    with torch.no_grad():
        plain = model(**x).logits
        adapters = attach(model, HierarchyBiasConfig())
        with cast(HierarchyBias, adapters["default"][0]).demonstrations(*demonstrations(x)):
            torch.testing.assert_close(real(x, model(**x).logits), real(x, plain), rtol=0, atol=1e-5)
    assert sum(p.numel() for p in adapters.parameters()) == 12


def test_factors_are_as_long_as_there_are_segments() -> None:
    model = zoo.make("idefics2")
    adapters, hierarchy = attach_bias(model)
    points, segments = torch.randn(1, 5, 3), torch.arange(64)[None] // 13
    with hierarchy.demonstrations(points, segments):
        begin(adapters)
        left, right = cast(Any, hierarchy.at(0)).score_bias(torch.randn(2, 4, 64, 8), 64)
    assert left.shape == (2, 4, 64, 5)
    assert right.shape == (2, 1, 64, 5)
    adapters.detach()


def test_requests_choose(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = zoo.inputs(name, length=LENGTH)
    adapters, hierarchy = attach_bias(model)
    with torch.no_grad(), hierarchy.demonstrations(*demonstrations(x)):
        biased = model(**x).logits
        with adapters.off():
            plain = model(**x).logits
        with adapters.use(rows=["default", None]):
            mixed = model(**x).logits
    wanted = torch.stack([biased[0], plain[1]])
    torch.testing.assert_close(real(x, mixed), real(x, wanted), rtol=0, atol=1e-5)


def test_saved_and_loaded_beside_others(tmp_path: Path) -> None:
    model = zoo.make("gemma3")
    x = zoo.inputs("gemma3", length=LENGTH)
    adapters = attach(model, [HyperICLConfig(), HierarchyBiasConfig(kind="inverse", c=2.0, layers=(0, 2))])
    with torch.no_grad():
        for weight in adapters.parameters():
            weight.normal_()

    def logits(adapters: Adapters) -> Tensor:
        hierarchy = cast(HierarchyBias, adapters["default"][1])
        with torch.no_grad(), hierarchy.demonstrations(*demonstrations(x)):
            return cast(Tensor, adapters.model(**x).logits)

    out = logits(adapters)
    adapters.save_pretrained(tmp_path)
    adapters.detach()
    again = Adapters.from_pretrained(model, tmp_path)
    assert again["default"][1].config == HierarchyBiasConfig(kind="inverse", c=2.0, layers=(0, 2))
    assert torch.equal(logits(again), out)


def test_half_precision_base() -> None:
    model = zoo.make("idefics2").bfloat16()
    x = zoo.inputs("idefics2", length=LENGTH)
    x["pixel_values"] = x["pixel_values"].bfloat16()
    adapters, hierarchy = attach_bias(model)
    with torch.no_grad(), hierarchy.demonstrations(*demonstrations(x)):
        out = model(**x).logits
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    assert all(p.dtype == torch.float32 for p in adapters.parameters())


def test_errors() -> None:
    with pytest.raises(ValueError, match="kind must be one of neg_dist, inverse, bilinear, got 'cosine'"):
        HierarchyBiasConfig(kind=cast(Any, "cosine"))
    for c in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="c must be a finite number above 0, got"):
            HierarchyBiasConfig(c=c)
    model = zoo.make("llava")
    _, hierarchy = attach_bias(model)
    points, segments = torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.long)
    cases = [
        (points[0], segments, ValueError, r"points and segments must be \(B, S, D\) and \(B, T\), got \(3, 4\)"),
        (points, segments[:1], ValueError, r"must be \(B, S, D\) and \(B, T\)"),
        (points, segments[:, :0], ValueError, r"must be \(B, S, D\) and \(B, T\)"),
        (points.long(), segments, TypeError, "points must be floating point and segments integers, got torch.int64"),
        (points, segments > 0, TypeError, "segments integers, got torch.float32 and torch.bool"),
        (points, segments + 3, ValueError, "segments must be from -1 to 2, got 3 to 3"),
        (points, segments - 2, ValueError, "segments must be from -1 to 2, got -2 to -2"),
    ]
    for p, s, kind, message in cases:
        with pytest.raises(kind, match=message), hierarchy.demonstrations(p, s):
            pass
    x, message = zoo.inputs("llava", batch=3), "told for 2 prompts, got a batch of 3"
    with hierarchy.demonstrations(points, segments), pytest.raises(ValueError, match=message):
        model(**x)
