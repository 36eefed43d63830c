"""For mkdocs and mkdocstrings: docstrings have roles and examples that Markdown does not know."""

import re
from typing import Any

import griffe


def on_page_content(html: str, **_: Any) -> str:
    """Drop the roles of Sphinx, which are written before names in docstrings."""
    return re.sub(r":(?:func|class|meth|mod|attr):(?=<code>)", "", html)


class Examples(griffe.Extension):
    """Examples as code: ``>>>`` at the beginning of a line would be a quotation."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put the examples of a docstring between fences."""
        if obj.docstring is not None:
            fenced = re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = fenced
