"""The notebooks of docs/notebooks: made from their `.py`, and what they show comes out again."""

import importlib.util
import json
import os
import re
import tempfile
from pathlib import Path

import nbformat
import pytest

HERE = Path(__file__).parents[2] / "docs" / "notebooks"
SHOWN = {
    "drop_in": [
        "Training stopped",
        "has not improved on",
        "best.keras",
        "status='ok'",
        "image/png",
    ],
    "kill_and_resume": [
        "exit code: -9",
        "batches are done",
        "16 arrays, 16 of them equal bit for bit",
        "KeyboardInterrupt",
        "Position(epoch=1, batch=10, step=60)",
    ],
    "averages": ["soup: the mean of", "test loss", "image/png", "has val_loss"],
}
NOISE = ("absl", "oneDNN", "I0000", "Warning", "WARNING", "Traceback")


def load_build():
    spec = importlib.util.spec_from_file_location("build", HERE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


@pytest.fixture
def environment(monkeypatch):
    """The environment, as it is again after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return json.dumps([cell.outputs for cell in cells], ensure_ascii=False)


def differences(guide):
    """Return the cells of a notebook that are others in its `.py`."""
    notebook = nbformat.read(guide.with_suffix(".ipynb"), as_version=4)
    kept = [(cell.cell_type, cell.source) for cell in notebook.cells]
    made = [(cell.cell_type, cell.source) for cell in build.source(guide).cells]
    return [pair for pair in zip(kept, made, strict=False) if pair[0] != pair[1]] + (
        [] if len(kept) == len(made) else [(len(kept), len(made))]
    )


def test_there_are_these_notebooks():
    assert sorted(guide.stem for guide in build.GUIDES) == sorted(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_has_the_cells_of_its_guide(name, tmp_path):
    guide = HERE / f"{name}.py"
    assert differences(guide) == [], "python docs/notebooks/build.py writes it again"
    changed = tmp_path / guide.name
    changed.write_text(guide.read_text().replace("In this notebook", "Here"))
    changed.with_suffix(".ipynb").write_bytes(guide.with_suffix(".ipynb").read_bytes())
    assert differences(changed)


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_kept_of_a_notebook_is_small_whole_and_of_no_machine(name):
    path = HERE / f"{name}.ipynb"
    assert path.stat().st_size < 150_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    shown = re.sub(r'"image/png": "[^"]*"', '"image/png"', outputs(notebook))
    assert not re.search(r"/(tmp|work|root|home/(?!you/))", shown)
    assert [noise for noise in NOISE if noise in shown] == []
    assert [text for text in SHOWN[name] if text not in shown] == []


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs(name, environment):
    place = tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True)
    with place as directory:  # short: the sockets' names have a limit
        notebook = build.execute(HERE / f"{name}.py", directory)
    shown = outputs(notebook)
    assert [text for text in SHOWN[name] if text not in shown] == []
    assert [noise for noise in NOISE if noise in shown] == []
