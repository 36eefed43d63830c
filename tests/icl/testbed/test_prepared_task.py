"""What trials share: the same examples and the same sums as the long way round, by tables, processor and images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from icl.data.examples import Example
from icl.prompts.batches import BatchMerger
from icl.prompts.collator import Collator
from icl.testbed import images, load, load_task
from icl.testbed.accuracy import answer_task
from icl.testbed.prepared_task import BASES, PreparedTask, load_examples
from icl.testbed.tasks import TASKS
from icl.testbed.trials import TRIALS, AccuracyBound, Trial, training_examples

TRIAL = Trial("", "options", (), data=6)


@pytest.fixture(scope="module")
def ground() -> PreparedTask:
    return PreparedTask("options", 1)


@pytest.mark.parametrize("task", ["options", "set_conflict", "unseen_classes"])
def test_examples_are_those_of_the_table(task: str) -> None:
    wanted = [Example.from_task(row) for row in load_task(task, 1)["dev"].select(range(5))]
    for mine, example in zip(load_examples(task, "dev", 1), wanted):
        assert (mine.id, mine.answer, mine.references) == (example.id, example.answer, example.references)
        for prompt in ("teacher", "student"):
            for a, b in zip(getattr(mine, prompt), getattr(example, prompt), strict=True):
                assert a["role"] == b["role"]
                for x, y in zip(a["content"], b["content"], strict=True):
                    assert x.get("text") == y.get("text")
                    if "image" in y:
                        assert np.array_equal(x["image"], y["image"].convert("RGB"))


@pytest.mark.parametrize("teacher", [False, True])
def test_embeddings_stand_for_tokens_and_images(ground: PreparedTask, teacher: bool) -> None:
    rows = training_examples(TRIAL, 1)
    embedded = ground.collate((6, teacher), lambda: rows, teacher)
    plain, (whole, _) = Collator(ground.processor), load(BASES[1])
    for i in range(3):
        batch, wanted = embedded[i], plain([rows[i]])
        for role in ("student", "teacher")[: 1 + teacher]:
            assert torch.equal(batch[f"{role}_positions"], wanted[f"{role}_positions"])
            assert torch.equal(batch["predicts"], wanted["predicts"])
            with torch.no_grad():
                inputs = {k: v for k, v in wanted[role].items() if k != "labels"}
                theirs = whole(**inputs, use_cache=False).logits
                mine = ground.model(**{k: v for k, v in batch[role].items() if k != "labels"}, use_cache=False).logits
            assert torch.equal(batch[role]["labels"], wanted[role]["labels"])
            assert torch.allclose(mine, theirs, atol=1e-4)
    assert ("teacher" in embedded[0]) is teacher
    # in one batch as one by one
    merged = BatchMerger(plain)([embedded[i] for i in range(6)]) if teacher else None
    if merged is not None:
        wanted = plain(rows)
        for role in ("student", "teacher"):
            assert torch.equal(merged[role]["labels"], wanted[role]["labels"])
            assert torch.equal(merged[role]["attention_mask"], wanted[role]["attention_mask"])
        assert merged["digest"] == ground.collator(rows)["digest"]


def test_shared_once(ground: PreparedTask) -> None:
    once = ground.collate("key", lambda: training_examples(TRIAL, 1), False)
    assert ground.collate("key", lambda: pytest.fail("made again"), False) is once
    assert once[0] is once[0]


@pytest.mark.parametrize("prompt", ["student", "teacher"])
def test_answers_are_those_that_are_generated(ground: PreparedTask, prompt: str) -> None:
    right, total = answer_task(load(BASES[1])[0], ground.processor, load_task("options", 1)["test"], prompt)
    answers = ground.answers(prompt)  # type: ignore[arg-type]
    assert (sum(answers), len(answers)) == (right, total)


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_shots(shots: int) -> None:
    for example, whole in zip(
        training_examples(replace(TRIAL, shots=shots), 1), training_examples(TRIAL, 1), strict=True
    ):
        *before, query = example.teacher
        assert query is whole.teacher[-1]
        assert [message["role"] for message in before] == ["user", "assistant"] * shots
        said = [message["content"][0]["text"] for message in before[1::2]]
        assert example.answer in said
        pairs = [(id(a), id(b)) for a, b in zip(whole.teacher[::2], whole.teacher[1::2])]
        assert {(id(a), id(b)) for a, b in zip(before[::2], before[1::2])} <= set(pairs)


def test_data() -> None:
    one = training_examples(replace(TRIAL, task="fixed_map", data="one a class"), 2)
    digits = images.load_digits("train").labels
    assert sorted(int(digits[int(e.id.removeprefix("train-"))]) for e in one) == list(range(10))
    unlabelled = training_examples(replace(TRIAL, task="fixed_map", data="unlabelled"), 2)
    assert len(unlabelled) == 300
    assert {e.answer for e in unlabelled} == {None}
    first = unlabelled[0].teacher[:-1]
    assert len({m["content"][0]["text"] for m in first[1::2]}) == 10
    assert all(e.teacher[:-1] == first and e.teacher[-1] is e.student[-1] for e in unlabelled)
    assert len(training_examples(TRIAL, 2)) == 6


def test_trials() -> None:
    assert len(BASES) == 3
    assert len({trial.key for trial in TRIALS}) == len(TRIALS)
    assert {trial.task for trial in TRIALS} <= set(TASKS)
    assert AccuracyBound(0.9).holds(0.9)
    assert not AccuracyBound(0.9).holds(0.89)
    assert AccuracyBound(0.1, upper=True).holds(0.1)
    assert not AccuracyBound(0.1, upper=True).holds(0.11)
