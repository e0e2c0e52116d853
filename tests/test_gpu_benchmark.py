"""The benchmark for accelerators, each of its parts tiny and on the CPU."""

import sys
from pathlib import Path

import keras
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402
from accelerator import costs, exact  # noqa: E402

BACKEND = keras.backend.backend()
CASE = "a generator on the device" if BACKEND == "torch" else "float32, dropout"


@pytest.mark.filterwarnings("ignore")
def test_every_row_of_our_own_callbacks_is_measured(tmp_path):
    titles = [*costs.LARGE, costs.OURS[2]]
    assert set(titles) <= set(costs.rows_in(tmp_path / "names"))
    *_, figures = costs.measure(0.1, 1, tmp_path, titles, 3600, least_s=0.02)
    assert list(figures["rows"]) == titles
    problems = [row["problem"] for row in figures["rows"].values() if "problem" in row]
    assert not problems


@pytest.mark.filterwarnings("ignore")
def test_a_row_that_fails_or_has_no_time_is_told_as_such(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(costs, "_one", fail)
    *_, figures = costs.measure(0.1, 1, tmp_path, costs.OURS[:1], 60)
    assert figures["rows"] == {costs.OURS[0]: {"problem": "OSError: full"}}
    *_, figures = costs.measure(0.1, 1, tmp_path, costs.OURS[:1], 0)
    assert figures["rows"] == {costs.OURS[0]: {"problem": "no time left"}}


@pytest.mark.filterwarnings("ignore")
def test_correctness_is_checked_and_a_broken_resume_shows(monkeypatch):
    monkeypatch.setattr(exact, "CASES", {CASE: exact.CASES[CASE]})
    assert [text.split(" (")[0] for _, text in exact.resumes({})] == ["equal"]
    assert exact.hook_values(epochs=2, width=16) == "equal"
    original = exact.train

    def broken(case, directory, cut=None, seed=7):
        outcome = original(case, directory, cut, seed)
        return {**outcome, "history": ""} if cut is False else outcome

    monkeypatch.setattr(exact, "train", broken)
    assert [text.split(" (")[0] for _, text in exact.resumes({})] == ["differs: History"]


def test_the_report_tells_goals_and_problems():
    row = {"hook_ms": 1.0, "total_ms": 12.0, "durable_ms": 30.0, "slower_ms": [9, 15]}
    rows = {costs.OURS[0]: row, costs.OURS[1]: {"problem": "no time left"}}
    results = {
        "exact/torch/0": {
            "device": "D",
            "values of the hook": "equal",
            "resumed": {"dropout": "equal (1 s)"},
        },
        "costs/torch/300": {"device": "D", "bytes": 3e8, "bus_ms": 10.0, "rows": rows},
        "costs/jax/300": {"problem": "not done within 90 s"},
    }
    text = gpu.report(results)
    assert "12.0 ms (1.20x), 9 to 15 ms" in text
    assert "| dropout | equal (1 s) | not run |" in text
    assert "hook 1.0 ms, goal 2.0 ms: reached" in text
    assert "hook and slower steps 12.0 ms, goal 11.0 ms: missed" in text
    assert "not measured (no time left)" in text
    assert "- costs/jax/300: not done within 90 s" in text


def test_a_part_that_takes_too_long_is_ended():
    assert gpu.run("costs", BACKEND, 1, 0.1) == {"problem": "not done within 0.1 s"}
