"""The facts of a bank at a glance; torch, which takes seconds to import, is not needed for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import numpy as np

from icl.bank.lance_rows import list_versions, reading
from icl.bank.schema import BankMetadata
from icl.data import VECTOR_COLUMNS


def describe_bank(folder: Path, meta: BankMetadata, rows: lance.LanceDataset) -> dict[str, Any]:
    """Return the facts of a bank in one of its versions, of types that JSON has."""
    with reading(folder, rows.version):
        depth = rows.to_table(columns=["depth"]).column("depth").to_numpy()
    quantiles = np.quantile(depth.astype(np.float64), (0, 0.5, 1)).tolist() if len(depth) else []
    return {
        "folder": str(folder),
        "rows": len(depth),
        "dimension": meta.dim,
        "c": meta.c,
        "embedder": meta.embedder,
        "lift": (folder / "lift").is_dir(),
        "columns": [name for name in rows.schema.names if name not in VECTOR_COLUMNS],
        "embeddings": meta.widths,
        "version": int(rows.version),
        "versions": len(list_versions(folder)),
        "depth": dict(zip(("least", "median", "greatest"), quantiles)),
    }
