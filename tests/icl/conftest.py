"""Models for the tests of adapters, which leave them as they were, and a browser for those of pages."""

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import PreTrainedModel

from icl.adapters import attached
from tests.icl import zoo
from tests.icl.adapted import FAMILIES
from tests.icl.browser import chromium


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel]:
    return request.param, zoo.make(request.param)


@pytest.fixture
def family(made: tuple[str, PreTrainedModel]) -> Iterator[tuple[str, PreTrainedModel]]:
    yield made
    adapters = attached(made[1])
    if adapters is not None:
        adapters.detach()
    made[1].get_decoder().set_attn_implementation({"": "sdpa"})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running
