"""A prompt for the tests of passes."""

import pytest
from torch import Tensor

from tests.icl import decoders
from tests.icl.passes import LENGTH


@pytest.fixture
def x() -> dict[str, Tensor]:
    """A prompt that prompt lookup finds something in."""
    prompt = decoders.prompt(length=LENGTH)
    prompt["input_ids"][0, 4:6] = prompt["input_ids"][0, -2:]
    return prompt
