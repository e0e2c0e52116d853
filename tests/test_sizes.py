"""Small files, short functions: the habits of docs/architecture.md."""

import ast
import inspect
from pathlib import Path

import keras
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


CALLBACKS = [
    name
    for name in keras_ratchet.__all__
    if inspect.isclass(kind := getattr(keras_ratchet, name))
    and issubclass(kind, keras.callbacks.Callback)
    and name != "MonitorCallback"
]


def own_bases(kind):
    """Return the classes of ours that a class inherits from."""
    package = keras_ratchet.__name__
    return [base.__name__ for base in kind.__mro__[1:] if base.__module__.startswith(package)]


def test_callbacks_are_composed_not_inherited():
    """Only `RatchetCallback`, and `MonitorCallback` for what watches a metric, are bases."""
    bases = {name: own_bases(getattr(keras_ratchet, name)) for name in CALLBACKS}
    watching = {"EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau"}
    for name, found in bases.items():
        monitor = ["MonitorCallback"] if name in watching else []
        assert found == [*monitor, "RatchetCallback"], name


@pytest.mark.parametrize("name", CALLBACKS)
def test_public_attributes_are_documented_or_keras_s(name, tmp_path):
    kind = getattr(keras_ratchet, name)
    path = {"ModelCheckpoint": [tmp_path / "a.keras"], "BackupAndRestore": [tmp_path / "b"]}
    callback = kind(*path.get(name, []))
    properties = {n for n in dir(kind) if isinstance(getattr(kind, n), property)}
    public = {n for n in {*vars(callback), *properties} if not n.startswith(("_", "on_"))}
    documented = " ".join(base.__doc__ or "" for base in kind.__mro__[: 1 + len(own_bases(kind))])
    unknown = {n for n in public - {"params", "model"} if f"{n}:" not in documented}
    theirs = vars(getattr(keras.callbacks, name)(*path.get(name, []))) if unknown else ()
    assert unknown <= set(theirs)
