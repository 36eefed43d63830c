"""A model of transformers as adapters see it: its decoder, found by structure, and its attention function.

All that is private to transformers is known to :mod:`icl.attention.internals` alone, which probes it where it is used.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.attention.decoder import Decoder as Decoder
    from icl.attention.decoder import DecoderLayer as DecoderLayer
    from icl.attention.decoder import LayerShape as LayerShape
    from icl.attention.models import load_model as load_model
    from icl.attention.models import model_identity as model_identity
    from icl.attention.primitives import ATTENTION_NAMES as ATTENTION_NAMES
    from icl.attention.primitives import AttentionPrimitives as AttentionPrimitives
    from icl.attention.primitives import base_of as base_of
    from icl.attention.primitives import put_site as put_site
    from icl.attention.primitives import site_of as site_of
    from icl.attention.scores import AttentionScores as AttentionScores
    from icl.attention.scores import Prefix as Prefix

__getattr__, __dir__, __all__ = attach(__name__)
