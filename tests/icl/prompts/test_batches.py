"""Batches of examples that were collated before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from icl import testbed
from icl.data.examples import Example
from icl.losses.objective import Objective
from icl.prompts.batches import BatchMerger, CollatedExamples
from icl.prompts.collator import Collator
from tests.icl import processors
from tests.icl.trainers import (
    ALL,
    collator,
    logged,
    mixed,
    start,
    trainer,
)


@pytest.mark.parametrize("family", processors.PROCESSORS)
def test_merged_is_collated(family: str) -> None:
    processor, data = processors.asked(family)
    collate = Collator(processor)
    at_once, merged = collate(data), BatchMerger(collate)(list(CollatedExamples(data, collate)))
    assert at_once.keys() == merged.keys()
    for name, value in at_once.items():
        if isinstance(value, dict):
            assert value.keys() == merged[name].keys()
            for key, tensor in value.items():
                torch.testing.assert_close(merged[name][key], torch.as_tensor(tensor), rtol=0, atol=0, msg=key)
        elif isinstance(value, Tensor):
            assert torch.equal(merged[name], value), name
        else:
            assert merged[name] == value, name


def test_kept_in_memory_is_the_same(tmp_path: Path) -> None:
    runs = []
    for in_memory in (False, True):
        distiller = trainer(
            start(), tmp_path, mixed(), ALL, keep_in_memory=in_memory, eval_dataset={"dev": mixed()[:4]}
        )
        distiller.train()
        runs.append(
            [*logged(distiller), distiller.evaluate()["eval_dev_loss"], distiller.evaluate(mixed()[4:8])["eval_loss"]]
        )
    assert runs[0] == pytest.approx(runs[1], rel=1e-6)


def test_collated_is_shared(tmp_path: Path) -> None:
    data = CollatedExamples(mixed(), collator())
    distiller = trainer(start(), tmp_path, data, Objective(), keep_in_memory=True)
    distiller.train()
    plain = trainer(start(), tmp_path, mixed(), Objective())
    plain.train()
    assert logged(distiller) == pytest.approx(logged(plain), rel=1e-6)
    assert "teacher" not in distiller.data_collator([data[0]])
    assert "teacher" in trainer(start(), tmp_path, data, ALL, keep_in_memory=True).data_collator([data[0]])
    students = CollatedExamples(mixed(), Collator(testbed.load()[1], teacher=False))
    with pytest.raises(ValueError, match="collated without one"):
        trainer(start(), tmp_path, students, ALL, keep_in_memory=True)


class Changing(list[Example]):
    def set_epoch(self, epoch: int) -> None:
        pass


def test_what_changes_is_not_kept() -> None:
    with pytest.raises(ValueError, match="examples must stay the same"):
        CollatedExamples(Changing(), collator())
