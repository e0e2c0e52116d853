"""The package's metadata, the public CI and the check of what is uploaded."""

import re
import tomllib
from pathlib import Path

import pytest
from support import package

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_classifiers_name_the_versions_of_python_that_the_ci_has(pyproject):
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(pyproject["project"]["classifiers"]))
    tested = re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text())[1]
    assert claimed == re.findall(r"[\d.]+", tested)
    assert pyproject["project"]["requires-python"] == f">={claimed[0]}"


def test_the_links_of_the_readme_are_absolute_on_pypi(pyproject):
    text = (ROOT / "README.md").read_text()
    assert package.relative_links(text)  # in the repository they are relative
    for change in pyproject["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"][
        "substitutions"
    ]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert not package.relative_links(text)
    assert "https://github.com/keras-ratchet/keras-ratchet/blob/main/docs/resume.md" in text


def test_stray_files_are_found():
    good = ["keras_ratchet/py.typed", "keras_ratchet-0.1.0.dist-info/METADATA"]
    bad = ["tests/conftest.py", "keras_ratchet/__pycache__/a.pyc", "keras_ratchet.pth"]
    assert package.stray_in_wheel(good + bad) == bad
    sources = ["a-0.1/src/keras_ratchet/run.py", "a-0.1/examples/runs/digits/x.png", "a-0.1/.env"]
    assert package.stray_in_sdist(sources) == ["examples/runs/digits/x.png", ".env"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_the_public_ci_calls_targets_that_exist_and_actions_by_hash(path):
    text = path.read_text()
    targets = set(re.findall(r"^([\w-]+):(?! =)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"make ([a-z][\w-]*)", text))
    assert called and called <= targets
    uses = re.findall(r"uses: (\S+)@(\S+) # v[\d.]+$", text, re.MULTILINE)
    assert len(uses) == text.count("uses:")
    assert all(re.fullmatch(r"[0-9a-f]{40}", pin) for _, pin in uses)
    assert "\npermissions: {}\n" in text
