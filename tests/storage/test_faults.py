"""A fault at every call that changes the disk, in turn, in each mode."""

import pytest
from support.faults import MODES
from support.scenarios import SCENARIOS, all_runs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: type(s).__name__)
def test_a_fault_at_any_call_costs_no_checkpoint_and_leaves_nothing(scenario, mode, quick_path):
    runs = list(all_runs(scenario, quick_path, [mode]))
    assert runs
    assert [what for run in runs for what in run.violations] == []
