"""``icl demo``: everything on the testbed, as one page."""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.demo.execution import run as run
    from icl.demo.page import write_page as write_page
    from icl.demo.plan import FULL as FULL
    from icl.demo.plan import QUICK as QUICK
    from icl.demo.plan import STANDARD as STANDARD
    from icl.demo.plan import Job as Job

__getattr__, __dir__, __all__ = attach(__name__)
