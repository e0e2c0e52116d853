"""The tables of `_keras` list every private name of Keras that we touch, and no other name."""

import ast
import re
from pathlib import Path

import keras
import pytest
from support.keras_names import OURS, imported, of_keras, table, touches

from keras_ratchet import types

OURS_OF_KERAS = sorted((OURS / "_keras").glob("*.py"))
OTHERS = {  # private names of other libraries than Keras, and where they may be touched
    "_exit": "data/_workers.py",  # of os
    "_getframe": "",  # of sys: documented, and the only way to the caller
    "_inputs": "_backends/tensorflow_data.py",  # of tf.data.Dataset
    "_func": "_backends/tensorflow_data.py",  # of the functions of a tf.data pipeline
    "_functions": "_backends/tensorflow_data.py",
    "_batch_size": "_backends/tensorflow_data.py",  # of its stages
    "_drop_remainder": "_backends/tensorflow_data.py",
    "_filename": "_backends/tensorflow_data.py",
    "_reshuffle_each_iteration": "_backends/tensorflow_data.py",
    "_list_all_concrete_functions": "_backends/tensorflow.py",
    "_rng": "_backends/tensorflow.py",  # of TensorFlow's context
    "_get_default_store": "_distributed/torch.py",  # of torch.distributed
    "_backward_hooks": "callbacks/_engine_checks.py",  # of torch.Tensor
    "_post_accumulate_grad_hooks": "callbacks/_engine_checks.py",
    "_parameters": "_backends/torch.py",  # of torch.nn.Module
    "_buffers": "_backends/torch.py",
    "_BatchNorm": "_backends/torch.py",  # the base of torch's classes
    "_foreach_copy_": "_backends/torch",  # many copies in one call: public, but for its name
    "_register_atexit": "_engine/saving/mirror.py",  # of threading, as concurrent.futures does
}
OVERRIDDEN = {
    "_save_model",
    "_is_improvement",
    "_should_save_on_batch",
    "_get_file_path",
}  # defined by ours, too
ALL = {row.name for path in OURS_OF_KERAS for row in table(path)}
VERSION = tuple(map(int, re.match(r"(\d+)\.(\d+)", keras.__version__).groups()))


def problems(path, source, listed):
    """Return what a module touches and its table does not list."""
    found = []
    members, any_table = ({_last(n) for n in names} for names in (listed, ALL))
    for touch in touches(source):
        allowed = OTHERS.get(touch.name)
        is_listed = touch.name in (any_table if touch.in_string else members)
        if not is_listed and (allowed is None or not path.startswith(allowed)):
            found.append(f"{path}:{touch.line} touches {touch.name}")
    modules = {name.partition(".")[0] for name in listed}
    for name in sorted(imported(source) - listed):
        if _last(name) not in modules:  # a module of which members are listed
            found.append(f"{path} imports {name}")
    return found


@pytest.mark.parametrize("path", sorted(OURS.rglob("*.py")), ids=lambda p: str(p.relative_to(OURS)))
def test_a_private_name_of_keras_is_touched_only_where_a_table_lists_it(path):
    listed = {row.name for row in table(path)} if path in OURS_OF_KERAS else set()
    assert problems(str(path.relative_to(OURS)), path.read_text(), listed) == []


@pytest.mark.parametrize("path", OURS_OF_KERAS, ids=lambda p: p.stem)
def test_every_name_in_a_table_is_defined_by_this_keras(path):
    names = [row.name for row in table(path) if row.since[:2] <= VERSION]
    assert [name for name in names if not of_keras().knows(name)] == []


@pytest.mark.parametrize("path", OURS_OF_KERAS, ids=lambda p: p.stem)
def test_every_name_in_a_table_is_used(path):
    text = path.read_text().replace(ast.get_docstring(ast.parse(path.read_text()), False), "")
    elsewhere = {t.name for p in OURS.rglob("*.py") for t in touches(p.read_text()) if t.in_string}
    names = {_last(row.name) for row in table(path) if row.since[:2] <= VERSION}
    assert {n for n in names if not re.search(rf"\b{n}\b", text)} - elsewhere - OVERRIDDEN == set()


def _last(name):
    """Return the last part of a name in a table, or the key that it ends with."""
    return re.findall(r"\w+", name)[-1]


def test_every_module_has_a_canary():
    text = (OURS / "_keras" / "__init__.py").read_text()
    rows = [line.split("|") for line in text.splitlines() if "`tests/" in line and "|" in line]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert named == {path.stem for path in OURS_OF_KERAS} - {"__init__"}
    root = Path(__file__).parents[2]
    assert [row[2] for row in rows if not (root / row[2].strip("` ")).is_file()] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("model._flatten_layers()", "_flatten_layers"),
        ("getattr(model, '_compile_config', None)", "_compile_config"),
        ("names = ('wait', '_build_shapes_dict')", "_build_shapes_dict"),
        ("callback._model.stop_training = True", "_model"),
        ("from keras.src.saving import saving_lib; saving_lib.load_model", "saving_lib.load_model"),
        ("from keras.src.utils.io_utils import print_msg", "io_utils.print_msg"),
        ("class C(Callback):\n    def f(self): return self._model", "_model"),
    ],
)
def test_a_name_that_no_table_lists_is_found(line, found):
    assert {p.split()[-1] for p in problems("callbacks/new.py", line, set())} == {found}


@pytest.mark.parametrize(
    "line",
    [
        "class C:\n    def __init__(self): self._model = 1\n    def f(self): return self._model",
        "from keras_ratchet.callbacks.base import RatchetCallback\n"
        "class C(RatchetCallback):\n    def f(self): return self._model",
        "model._keras_ratchet_note = 1",
        "model.fit()",
    ],
)
def test_our_own_names_may_be_touched(line):
    assert problems("callbacks/new.py", line, set()) == []


def test_a_name_that_keras_does_not_have_is_found():
    for name in ("Layer._no_such", "fit:no_such", "naming['no_such']", "NoSuch._seed_generators"):
        assert not of_keras().knows(name)


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("Model", types.Model),
        ("Optimizer", types.Optimizer),
        ("CallbackList", types.CallbackList),
    ],
)
def test_the_protocols_list_public_members_that_keras_has(kind, protocol):
    members = {n for n in (*vars(protocol), *protocol.__annotations__) if not n.startswith("_")}
    bases = {"Model": ("Model", "Layer", "Trainer")}.get(kind, (kind,))
    assert members
    assert [m for m in members if not any(of_keras().knows(f"{b}.{m}") for b in bases)] == []
