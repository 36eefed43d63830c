"""Ways to answer, measured on the testbed, and measured again where anything has changed."""

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
from icl.data.examples import Example
from icl.evaluation.evaluator import AnsweringMode, Evaluation
from icl.evaluation.metrics.scoring import METRICS, MetricScore
from icl.evaluation.result_tables import markdown_tables
from icl.evaluation.results import Results
from icl.prompts.collator import Collator
from icl.testbed.accuracy import answer_task
from icl.testbed.tasks import load_split

N = 20


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an answer costs is not what is tested here."""
    for name, value in (("SECONDS", 0), ("ROUNDS", (1, 1)), ("STEPS", 1)):
        monkeypatch.setattr(f"icl.evaluation.cost.{name}", value)


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
        right = answer_task(model, processor, list(rows), prompt)
        cell = Evaluation(model, processor, batch_size=7).measure(
            "options", AnsweringMode(method, examples, prompt=prompt)
        )
        assert sum(cell.scores["exact"].rows or ()) == right
        assert cell.scores["exact"].value == right / len(rows)
        assert cell.ids == tuple(rows["id"])


def test_adapter_answers_in_use_and_only_then(loaded: Any, examples: list[Example]) -> None:
    model, processor = loaded
    evaluation = Evaluation(model, processor)
    plain = evaluation.measure("t", AnsweringMode("zero-shot", examples))
    adapters = attach(model, HiFICLConfig(), "virtual")
    with torch.no_grad():
        for p in adapters.parameters():
            p.normal_()
    changed = evaluation.measure("t", AnsweringMode("hificl", examples, adapter="virtual", teacher=examples[:4]))
    again = Evaluation(model, processor).measure("t", AnsweringMode("zero-shot", examples))
    assert again.answers == plain.answers != changed.answers
    assert changed.distances is not None
    assert adapters.active == ("virtual",)
    adapters.detach()
    with pytest.raises(ValueError, match="no adapters, and 'virtual'"):
        evaluation.measure("t", AnsweringMode("hificl", examples[:2], adapter="virtual"))


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
    assert (found.geodesic, found.l2) == (0.0, 0.0)
    assert found.attention == pytest.approx(0.0, abs=1e-6)


def test_answers_end_where_the_template_ends_a_turn(loaded: Any, examples: list[Example]) -> None:
    """Also where the model's configuration does not know of it, as those of base models do not."""
    model, processor = loaded
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    said = [
        answer
        for _, answer in Evaluation(model, processor).answers(AnsweringMode("k-shot", examples, prompt="teacher"))
    ]
    assert said[:3] == [example.answer for example in examples[:3]]


