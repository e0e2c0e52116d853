"""A fault at every call that changes the disk, in turn, in each mode."""

import itertools

import pytest
from support.faults import LOST, MODES
from support.scenarios import (
    SCENARIOS,
    Delete,
    FirstSave,
    SaveOver,
    SetAside,
    SnapshotDelete,
    all_runs,
    all_runs_with_two_faults,
)

SLOW = [pytest.mark.slow]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: type(s).__name__)
def test_a_fault_at_any_call_costs_no_checkpoint_and_leaves_nothing(scenario, mode, quick_path):
    runs = list(all_runs(scenario, quick_path, [mode]))
    assert runs
    assert [what for run in runs for what in run.violations] == []


@pytest.mark.parametrize("first", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize(
    "scenario", [FirstSave(), SaveOver(), SetAside()], ids=lambda s: type(s).__name__
)
def test_syncs_that_overlap_may_end_in_any_order(scenario, first, quick_path):
    """Draft, manifest, `.ratchet`: each subset of the three is durable when the power fails."""

    def is_chosen(number, verb):
        return verb.startswith("sync")

    runs = list(all_runs(scenario, quick_path, [*LOST, "late error"], is_chosen, first))
    assert [what for run in runs for what in run.violations] == []


TWICE = [
    pytest.param(s, marks=[] if isinstance(s, Delete | SaveOver | SnapshotDelete) else SLOW)
    for s in SCENARIOS
]


@pytest.mark.parametrize("scenario", TWICE, ids=lambda s: type(s).__name__)
def test_a_power_loss_after_a_crash_costs_no_checkpoint(scenario, quick_path):
    """The killed process had not synced its last rename, and the sweep builds on it."""
    runs = list(all_runs_with_two_faults(scenario, quick_path))
    assert [what for run in runs for what in run.violations] == []
