"""Prepared tasks: the same examples and the same sums as the long way round, by tables, processor and images."""

import numpy as np
import pytest
import torch

from icl.data.examples import Example
from icl.prompts.batches import BatchMerger
from icl.prompts.collator import Collator
from icl.testbed import load, load_task
from icl.testbed.accuracy import answer_task
from icl.testbed.prepared_task import BASES, PreparedTask, load_examples
from icl.testbed.trials import Trial, training_examples

TRIAL = Trial("", "options", (), data=6)


@pytest.fixture(scope="module")
def prepared() -> PreparedTask:
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
def test_embeddings_stand_for_tokens_and_images(prepared: PreparedTask, teacher: bool) -> None:
    rows = training_examples(TRIAL, 1)
    embedded = prepared.collate((6, teacher), lambda: rows, teacher)
    plain, (whole, _) = Collator(prepared.processor), load(BASES[1])
    for i in range(3):
        batch, wanted = embedded[i], plain([rows[i]])
        for role in ("student", "teacher")[: 1 + teacher]:
            assert torch.equal(batch[f"{role}_positions"], wanted[f"{role}_positions"])
            assert torch.equal(batch["predicts"], wanted["predicts"])
            with torch.no_grad():
                inputs = {k: v for k, v in wanted[role].items() if k != "labels"}
                theirs = whole(**inputs, use_cache=False).logits
                mine = prepared.model(**{k: v for k, v in batch[role].items() if k != "labels"}, use_cache=False).logits
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
        assert merged["digest"] == prepared.collator(rows)["digest"]


def test_shared_once(prepared: PreparedTask) -> None:
    once = prepared.collate("key", lambda: training_examples(TRIAL, 1), False)
    assert prepared.collate("key", lambda: pytest.fail("made again"), False) is once
    assert once[0] is once[0]


@pytest.mark.parametrize("prompt", ["student", "teacher"])
def test_answers_are_those_that_are_generated(prepared: PreparedTask, prompt: str) -> None:
    rows = list(load_task("options", 1)["test"])
    right = answer_task(load(BASES[1])[0], prepared.processor, rows, prompt)
    answers = prepared.answers(prompt)  # type: ignore[arg-type]
    assert (sum(answers), len(answers)) == (right, len(rows))
