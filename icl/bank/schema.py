"""The layout of a bank on disk, and the error when it is another.

bank/
  bank.json        format, dimensions, curvature, embedder: written last when a bank is made, never changed
  build.json       settings and rows of the build, by which the same build is known when it is run again
  anchors.lance/   the rows: one transaction a commit, every version readable
  vectors/         the vector columns of each fragment as raw float32, made from the rows, safe to delete
  lift/            the map from embeddings to points, if the bank was built with one
  ann/             an approximate index, if one was built
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from icl.common.files import read_json, write_json
from icl.data import VECTOR_COLUMNS

FORMAT = 1
RESERVED = (*VECTOR_COLUMNS, "depth", "digest")
METADATA_FILE, BUILD_FILE, ROWS_FOLDER = "bank.json", "build.json", "anchors.lance"


class BankError(ValueError):
    """A bank that cannot be read or written as asked; the message says what to do."""


@dataclass(frozen=True)
class BankMetadata:
    """The facts of a bank that hold for all its versions."""

    dim: int
    c: float
    widths: dict[str, int] = field(default_factory=dict)
    """The widths of the embedding columns that it has."""
    embedder: str | None = None
    model: str = "lorentz"
    format: int = FORMAT

    def width(self, column: str) -> int:
        """Return the width of a column of vectors that the bank has."""
        return self.dim if column == "point" else self.widths[column]

    def write(self, folder: Path) -> None:
        """Write the metadata into the folder of a bank."""
        write_json(folder / METADATA_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> BankMetadata:
        """Return the metadata of the bank in a folder. ``BankError`` if there is none, or none that is whole."""
        path = folder / METADATA_FILE
        if not folder.is_dir():
            raise BankError(f"there is no bank at {folder}: build one with AnchorBank.build or `icl bank build`")
        if not path.exists():
            if (folder / ROWS_FOLDER).exists() or (folder / BUILD_FILE).exists():
                raise BankError(f"the build of {folder} did not finish: run the same build again, it goes on there")
            raise BankError(
                f"{folder} is not a bank, it has no {METADATA_FILE}: name the folder that was given to build"
            )
        try:
            values = read_json(path)
            if not isinstance(values, dict) or "format" not in values:
                raise ValueError("no format version")
            if values["format"] != FORMAT:
                raise BankError(
                    f"{folder} has format version {values['format']}, this version of icl reads {FORMAT}: "
                    "open it with the version that wrote it, or build it again"
                )
            meta = cls(**values)
            sizes = (meta.dim, *meta.widths.values())
            plausible = all(type(n) is int and n > 0 for n in sizes) and 0 < meta.c < math.inf
            if meta.model != "lorentz" or not plausible or not isinstance(meta.embedder, str | None):
                raise ValueError(f"implausible values {values}")
        except BankError:
            raise
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BankError(
                f"{path} is damaged ({error}): restore it from a backup, or build the bank again"
            ) from error
        return meta


def vector_type(width: int) -> pa.DataType:
    """Return the type of a column of vectors."""
    return pa.list_(pa.float32(), width)


def arrow_schema(dim: int, widths: dict[str, int], extra: list[pa.Field]) -> pa.Schema:
    """Return the schema of the rows: the fixed columns, then those of the user."""
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.string()),
        pa.field("text", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("depth", pa.float32(), nullable=False),
        pa.field("point", vector_type(dim), nullable=False),
        *(pa.field(name, vector_type(width)) for name, width in sorted(widths.items())),
    ]
    return pa.schema(fields + extra)
