"""Banks of demonstrations: embedded, lifted to hyperbolic points, stored, searched, and chosen from.

:class:`AnchorBank` stands on Lance. ``embedding`` makes points of images and texts, ``search`` finds the nearest,
``selection`` ranks demonstrations for a query.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.bank.anchor_bank import AnchorBank as AnchorBank
    from icl.bank.anchor_bank import Hits as Hits
    from icl.bank.embedding.embedder import Embedder as Embedder
    from icl.bank.embedding.lift import HyperbolicLift as HyperbolicLift
    from icl.bank.embedding.lift_fitting import LiftTraining as LiftTraining
    from icl.bank.embedding.lift_fitting import fit_lift as fit_lift
    from icl.bank.embedding.lift_fitting import same_label_pairs as same_label_pairs
    from icl.bank.embedding.pairs import load_pairs as load_pairs
    from icl.bank.lance_rows import open_bank as open_bank
    from icl.bank.report import write_report as write_report
    from icl.bank.schema import METADATA_FILE as METADATA_FILE
    from icl.bank.schema import BankError as BankError
    from icl.bank.schema import BankMetadata as BankMetadata
    from icl.bank.search.approximate import build_index as build_index
    from icl.bank.search.approximate import search_index as search_index
    from icl.bank.selection.demonstrated_records import BankSelection as BankSelection
    from icl.bank.selection.demonstrated_records import DemonstratedRecords as DemonstratedRecords
    from icl.bank.selection.demonstrated_records import SampledExamples as SampledExamples
    from icl.bank.selection.demonstrated_records import sample_examples as sample_examples
    from icl.bank.selection.queries import Queries as Queries
    from icl.bank.selection.row_check import RowError as RowError
    from icl.bank.selection.row_check import check_rows as check_rows
    from icl.bank.selection.select_rows import select as select
    from icl.bank.selection.strategies import has_depth as has_depth
    from icl.bank.summary import describe_bank as describe_bank

__getattr__, __dir__, __all__ = attach(__name__)
