"""Processors that all tests of prompts share."""

from collections.abc import Callable

import pytest
from transformers import ProcessorMixin

from tests.icl.processors import PROCESSORS


@pytest.fixture(scope="module")
def built() -> Callable[[str], ProcessorMixin]:
    processors: dict[str, ProcessorMixin] = {}

    def build(name: str) -> ProcessorMixin:
        return processors.setdefault(name, PROCESSORS[name]())

    return build
