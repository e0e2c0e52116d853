"""Docstrings are Google style with Markdown's backticks and fences; autodoc wants reStructuredText.

`EarlyStopping` in a docstring becomes a link to its page, other `code` stays code; a fenced block
becomes a code block; docs/resume.md becomes a link to that page.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxRole

_NAME = re.compile(r"(keras_ratchet\.)?([A-Za-z_][\w.]*)(\(\))?")
_PAGE = re.compile(r"\bdocs/([\w/-]+)\.md\b")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Name(SphinxRole):
    """Code, and a link if it is the name of something that has a place on an API page."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the nodes."""
        code = nodes.literal(self.rawtext, self.text, classes=["xref", "py"])
        if not (match := _NAME.fullmatch(self.text)):
            return [code], []
        link = addnodes.pending_xref(
            self.rawtext, code, refdomain="py", reftype="obj", refexplicit=False, refwarn=False
        )
        link.attributes.update(refdoc=self.env.current_document.docname, reftarget=match[2])
        link["py:module"] = "keras_ratchet"
        link["py:class"] = self.env.ref_context.get("py:class")
        return [link], []


def _process(app: Sphinx, *given: Any) -> None:
    """Turn the Markdown of a docstring into reStructuredText, in place."""
    fence, result, lines = False, [], given[-1]
    for line in lines:
        if line.lstrip().startswith("```"):
            indent = line[: len(line) - len(line.lstrip())]
            language = line.strip().strip("`") or "text"
            fence = not fence
            result += ["", f"{indent}.. code-block:: {language}", ""] if fence else [""]
        elif fence:
            result.append(f"    {line}")
        else:
            result.append(line)
    text = _whole_spans("\n".join(result))
    lines[:] = _PAGE.sub(lambda match: _link(app, match), text).split("\n")


def _whole_spans(text: str) -> str:
    """Keep a code span on one line, and end it where reStructuredText would not see the end."""

    def replaced(match: re.Match[str]) -> str:
        code = re.sub(r"\s*\n\s*", " ", match[1])
        end = r"\ " if re.match(r"\w", text[match.end() :]) else ""
        return f"`{code}`{end}"

    return _CODE.sub(replaced, text)


def _link(app: Sphinx, match: re.Match[str]) -> str:
    page = Path(app.srcdir) / f"{match[1]}.md"
    return f":doc:`/{match[1]}`" if page.exists() else match[0]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_role("name", Name())
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # which is what our docstrings call them
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
