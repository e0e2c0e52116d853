"""What the links of a Markdown file lead to, as GitHub sees them."""

import re
from urllib.parse import urlsplit

_LINK = re.compile(r"\]\(([^()\s]*)\)")
_FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(`+)(?:.|\n)*?(?<!`)\1(?!`)")


def anchors(text):
    """Return the anchors of a page: of its headings as GitHub makes them, and explicit ones."""
    text = _FENCED.sub("", text)
    found = {*re.findall(r"^\((.+)\)=$", text, re.MULTILINE)}
    found |= {*re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)}
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        again = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None
                    for other in found)  # fmt: skip
        found.add(f"{slug}-{again}" if slug in found else slug)
    return found


def broken(page):
    """Return what is wrong with the links of a Markdown file, a sentence for each."""
    text = _CODE.sub("", _FENCED.sub("", page.read_text()))
    return [
        f"{page}: {link}: {why}" for link in _LINK.findall(text) if (why := _problem(page, link))
    ]


def _problem(page, link):
    parts = urlsplit(link)
    if parts.scheme in {"http", "https"}:
        return "" if re.fullmatch(r"[\w.-]+\.\w+(:\d+)?", parts.netloc) else "is no URL"
    if parts.scheme == "mailto":
        return ""
    target = page.parent / parts.path if parts.path else page
    if not target.exists():
        return "there is no such file"
    if not parts.fragment or target.suffix != ".md":
        return ""
    return "" if parts.fragment in anchors(target.read_text()) else "there is no such anchor"
