"""Data sets as rows with a meaning: images, a question, an answer, and all answers that count as right.

Files, folders and tables are read by :mod:`icl.data.source`, whose values stay the text that they are; :class:`Records`
checks them when it is opened. An :class:`Example` is a query with what a teacher and a student are shown before it.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.data.examples import Example as Example
    from icl.data.examples import Examples as Examples
    from icl.data.examples import Message as Message
    from icl.data.examples import digest_content as digest_content
    from icl.data.examples import format_query as format_query
    from icl.data.fields import LIST_COLUMNS as LIST_COLUMNS
    from icl.data.fields import TEXT_COLUMNS as TEXT_COLUMNS
    from icl.data.fields import VECTOR_COLUMNS as VECTOR_COLUMNS
    from icl.data.overlap import refuse_overlap as refuse_overlap
    from icl.data.records import Records as Records
    from icl.data.source import Source as Source
    from icl.data.source import read_batches as read_batches

__getattr__, __dir__, __all__ = attach(__name__)
