"""Every Python block of the README and of the pages in docs runs, each page in one namespace."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ELSEWHERE = "<!-- runs in tests/integrations -->"  # in the first lines of a page that needs clients


def runs_here(page):
    return ELSEWHERE not in page.read_text().splitlines()[:5]


PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if runs_here(page)),
]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p)], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_every_code_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    namespace = {"__name__": "__main__"}
    for number, code in enumerate(blocks(page), 1):
        exec(compile(code, f"{page.name} block {number}", "exec"), namespace)


def test_the_readme_shows_code():
    assert blocks(ROOT / "README.md")


def test_pages_of_all_directories_are_run():
    assert {ROOT / "docs" / "index.md", ROOT / "docs" / "averages.md"} <= set(PAGES)
