"""What the examples in docstrings are run with."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace: dict) -> None:
    doctest_namespace["torch"] = torch
