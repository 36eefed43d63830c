"""``icl adapters info``: what an adapter is, and whether it fits."""

import json
import re
from pathlib import Path

from tests.icl.commands import FILES, read, run


def test_info_says_whether_it_fits(digit_files: Path) -> None:
    run("train", *FILES, "--method", "hyper_icl", "--rank", 2, "--out", "a")
    known = read("adapters", "info", "a", "--model", "testbed")
    assert known["method"] == "hyper_icl rank=2"
    assert known["numbers"] == 4 * 2 * (2 * 32 * 2 + 32 + 1)
    assert known["fits"]
    assert known["trained on"] == "train.jsonl"
    described = json.loads(Path("a/adapter_config.json").read_text())
    described["base"]["width"] = 128
    Path("a/adapter_config.json").write_text(json.dumps(described))
    known = read("adapters", "info", "a", "--model", "testbed")
    assert (known["fits"], known["reason"]) == (False, "width is 64, and was 128")
    assert re.search(r"fits +no", run("adapters", "info", "a", "--model", "testbed").stdout)
    Path("a/adapter_model.safetensors").write_bytes(b"damaged")
    assert "cannot be read" in run("adapters", "info", "a", code=1).stderr