def test_answer_is_the_first_line(loaded: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation(*loaded)
    monkeypatch.setattr(evaluation.collator.tokenizer, "batch_decode", lambda *_, **__: [" \n a cat \nUser: what"] * 2)
    assert [said for _, said in evaluation.answers(AnsweringMode("zero-shot", examples[:2]))] == ["a cat"] * 2


def test_measured_once(loaded: Any, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = loaded
    sizes = generated(model, monkeypatch)
    file, mode = tmp_path / "out" / "results.json", AnsweringMode("zero-shot", examples)
    first = Evaluation(model, processor, Results(file)).measure("t", mode)
    assert [size for size in sizes if size > 1] == [16, 4]  # of one prompt the costs are taken
    sizes.clear()
    assert Evaluation(model, processor, Results(file)).measure("t", mode) == first
    # another metric takes the answers that are there
    both = Evaluation(model, processor, Results(file), metrics=("exact", "cider")).measure("t", mode)
    assert not sizes
    assert set(both.scores) == {"exact", "cider"}
    assert both.scores["exact"] == first.scores["exact"]
    assert len(Results(file).measurements) == 1
    # other prompts are another choice
    others = [*examples[:-1], replace(examples[-1], student=examples[-1].teacher)]
    Evaluation(model, processor, Results(file)).measure("t", replace(mode, examples=others))
    assert len(Results(file).measurements) == 2


def swapped(example: Example, other: Example) -> Example:
    """The same messages with the images of another."""
    image = next(part for part in other.student[-1]["content"] if part["type"] == "image")
    parts = [image if part["type"] == "image" else part for part in example.student[-1]["content"]]
    return replace(example, student=[*example.student[:-1], {"role": "user", "content": parts}])


def reworded(example: Example, other: Example) -> Example:
    parts = [*example.student[-1]["content"], {"type": "text", "text": "apple"}]
    return replace(example, student=[*example.student[:-1], {"role": "user", "content": parts}])


@pytest.mark.parametrize("change", [swapped, reworded])
def test_change_in_the_middle_is_answered_anew(change: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt that is neither the first nor the last; the right answers are those of a fresh evaluation."""
    rows = [Example.from_task(row) for row in load_split("last_block", "test").select(range(7))]
    rows = [replace(row, teacher=row.student) for row in rows]
    evaluation = Evaluation(*loaded, max_new_tokens=2)
    evaluation.measure("t", AnsweringMode("zero-shot", rows))
    other = change(rows[3], rows[5])
    changed = AnsweringMode("zero-shot", [*rows[:3], replace(other, teacher=other.student), *rows[4:]])
    sizes = generated(loaded[0], monkeypatch)
    found = evaluation.measure("t", changed)
    assert 7 in sizes
    assert found.answers == Evaluation(*loaded, max_new_tokens=2).measure("t", changed).answers
    sizes.clear()
    evaluation.measure("t", changed)
    assert not sizes


def test_reference_in_the_middle_is_scored_anew(loaded: Any, examples: list[Example]) -> None:
    evaluation = Evaluation(*loaded)
    mode = AnsweringMode("k-shot", examples[:5], prompt="teacher", shots=16)
    assert evaluation.measure("t", mode).scores["exact"].rows == (1, 1, 1, 1, 1)
    wrong = replace(examples[2], answer="lemon", references=("lemon",))
    found = evaluation.measure("t", replace(mode, examples=[*examples[:2], wrong, *examples[3:5]]))
    assert found.scores["exact"].rows == (1, 1, 0, 1, 1)


@pytest.mark.parametrize("changed", ["tokens", "penalty", "chat_template", "image_mean", "base", "adapter"])
def test_other_settings_and_weights_are_another_choice(changed: str, loaded: Any, examples: list[Example]) -> None:
    model, processor = loaded
    adapters = attach(model, HyperICLConfig(), "a")
    mode = AnsweringMode("hyper_icl", examples[:2], adapter="a")
    first = Evaluation(model, processor).measure("t", mode)
    limit = 32
    if changed == "tokens":
        limit = 31
    elif changed == "penalty":
        model.generation_config.repetition_penalty = 1.5
    elif changed == "chat_template":
        processor.chat_template = "one " + processor.chat_template
    elif changed == "image_mean":
        processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    else:
        values = list((model.model.text_model if changed == "base" else adapters).parameters())[-1]
        with torch.no_grad():
            values.view(-1)[len(values.view(-1)) // 2] += 1
    assert Evaluation(model, processor, max_new_tokens=limit).measure("t", mode).choice != first.choice


def test_answers_are_kept_where_scoring_fails(
    loaded: Any, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> MetricScore:
        raise RuntimeError("no such object")

    file, mode = tmp_path / "results.json", AnsweringMode("zero-shot", examples[:3])
    with monkeypatch.context() as patch:
        patch.setattr("icl.evaluation.evaluator.METRICS", {**METRICS, "chair_i": fail})
        with pytest.raises(RuntimeError, match="no such object"):
            Evaluation(*loaded, Results(file), metrics=("exact", "chair_i")).measure("t", mode)
    (kept,) = Results(file).measurements
    assert set(kept.scores) == {"exact"}
    sizes = generated(loaded[0], monkeypatch)
    found = Evaluation(*loaded, Results(file), metrics=("exact", "chair_i")).measure("t", mode)
    assert found.answers == kept.answers
    assert not sizes


def test_metric_that_lacks_references_is_told_before_an_answer(
    loaded: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = generated(loaded[0], monkeypatch)
    for rows, message in (
        (examples[:3], "vqa compares with 2 answers or more, and 3 of 3 rows"),
        ([], "must have rows"),
    ):
        with pytest.raises(ValueError, match=message):
            Evaluation(*loaded, metrics=("exact", "vqa")).measure("t", AnsweringMode("zero-shot", rows))
    assert not sizes


def test_distances_are_to_the_teacher_that_is_asked_for(loaded: Any, examples: list[Example]) -> None:
    evaluation = Evaluation(*loaded)
    mode = AnsweringMode("zero-shot", examples[:3])
    assert evaluation.measure("t", mode).distances is None
    for teacher in (examples[:3], [replace(e, teacher=[*e.teacher[-5:]]) for e in examples[:3]]):
        found = evaluation.measure("t", replace(mode, teacher=teacher))
        assert found.distances == evaluation.distances(teacher, None)
        assert len(evaluation.results.measurements) == 1


def test_second_choice_on_a_test_set_is_told(loaded: Any, examples: list[Example]) -> None:
    model, processor = loaded
    adapters = attach(model, HyperICLConfig(), "a")
    evaluation = Evaluation(model, processor)
    mode = AnsweringMode("hyper_icl", examples[:4], adapter="a")
    evaluation.measure("t", mode)
    assert [row["test_reads"] for row in evaluation.results.rows()] == [1]
    assert "| once |" in markdown_tables(evaluation.results.rows())
    with torch.no_grad():
        next(iter(adapters.parameters())).add_(1)
    evaluation.measure("t", mode)
    assert [row["test_reads"] for row in evaluation.results.rows()] == [2]
    assert "| for 2 choices |" in markdown_tables(evaluation.results.rows())
    # another test set is another
    evaluation.measure("t", replace(mode, examples=examples[4:8]))
    assert [row["test_reads"] for row in evaluation.results.rows()] == [2]


def test_file_has_each_answer(loaded: Any, examples: list[Example], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Evaluation(*loaded, Results(file)).measure("t", AnsweringMode("k-shot", examples[:3], prompt="teacher", shots=16))
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
    with pytest.raises(ValueError, match=f"1 of 2 rows have fewer: example {unknown.id} has 0"):
        Evaluation(*loaded).measure("t", AnsweringMode("zero-shot", [examples[0], unknown]))
