"""Models by name, from folders as the hub has them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import Idefics3Processor

from icl.attention.models import load_model
from tests.icl import processors, zoo


def folder(path: Path, family: str, processor: str, kind: str) -> Path:
    """A model with the files of a processor of this class; those of videos cannot be made without torchvision."""
    made = processors.PROCESSORS[processor]()
    zoo.make(family).save_pretrained(path)
    made.image_processor.save_pretrained(path)
    made.tokenizer.save_pretrained(path)
    (path / "chat_template.jinja").write_text(made.chat_template)
    for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        values = json.loads((path / name).read_text()) if (path / name).exists() else {}
        (path / name).write_text(json.dumps({**values, "processor_class": kind}))
    return path


def test_a_folder_is_loaded(tmp_path: Path) -> None:
    model, processor = load_model(str(folder(tmp_path, "idefics3", "idefics3", "Idefics3Processor")))
    assert isinstance(processor, Idefics3Processor)
    assert model.config.model_type == "idefics3"
    assert not model.training


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed, and nothing is missing")
@pytest.mark.parametrize(
    ("family", "processor", "kind"),
    [("qwen2_vl", "qwen2_vl", "Qwen2VLProcessor"), ("smolvlm", "idefics3", "SmolVLMProcessor")],
)
def test_what_a_processor_lacks_is_named_with_the_extra_that_has_it(
    family: str, processor: str, kind: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"needs torchvision.*pip install 'hyperbolic-icl\[video\]'"):
        load_model(str(folder(tmp_path, family, processor, kind)))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    path = folder(tmp_path, "idefics3", "idefics3", "Idefics3Processor")
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="property name") as raised:
        load_model(str(path))
    assert "hyperbolic-icl" not in str(raised.value)
