"""Comparisons, causes, text and the page: from data that is made up."""

import dataclasses
import re

import numpy as np
import pytest

from keras_ratchet._doctor import causes, comparing, files, page, text
from keras_ratchet._doctor.marks import MarkFile, Start, Training, mark_of
from keras_ratchet._doctor.outcome import (
    Cause,
    Comparison,
    Difference,
    Examination,
    Kill,
    Parting,
    PartOutcome,
)

EQUAL = Comparison((PartOutcome("model", "equal", 3),))
FOUND = Examination(
    command=("python", "<b>train</b>.py"),
    seed=1,
    versions={"keras": "3", "backend": "torch"},
    seconds=2.0,
    fits=1,
    steps=8,
    has_backup=True,
    whole=EQUAL,
    is_reproducible=True,
    asked_kills=1,
    kills=(Kill(1, "in a save", "in a save", 2, 3, (1, 2), 1, 0.5, 3.0, EQUAL),),
)


def unlike(*differences, part="model", status="differs"):
    outcome = PartOutcome(part, status, 3, differences)
    comparison = Comparison((outcome,), causes=(Cause("a kind", "A <sentence>.", "A cure."),))
    kill = dataclasses.replace(FOUND.kills[0], comparison=comparison)
    return dataclasses.replace(FOUND, kills=(kill,))


def test_only_equal_runs_and_a_kill_that_happened_are_fine():
    assert FOUND.is_fine
    for change in (
        {"kills": ()},
        {"is_reproducible": False},
        {"has_backup": False},
        {"problems": ("changed",)},
        {"whole": unlike().kills[0].comparison},
        {"kills": (dataclasses.replace(FOUND.kills[0], comparison=None, problem="crash"),)},
    ):
        assert not dataclasses.replace(FOUND, **change).is_fine, change
    assert not unlike(Difference("kernel")).is_fine
    assert not unlike(Difference("count"), status="not saved").is_fine
    assert dataclasses.replace(FOUND, kills=(), asked_kills=0).is_fine


def test_the_table_says_by_how_much_and_how_often():
    found = unlike(Difference("bias"), Difference("kernel", 0.25))
    (cells, color), *_ = text.part_rows(found)
    assert cells == ("model", "3", "equal", "differs by max |d| = 0.25: kernel")
    assert color == "red"
    assert text.verdict(found) == ("1 of 1 kill does not end as the whole run did.", "red")


def test_the_page_escapes_and_needs_nothing_from_elsewhere():
    html = page.page(unlike(Difference("<script>alert(1)</script>")))
    assert "<script" not in html and "&lt;script&gt;" in html and "<b>" not in html
    assert "&lt;sentence&gt;" in html and "prefers-color-scheme: dark" in html
    assert not re.search(r"https?:|src=|@import|url\(", html)
    assert 'name="viewport"' in html


def test_a_torn_line_is_no_mark(tmp_path):
    file = tmp_path / "marks.jsonl"
    file.write_bytes(b'{"t": 1, "pid": 1, "mark": "started"}\nnonsense\n{"t": 2, "pid": 1, "ma')
    marks = MarkFile(str(tmp_path))
    assert [mark.kind for mark in marks.new()] == ["started"]
    with file.open("ab") as more:
        more.write(b'rk": "step"}\n')
    assert [mark.kind for mark in marks.new()] == ["step"]


@pytest.mark.parametrize(
    "a, b, apart",
    [
        (np.float32([1, 2]), np.float32([1, 2.5]), 0.5),
        (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]), 0.0),
        (np.float32([np.nan]), np.float32([1]), np.inf),
        (np.int32([3]), np.int32([5]), 2.0),
        (np.array(["a"]), np.array(["b"]), None),
        (np.zeros(2), np.zeros(3), None),
        (np.zeros(0), np.zeros(0), 0.0),
        (np.uint16([0x3F80]).view("V2"), np.uint16([0x4000]).view("V2"), 1.0),
    ],
)
def test_the_distance_of_arrays(a, b, apart):
    assert comparing.array_distance(a, b) == apart


def ended(number, trained, value, directory="/none"):
    lines = [b'{"t": 1, "pid": 1, "mark": "step", "fit": %d, "epoch": 0, "batch": 0}' % number]
    end = b'{"t": 2, "pid": 1, "mark": "fit_end", "fit": %d, "parts": {"model": {"a": "%s"}}}'
    lines = [*lines * trained, end % (number, value)]
    return Start(directory, 0.0, 1.0, 0, tuple(mark_of(line) for line in lines))


def test_the_end_of_the_start_that_trained_counts():
    starts = (ended(0, True, b"old"), ended(0, True, b"trained"), ended(0, False, b"finished"))
    training = Training("kill 1", "/w", "/o", starts)
    assert training.ends()[0].parts["model"] == {"a": "trained"}


def test_a_file_that_differs_only_because_training_does_is_no_cause_of_its_own():
    later = PartOutcome(files.OTHER_FILES, "differs", 1, (Difference("log", what="line 2 ..."),))
    parting = Parting((0, 1, 0), ("kernel",), ("numpy",), "same")
    found = causes.of_kill(causes.Evidence(parting, parts=[later]))
    assert [cause.kind for cause in found] == ["random stream not restored"]
    assert [c.kind for c in causes.of_kill(causes.Evidence(parts=[later]))] == ["a file is written"]


def test_a_difference_without_evidence_is_said_plainly():
    parting = Parting((0, 1, 0), ("kernel",), (), "same")
    (cause,) = causes.of_kill(causes.Evidence(parting))
    assert cause.kind == "unknown" and "unknown" in cause.sentence and not cause.cure
    part = PartOutcome("decisions", "differs", 1, (Difference("best", 0.5, "1 and 2"),))
    (cause,) = causes.of_kill(causes.Evidence(parts=[part]))
    assert cause.kind == "unknown" and "decisions" in cause.sentence


def test_a_warning_about_the_data_is_repeated_where_it_came_true():
    evidence = causes.Evidence(
        Parting((0, 1, 0), ("kernel",), (), "order"),
        ((0, 1, 0), "order"),
        says=("The data cannot be resumed.",),
    )
    (cause,) = causes.of_kill(evidence)
    assert "The data cannot be resumed." in cause.sentence


def test_times_are_not_compared():
    end = b'{"t": 2, "pid": 1, "mark": "fit_end", "fit": 0, "parts": %s}'
    values = b'{"callbacks": {"T.saved_at": %d, "T.best": 1}}'
    starts = [Start("", 0.0, 1.0, 0, (mark_of(end % (values % time)),)) for time in (1, 2)]
    trainings = [Training("", "/w", "/o", (start,)) for start in starts]
    (part,) = comparing.compare_ends(*trainings)
    assert part.status == "equal" and part.compared == 1
