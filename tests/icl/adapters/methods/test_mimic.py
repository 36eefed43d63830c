"""MimIC at its start, and its size; its formula is held in tests/icl/attention/test_primitives.py."""

import pytest

from icl.adapters import MimICConfig, attach
from tests.icl import zoo
from tests.icl.adapted import count_published, run


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_the_start_shifts_by_no_more_than_its_vectors(name: str) -> None:
    model, x = zoo.make(name), zoo.inputs(name)
    valid = x["attention_mask"].bool()
    adapters = attach(model, MimICConfig())
    with adapters.off(), adapters.record(heads=True) as stock:
        run(model, x)
    with adapters.record(heads=True) as shifted:
        run(model, x)
    shift = (shifted.heads[0] - stock.heads[0])[valid].abs().max()
    largest = adapters["default"][0].at(0).direction.abs().max()
    assert 0 < largest < 1e-2
    assert 0 < shift <= 1.01 * largest


def test_parameters_are_as_many_as_published() -> None:
    assert count_published(MimICConfig()) == 263_168
