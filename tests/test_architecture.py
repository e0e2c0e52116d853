"""docs/architecture.md is a map: what it says is read from the source and from real runs.

`RATCHET_WRITE_DOCS=1` writes its tables again.
"""

import ast
import importlib.util
import os
import re
from pathlib import Path

import keras
import pytest

import keras_ratchet

REPOSITORY = Path(__file__).parent.parent
SOURCE = Path(keras_ratchet.__file__).parent
MAP = REPOSITORY / "docs" / "architecture.md"


def compare(name, text):
    """Compare the part of the map between two marks with what it should be, or write it."""
    before, mark, rest = MAP.read_text().partition(f"<!-- {name} -->\n")
    part, end, after = rest.partition(f"<!-- /{name} -->")
    assert mark and end
    if os.environ.get("RATCHET_WRITE_DOCS"):
        MAP.write_text(before + mark + text + end + after)
    else:
        assert part == text, "RATCHET_WRITE_DOCS=1 writes it again"


def first_line(path):
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def test_every_module_is_named_once_with_what_it_says_of_itself():
    lines = []
    for package in sorted({path.parent for path in SOURCE.rglob("*.py")}, key=str):
        name = package.relative_to(SOURCE).as_posix()
        said = first_line(package / "__init__.py") if name != "." else "public names, on use"
        lines.append(f"\n**`{'keras_ratchet' if name == '.' else name}/`**: {said.rstrip('.')}\n\n")
        lines.append("| module | |\n|---|---|\n")
        modules = [p for p in sorted(package.glob("*.py")) if not p.stem.startswith("__")]
        lines += [
            f"| `{p.stem}` | {first_line(p).replace('|', chr(92) + '|')} |\n" for p in modules
        ]
    compare("modules", "".join(lines) + "\n")


def test_every_path_that_is_named_is_there():
    text = MAP.read_text()
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert len(named) > 20
    missing = {n for n in named if not (SOURCE / n).exists() and not (REPOSITORY / n).exists()}
    assert not missing
    links = set(re.findall(r"\]\(([^)#:]+)", text))
    assert all((MAP.parent / link).exists() for link in links)


def house():
    """Return benchmarks/house.py, which counts."""
    path = REPOSITORY / "benchmarks" / "house.py"
    if not path.exists():
        pytest.skip("the wheel has no benchmarks")
    spec = importlib.util.spec_from_file_location("house", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    keras.backend.backend() != "torch" or importlib.util.find_spec("tensorflow") is None,
    reason="the map shows torch, where TensorFlow is installed too",
)
def test_the_files_that_an_action_enters_are_those_of_the_map(tmp_path):
    text = "| action | files entered |\n|---|---|\n"
    for action, files in house().actions(str(tmp_path)).items():
        text += f"| {action} | {len(files)}: {', '.join(f'`{f}`' for f in files)} |\n"
    compare("entered", text)
