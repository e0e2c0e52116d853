"""The built site: every link within it leads to a file and an anchor that exist."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


class _Page(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the anchor or link of a tag."""
        for name, value in attrs:
            if name in {"id", "name"} and value:
                self.anchors.add(value)
            elif name in {"href", "src"} and value is not None:
                self.links.append(value)


def broken_links(site: Path) -> list[str]:
    """Return what is wrong with the links of a directory of HTML files, a sentence for each."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html"))}
    return [
        f"{path.relative_to(site)}: {link}: {problem}"
        for path, page in pages.items()
        for link in sorted(set(page.links))
        if (problem := _problem(path, link, pages))
    ]


def _problem(path: Path, link: str, pages: dict[Path, _Page]) -> str:
    try:
        parts = urlsplit(link)
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme in {"http", "https"}:
        return "" if "." in parts.netloc and " " not in link else "is no URL"
    if parts.scheme:  # mailto:, data:
        return ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "there is no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "there is no such anchor"
    return ""


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for sentence in broken_links(Path(app.outdir).resolve()):
            _log.warning("broken link in the built site: %s", sentence)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("build-finished", _check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
