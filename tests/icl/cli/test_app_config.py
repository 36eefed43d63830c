"""``icl config``: the schema says of every setting what the program itself asks of it."""

import json
from dataclasses import fields
from typing import Any

from icl.adapters.base import METHODS
from icl.training.settings import DataSettings, TrainingSettings
from tests.icl.commands import run


def test_schema_has_every_setting() -> None:
    schema: dict[str, Any] = json.loads(run("config", "--schema").stdout)
    parts = schema["training_run"]["$defs"]
    assert schema["training_run"]["description"] == "All that is needed to do it again."
    for kind in (DataSettings, TrainingSettings):
        assert parts[kind.__name__]["properties"].keys() == {field.name for field in fields(kind)}
    assert parts["DataSettings"]["required"] == ["train"]
    assert parts["TrainingSettings"]["properties"]["seed"]["minimum"] == 0
    assert "cosine" in parts["TrainingSettings"]["properties"]["learning_rate"]["description"]
    assert schema["evaluation"]["required"] == ["data"]
    assert schema["methods"].keys() == METHODS.keys()
    for name, method in schema["methods"].items():
        assert method["properties"].keys() == {field.name for field in fields(METHODS[name])}
    assert schema["methods"]["hyper_icl"]["properties"]["rank"]["minimum"] == 1


def test_schema_has_to_be_asked_for() -> None:
    assert "give --schema" in run("config", code=2).stderr
