"""``icl demo``: everything on the testbed, as one page."""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.demo.demo_plan import FULL as FULL
    from icl.demo.demo_plan import QUICK as QUICK
    from icl.demo.demo_plan import STANDARD as STANDARD
    from icl.demo.demo_plan import DemoJob as DemoJob
    from icl.demo.demo_plan import DemoPlan as DemoPlan
    from icl.demo.execution import run_plan as run_plan
    from icl.demo.page import write_page as write_page

__getattr__, __dir__, __all__ = attach(__name__)
