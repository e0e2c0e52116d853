"""The documentation site: its navigation, its links, and that it has a place for every name."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from support import links

import keras_ratchet
from keras_ratchet import errors
from keras_ratchet.cli import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS).with_suffix("").as_posix()
    for pattern in ("*.md", "*.ipynb")
    for path in DOCS.rglob(pattern)
    if not any(part.startswith(("_", ".")) for part in path.relative_to(DOCS).parts)
}
MARKDOWN = [  # other files of benchmarks are parts of its results
    *sorted(ROOT.glob("*.md")),
    *sorted([*DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.md")]),
    *sorted((ROOT / "benchmarks").rglob("results*.md")),
]


def extension(name):
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS / "_ext"))


# Names


def documented():
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    return re.findall(r"^\.\. auto(?:class|function|exception):: (\S+)$", text, re.MULTILINE)


def public():
    found = {f"keras_ratchet.{name}" for name in keras_ratchet.__all__}
    for module in ("policy", "policy.experimental", "data", "plots"):
        names = importlib.import_module(f"keras_ratchet.{module}").__all__
        found |= {f"keras_ratchet.{module}.{name}" for name in names}
    found |= {
        f"keras_ratchet.errors.{name}"
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.RatchetError)
    }
    return found - {f"keras_ratchet.{name}" for name in ("data", "errors", "plots", "policy")}


def test_every_public_name_has_one_place_on_an_api_page():
    places = documented()
    assert len(places) == len(set(places))
    assert public() <= set(places)


def test_every_integration_is_on_an_api_page():
    for path in (ROOT / "src" / "keras_ratchet" / "integrations").glob("[a-z]*.py"):
        for name in re.findall(r"^(?:class|def) ([A-Za-z]\w*)", path.read_text(), re.MULTILINE):
            assert f"keras_ratchet.integrations.{path.stem}.{name}" in documented()


def test_the_page_on_the_command_line_names_every_command():
    text = (DOCS / "cli.md").read_text()
    for name in main.commands:
        assert re.search(rf"`(ratchet )?{name}\b", text), name


# Navigation


def toctrees(page):
    text = (DOCS / f"{page}.md").read_text()
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                yield (Path(page).parent / line).as_posix()


def test_every_page_stands_once_in_the_navigation():
    entries = [entry for page in ("index", "api/index") for entry in toctrees(page)]
    assert sorted(entries) == sorted(PAGES - {"index"})


# Links


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    assert links.broken(page) == []


def test_a_broken_link_is_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text(
        "# Title\n\n## `save` & co: a\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n"
    )
    page.write_text(
        "[1](other.md) [2](other.md#save--co-a) [3](other.md#twice-1) [4](https://a.org/x)\n"
        "`[code](no.md)`\n\n```\n[code](no.md)\n```\n\n"
        "[5](no.md) [6](other.md#no-heading) [7](#here) [8](https://localhost) ![9](no.png)\n"
    )
    found = [sentence.split(": ", 1)[1] for sentence in links.broken(page)]
    assert found == [
        "no.md: there is no such file",
        "other.md#no-heading: there is no such anchor",
        "#here: there is no such anchor",
        "https://localhost: is no URL",
        "no.png: there is no such file",
    ]


# The extensions of the site


@pytest.fixture
def project(tmp_path):
    """A repository with one page, which the site's own extensions build."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "README.md").write_text("# Read\n\n[page](docs/index.md) [code](src)\n")
    (tmp_path / "src").mkdir()
    (docs / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\n"
        "extensions = ['myst_parser', 'repository', 'sitecheck']\n"
        "myst_heading_anchors = 4\nrepository_url = 'https://example.org/r'\n"
    )
    (docs / "index.md").write_text("# Page\n\n```{toctree}\nread\n```\n")
    (docs / "read.md").write_text("```{include} ../README.md\n```\n")
    return docs


def build(docs):
    from sphinx.cmd.build import build_main

    out = docs.parent / "site"
    status = build_main(["-W", "--keep-going", "-q", "-b", "html", "-E", str(docs), str(out)])
    return status, out


def test_links_out_of_the_pages_become_absolute(project):
    with (project / "index.md").open("a") as page:
        page.write("\n[a](../README.md#read) [b](../src)\n\n```text\n[c](../src)\n```\n")
    status, site = build(project)
    assert status == 0
    html = (site / "index.html").read_text()
    assert 'href="https://example.org/r/blob/main/README.md#read"' in html
    assert 'href="https://example.org/r/tree/main/src"' in html
    assert "[c](../src)" in html
    html = (site / "read.html").read_text()
    assert 'href="index.html"' in html
    assert 'href="https://example.org/r/tree/main/src"' in html


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("[x](read.md#nowhere)", "nowhere"),
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](../nowhere.py)", "the repository has no ../nowhere.py"),
        ("[x](../../..)", "the repository has no ../../.."),
        ('<a href="nowhere.html">x</a>', "broken link in the built site: index.html: nowhere.html"),
        ('<a href="read.html#no">x</a>', "read.html#no: there is no such anchor"),
        ("![x](nowhere.png)", "nowhere.png"),
    ],
)
def test_a_broken_link_fails_the_build(project, line, warning, capfd):
    with (project / "index.md").open("a") as page:
        page.write(f"\n{line}\n")
    status, _ = build(project)
    assert status != 0
    assert warning in capfd.readouterr().err


def test_a_page_without_a_place_fails_the_build(project, capfd):
    (project / "orphan.md").write_text("# Orphan\n")
    assert build(project)[0] != 0
    assert "orphan.md" in capfd.readouterr().err


def test_docstrings_become_restructured_text():
    lines = ["Saves `x`s, see `a\nb`.", "", "```python", "f(`x`)", "```", "docs/none.md"]
    lines = "\n".join(lines).split("\n")

    class App:
        srcdir = DOCS

    lines[-1:] = ["docs/resume.md, docs/none.md"]
    extension("docstrings")._process(App, "class", "x", object, None, lines)
    assert [line for line in lines if line] == [
        r"Saves `x`\ s, see `a b`.",
        ".. code-block:: python",
        "    f(`x`)",
        ":doc:`/resume`, docs/none.md",
    ]
