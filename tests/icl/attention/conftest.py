"""Models of every family for the tests of attention."""

import pytest
from transformers import PreTrainedModel

from tests.icl import zoo


@pytest.fixture(params=zoo.FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel]:
    model = zoo.make(request.param)
    # As adapters leave it: which kernel torch takes, and so the last bit, depends on what requires a gradient.
    model.requires_grad_(False)
    return request.param, model
