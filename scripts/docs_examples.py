"""Render the `Example:` of a docstring as code: the documentation tool knows that section as `Examples:` only."""

import re
from typing import Any

import griffe


class ExamplesAsCode(griffe.Extension):
    """Rename the section while the documentation is built."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every function, class, attribute and module that has been read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
