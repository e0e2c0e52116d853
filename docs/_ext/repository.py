"""Links from pages to files of the repository that are not pages: to GitHub.

`[one test](../tests/test_run.py)` works on GitHub as it stands. On the site it becomes an absolute
link. A page that includes a file from elsewhere, such as the changelog, has its links, too.
"""

import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
_log = logging.getLogger(__name__)
_LINK = re.compile(r"\]\((?!https?:|mailto:|#|<)([^)#\s]+)(#[^)\s]*)?\)")
_INCLUDE = re.compile(r"^```\{include\} (\S+)\n```$", re.MULTILINE)
_FENCE = re.compile(r"^ *(`{3,}|~{3,})")


def rewritten(text: str, page: Path, source: Path, root: Path, url: str) -> str:
    """Return Markdown with its links to files outside of the pages made absolute.

    Args:
        text: The Markdown.
        page: The page that it will be part of.
        source: The file that it comes from, to which its links are relative.
        root: The directory of the pages.
        url: Of the repository, whose root is the directory above.
    """

    def replaced(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = Path(os.path.normpath(source.parent / path))
        if target.is_relative_to(root):
            return f"]({os.path.relpath(target, page.parent)}{anchor})"
        if not (target.exists() and target.is_relative_to(root.parent)):
            _log.warning("%s: the repository has no %s", source, path, location=str(page))
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"]({url}/{kind}/main/{target.relative_to(root.parent).as_posix()}{anchor})"

    fence, lines = "", []
    for line in text.splitlines(keepends=True):
        if (mark := _FENCE.match(line)) and (not fence or line.strip() == fence):
            fence = "" if fence else mark[1]
        lines.append(line if fence else _LINK.sub(replaced, line))
    return "".join(lines)


def _read(app: Sphinx, docname: str, text: list[str]) -> None:
    page, root = Path(app.env.doc2path(docname)), Path(app.srcdir)
    url = app.config.repository_url

    def included(match: re.Match[str]) -> str:
        source = page.parent / match[1]
        app.env.note_dependency(str(source))
        return rewritten(source.read_text(), page, source.resolve(), root, url)

    text[0] = _INCLUDE.sub(included, rewritten(text[0], page, page, root, url))


def _place(info: dict[str, Any]) -> str | None:
    """Return where in the repository the source of an object is; None of an attribute."""
    found: Any = importlib.import_module(info["module"])
    try:
        for part in info["fullname"].split("."):
            found = getattr(found, part)
        found = getattr(found, "fget", None) or inspect.unwrap(found)
        lines, first = inspect.getsourcelines(found)
        path = Path(inspect.getsourcefile(found) or "").resolve().relative_to(ROOT)
    except (AttributeError, TypeError, ValueError, OSError):
        return None
    return f"{path.as_posix()}#L{first}-L{first + len(lines) - 1}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("repository_url", "", "env", str)
    app.connect("source-read", _read)

    def resolve(domain: str, info: dict[str, Any]) -> str | None:
        place = _place(info)
        return place and f"{app.config.repository_url}/blob/main/{place}"

    app.config.linkcode_resolve = resolve
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
