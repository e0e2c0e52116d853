"""Small files, short functions: ARCHITECTURE section 7 as a law."""

import ast
from pathlib import Path

import pytest

import keras_ratchet

ROOT = Path(keras_ratchet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)


def depth(node, above=0):
    """Return how many blocks stand around the deepest statement of a function."""
    deepest = above
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        step = 1 if isinstance(child, BLOCKS) and not is_elif else 0
        deepest = max(deepest, depth(child, above + step))
    return deepest


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) < 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = [s for s in node.body if not isinstance(s, ast.Expr) or s is not node.body[0]]
            length = node.end_lineno - body[0].lineno + 1 if body else 1
            assert length <= 50, f"{path.name}:{node.lineno} {node.name} has {length} lines"
            assert depth(node) <= 3, f"{path.name}:{node.lineno} {node.name} is nested too deep"
