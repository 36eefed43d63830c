"""Ways to answer measured on the testbed, and the table that is made of what was measured."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import layer_norm

from icl import testbed
from icl.adapters import HiFICLConfig, HyperICLConfig, attach, attached
from icl.captions import bleu4, cider_d
from icl.cost import Cost
from icl.evaluate import METRICS, Evaluation, Way, digest_of
from icl.examples import Example
from icl.prompt import Collator
from icl.results import Cell, Distances, Results, Score
from icl.testbed.evaluate import on_task
from icl.testbed.tasks import load_split

N = 20


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an answer costs is not what is tested here."""
    monkeypatch.setattr("icl.cost.SECONDS", 0)


@pytest.fixture
def loaded() -> Any:
    return testbed.load()


@pytest.fixture(scope="module")
def rows() -> Any:
    return load_split("options", "test").select(range(N))


@pytest.fixture(scope="module")
def examples(rows: Any) -> list[Example]:
    return [Example.from_task(row) for row in rows]


def generated(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that are answered; costs are taken of one prompt."""
    sizes: list[int] = []
    generate = model.generate

    def counted(**kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", counted)
    return sizes


def test_score_is_the_share_that_the_testbed_counts(loaded: Any, rows: Any, examples: list[Example]) -> None:
    model, processor = loaded
    for prompt, method in (("student", "zero-shot"), ("teacher", "k-shot")):
        right, total = on_task(model, processor, rows, prompt)
        cell = Evaluation(model, processor, batch_size=7).measure("options", Way(method, examples, prompt=prompt))
        assert sum(cell.scores["exact"].rows or ()) == right
        assert cell.scores["exact"].value == right / total
        assert cell.ids == tuple(rows["id"])


def test_adapter_answers_in_use_and_only_then(loaded: Any, examples: list[Example]) -> None:
    model, processor = loaded
    evaluation = Evaluation(model, processor)
    plain = evaluation.measure("t", Way("zero-shot", examples))
    adapters = attach(model, HiFICLConfig(), "virtual")
    with torch.no_grad():
        for p in adapters.parameters():
            p.normal_()
    changed = evaluation.measure("t", Way("hificl", examples, adapter="virtual", teacher=examples[:4]))
    again = Evaluation(model, processor).measure("t", Way("zero-shot", examples))
    assert again.answers == plain.answers != changed.answers
    assert changed.distances is not None
    assert adapters.active == ("virtual",)
    adapters.detach()
    with pytest.raises(ValueError, match="no adapters, and 'virtual'"):
        evaluation.measure("t", Way("hificl", examples[:2], adapter="virtual"))


def test_distances_are_those_of_the_layers_outputs(loaded: Any, examples: list[Example]) -> None:
    model, processor = loaded
    batch = Collator(processor)(examples[:3])
    outputs: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
    for role, states in outputs.items():
        hooks = [
            layer.register_forward_hook(lambda m, a, out, states=states: states.append(out))
            for layer in model.model.text_model.layers
        ]
        inputs = {name: value for name, value in batch[role].items() if name != "labels"}
        with torch.no_grad():
            model(**inputs)
        for hook in hooks:
            hook.remove()
    square = geodesic = count = 0.0
    c, width = 0.1, 64
    for s, t in zip(*(outputs[role] for role in ("student", "teacher"))):
        for i, aligned in enumerate(batch["aligned"]):
            u, v = (
                layer_norm(h[i, batch[f"{role}_positions"][i][aligned]].double(), (width,)) / width**0.5
                for h, role in ((s, "student"), (t, "teacher"))
            )
            square += float((u - v).square().sum())
            # cosh of the distance, from points on the hyperboloid in Minkowski's product
            a, b = (x.norm(dim=1) * c**0.5 for x in (u, v))
            cosh = a.cosh() * b.cosh() - a.sinh() * b.sinh() * torch.cosine_similarity(u, v)
            geodesic += float((cosh.clamp(min=1).acosh() ** 2 / c).sum())
            count += len(u)
    found = Evaluation(model, processor, batch_size=2).distances(examples[:3], None)
    assert found.l2 == pytest.approx(math.sqrt(square / count), rel=1e-3)
    assert found.geodesic == pytest.approx(math.sqrt(geodesic / count), rel=1e-3)
    assert found.attention > 0
    assert attached(model) is None


def test_a_student_with_the_teachers_prompt_is_at_distance_zero(loaded: Any, examples: list[Example]) -> None:
    same = [replace(example, teacher=example.student) for example in examples[:2]]
    found = Evaluation(*loaded).distances(same, None)
    assert found == Distances(0.0, 0.0, pytest.approx(0.0, abs=1e-6))


def test_answers_end_where_the_template_ends_a_turn(loaded: Any, examples: list[Example]) -> None:
    """Also where the model's configuration does not know of it, as those of base models do not."""
    model, processor = loaded
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    said = [answer for _, answer in Evaluation(model, processor).answers(Way("k-shot", examples, prompt="teacher"))]
    assert said[:3] == [example.answer for example in examples[:3]]


def test_answer_is_the_first_line(loaded: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation(*loaded)
    monkeypatch.setattr(evaluation.collator.tokenizer, "batch_decode", lambda *_, **__: [" \n a cat \nUser: what"] * 2)
    assert [said for _, said in evaluation.answers(Way("zero-shot", examples[:2]))] == ["a cat"] * 2


def test_measured_once(loaded: Any, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = loaded
    sizes = generated(model, monkeypatch)
    file, way = tmp_path / "out" / "results.json", Way("zero-shot", examples)
    first = Evaluation(model, processor, Results(file)).measure("t", way)
    assert sizes[:2] == [16, 4]
    sizes.clear()
    assert Evaluation(model, processor, Results(file)).measure("t", way) == first
    # another metric takes the answers that are there
    both = Evaluation(model, processor, Results(file), metrics=("exact", "cider")).measure("t", way)
    assert not sizes
    assert set(both.scores) == {"exact", "cider"}
    assert both.scores["exact"] == first.scores["exact"]
    assert len(Results(file).cells) == 1
    # other prompts are another choice
    others = [*examples[:-1], replace(examples[-1], student=examples[-1].teacher)]
    Evaluation(model, processor, Results(file)).measure("t", replace(way, examples=others))
    assert len(Results(file).cells) == 2


def test_second_choice_on_a_test_set_is_told(loaded: Any, examples: list[Example]) -> None:
    model, processor = loaded
    adapters = attach(model, HyperICLConfig(), "a")
    evaluation = Evaluation(model, processor)
    way = Way("hyper_icl", examples[:4], adapter="a")
    evaluation.measure("t", way)
    assert [row["test_reads"] for row in evaluation.results.rows()] == [1]
    assert "| once |" in evaluation.results.markdown()
    with torch.no_grad():
        next(iter(adapters.parameters())).add_(1)
    evaluation.measure("t", way)
    assert [row["test_reads"] for row in evaluation.results.rows()] == [2]
    assert "| for 2 choices |" in evaluation.results.markdown()
    # another test set is another
    evaluation.measure("t", replace(way, examples=examples[4:8]))
    assert [row["test_reads"] for row in evaluation.results.rows()] == [2]


def test_digest_is_of_ids_and_references(examples: list[Example]) -> None:
    assert digest_of(examples) == digest_of([replace(e, teacher=e.student) for e in examples])
    assert digest_of(examples) != digest_of(examples[1:])
    assert digest_of(examples) != digest_of([replace(examples[0], references=("other",)), *examples[1:]])


def test_metrics_are_those_of_their_evaluators() -> None:
    said = ["a dog and a cat", "two red buses", "a man"]
    right = [["a dog on a couch", "a dog"], ["a bus"], ["a woman with a dog", "a person"]]
    assert METRICS["cider"](said, right).rows == tuple(cider_d(said, right))
    assert METRICS["bleu4"](said, right) == Score(bleu4(said, right), None)
    # of dog, cat, bus and person the cat is in no reference
    assert METRICS["chair_s"](said, right) == Score(pytest.approx(1 / 3), (1.0, 0.0, 0.0))
    assert METRICS["chair_i"](said, right) == Score(1 / 4, None)
    assert METRICS["exact"](said, right).rows == (0, 0, 0)
    assert METRICS["vqa"](["dog"], [["dog"] * 3 + ["cat"] * 7]).value == pytest.approx(0.9)


def cell(method: str, seed: int, *right: float, **more: Any) -> Cell:
    taken = Cost(10, 2.0, 1.0, more.pop("prefill", 1.0), 1.0, 4_000_000, 1000, 2000, None)
    values = {
        "shots": 0, "strategy": None, "test": "t", "choice": "c", "ids": ("x",) * len(right), "parameters": 0,
        "train_seconds": None, "note": None, "cost": taken, "distances": None,
    }  # fmt: skip
    scores = {"exact": Score(sum(right) / len(right), right)}
    return Cell("task", method, seed=seed, answers=("",) * len(right), scores=scores, **{**values, **more})


def test_intervals_are_for_seeds_where_there_are_some_else_for_examples(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    for seed, right in enumerate(([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0])):
        results.add(cell("several", seed, *right, train_seconds=10.0 * seed))
    results.add(cell("right or wrong", 0, *[1.0] * 10))
    results.add(cell("shares", 0, 0.3, 0.6, 0.9))
    several, binary, shares = Results(tmp_path / "results.json").rows()
    half = 4.302653 * 0.25 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert (several["exact"], several["interval_of"], several["seeds"]) == (0.75, "seeds", 3)
    assert several["train_seconds"] == 10
    assert several["exact_low"] == pytest.approx(0.75 - half)
    assert several["exact_high"] == pytest.approx(0.75 + half)
    z2 = 1.959964**2
    assert (binary["interval_of"], binary["exact_high"]) == ("examples", 1)
    assert binary["exact_low"] == pytest.approx(10 / (10 + z2))  # Wilson's, where all are right
    assert shares["exact_low"] == pytest.approx(0.6 - 4.302653 * 0.3 / math.sqrt(3))


def test_cost_is_compared_with_the_most_demonstrations() -> None:
    results = Results()
    results.add(cell("zero-shot", 0, 0.0))
    results.add(cell("k-shot", 0, 1.0, shots=4, strategy="random", prefill=4.0))
    results.add(cell("k-shot", 0, 1.0, shots=16, strategy="random", prefill=8.0))
    results.add(cell("adapter", 0, 1.0, prefill=1.2, parameters=2312))
    assert [row["prefill_of_k_shot"] for row in results.rows()] == [1 / 8, 4 / 8, 1, pytest.approx(0.15)]
    lines = list(csv.DictReader(io.StringIO(results.csv())))
    assert [line["method"] for line in lines] == ["zero-shot", "k-shot", "k-shot", "adapter"]
    assert lines[3]["prefill_of_zero_shot"] == "1.2"
    worth, paid = results.tables()
    assert [column.header for column in worth.columns][:4] == ["task", "method", "shots", "exact"]
    # what is nowhere known has no column
    assert "peak MB" not in [column.header for column in paid.columns]
    assert "| adapter | 0 | 2,312 |" in results.markdown()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ('{"format": 9}', "its format is 9"), ('{"format": 1, "cells": [{}]}', "cannot be read")],
)
def test_file_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Results(tmp_path / "results.json")


def test_file_has_each_answer(loaded: Any, examples: list[Example], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Evaluation(*loaded, Results(file)).measure("t", Way("k-shot", examples[:3], prompt="teacher", shots=16))
    (found,) = json.loads(file.read_text())["cells"]
    assert found["answers"] == [example.answer for example in examples[:3]]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("bleu",)}, "metrics must be of exact, vqa, .* got bleu"),
        ({"metrics": ()}, "got none"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str, loaded: Any) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(*loaded, **options)


def test_example_without_an_answer_is_named(loaded: Any, examples: list[Example]) -> None:
    unknown = replace(examples[1], answer=None, references=())
    with pytest.raises(ValueError, match=f"example {unknown.id} has no answer"):
        Evaluation(*loaded).measure("t", Way("zero-shot", [examples[0], unknown]))
