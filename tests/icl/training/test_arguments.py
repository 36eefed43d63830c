"""Settings that adapters are not trained with."""

from pathlib import Path

import pytest

from icl.attention.internals import CHECKPOINTING
from tests.icl.trainers import examples, start, trainer


def test_settings_that_cannot_be_kept_to_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_reentrant must be False"):
        trainer(start(), tmp_path, examples(), **{f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}})
    with pytest.raises(ValueError, match="label_smoothing_factor must not be set"):
        trainer(start(), tmp_path, examples(), label_smoothing_factor=0.1)
