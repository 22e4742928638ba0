"""Extension of the documentation site (mkdocs.yml): examples in docstrings become code blocks.

An example in a docstring begins with `>>>`, which Markdown would take for a quotation.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from griffe import Extension, Object, ObjectNode

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


def fenced(docstring: str) -> str:
    """`docstring` with each example, from `>>>` to an empty line, as a block of Python.

    >>> fenced("Twice a number.\\n\\n>>> double(2)\\n4\\n")
    'Twice a number.\\n\\n```pycon\\n>>> double(2)\\n4\\n```\\n'
    """
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", docstring)


class Doctests(Extension):
    """Applies `fenced` to the docstring of every object."""

    def on_instance(self, *, node: ast.AST | ObjectNode, obj: Object, **kwargs: Any) -> None:
        """Change the docstring when the object has been read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
