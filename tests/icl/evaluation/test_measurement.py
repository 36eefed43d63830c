"""What a file of results may hold."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from icl.evaluation.results import Results
from tests.icl.measurements import make_measurement


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0"), ("seed", True), ("seed", 10**30), ("train_seconds", 1e300),
        ("ids", {}), ("ids", ["x"]), ("answers", [1, 2, 3]),
        ("cost", None), ("scores", {"exact": {"value": math.nan, "rows": None}}),
        ("scores", {"exact": {"value": 0.5, "rows": [0.5]}}),
        ("settings", {"data": 1}), ("distances", {"geodesic": 1}),
    ],
)  # fmt: skip
def test_measurement_of_foreign_types_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Results(file).add(make_measurement("adapter", 0, 1.0, 0.0, 1.0))
    content = json.loads(file.read_text())
    content["cells"][0][field] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json cannot be read"):
        Results(file)
