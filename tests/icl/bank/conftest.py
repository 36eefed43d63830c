"""Banks that several modules of tests read."""

from pathlib import Path

import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.selection.queries import Queries
from tests.icl.banks import C, clustered_rows, numbered_rows


@pytest.fixture
def numbered_bank(tmp_path: Path) -> AnchorBank:
    return AnchorBank.build(tmp_path / "bank", numbered_rows())


@pytest.fixture(scope="session")
def clustered_bank(tmp_path_factory: pytest.TempPathFactory) -> AnchorBank:
    """In two fragments."""
    rows = clustered_rows()
    bank = AnchorBank.build(tmp_path_factory.mktemp("bank") / "bank", {k: v[:30] for k, v in rows.items()}, c=C)
    bank.append({k: v[30:] for k, v in rows.items()})
    return bank


@pytest.fixture(scope="session")
def clustered_queries() -> Queries:
    """Near every ninth row."""
    generator = torch.Generator().manual_seed(1)
    near = [clustered_rows()[name][::9] for name in ("point", "image_embedding", "text_embedding")]
    return Queries(*(v + 0.3 * torch.randn(v.shape, generator=generator) for v in near))
