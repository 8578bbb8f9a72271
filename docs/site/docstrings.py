"""Docstrings as plain text: brackets, stars and underscores in them are mathematics and names, no Markdown."""

import re
from typing import Any

from griffe import Extension, Object

MARKS = re.compile(r"(`[^`]*`|^ {4,}.*$)|([*_\[\]<|])", flags=re.MULTILINE)


class Plain(Extension):
    """Escapes what Markdown would read otherwise; code in backticks and indented blocks stay."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """After griffe has read an object."""
        if obj.docstring is not None:
            obj.docstring.value = MARKS.sub(lambda found: found[1] or f"\\{found[2]}", obj.docstring.value)
