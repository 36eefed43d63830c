"""Hyper-ICL at its start, and its size; its formula is held in tests/icl/attention/test_primitives.py."""

import pytest

from icl.adapters import HyperICLConfig
from tests.icl import zoo
from tests.icl.adapted import assert_identity_at_start, count_published


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_the_start_is_the_identity_to_the_bit(name: str) -> None:
    assert_identity_at_start(name, ("hyper token", "hyper head", "hyper layer", "hyper output"))


def test_parameters_are_as_many_as_published() -> None:
    assert count_published(HyperICLConfig()) == 1_180_672
