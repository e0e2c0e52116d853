"""docs/compatibility.md is what its generator makes of the results that were committed."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "compatibility.md"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location(
        "compatibility", ROOT / "benchmarks" / "compatibility.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_results(generator):
    assert PAGE.read_text() == generator.render(generator.load()), (
        "python benchmarks/compatibility.py --render writes the page again"
    )


def test_another_result_is_another_page(generator):
    first, *others = generator.load()
    changed = {**first, "failed": ["a_test"], "passed": first["passed"] - 1}
    assert "1 failed" in generator.render([changed, *others])
    assert "not run" in generator.render(others)


def test_the_versions_that_are_promised_have_a_row(generator):
    oldest = re.search(r'"keras>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    text = PAGE.read_text()
    for version in (
        *generator.versions(),
        generator.pinned("constraints.txt", "keras"),
        generator.pinned("constraints-floors.txt", "keras"),
    ):
        assert text.count(f"\n| {version} |") == len(generator.TITLES), version
    assert generator.versions()[0].startswith(oldest)


def test_nothing_that_was_run_has_failed(generator):
    assert [r["failed"] for r in generator.load() if r["failed"]] == []


def test_the_tests_of_keras_are_those_of_the_conformance_test(generator):
    source = (ROOT / "tests" / "conformance" / "test_keras_own_tests.py").read_text()
    assigned = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
    }
    assert tuple(assigned["PASSED_ON_3_15_1"]) == generator.OWN_TESTS
    assert assigned["REPLAY"] in generator.KNOWN
