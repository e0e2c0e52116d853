"""Workers and trials of Ray that are killed end as if they had not been, and report once."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support import processes

import keras_ratchet

LONG = bool(os.environ.get("RATCHET_LONG"))
ALL = ["1", "2", "3", "4"]
PATIENT = {  # Ray gives up early where the machine is busy
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "240",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "240",
}


@contextlib.contextmanager
def ray_runs(kinds, engine="torch"):
    """Run `support.ray_runs`; give its directory, whose path is short: Ray's sockets are in it."""
    ray = os.environ.get("RATCHET_RAY", "")
    if not os.path.isdir(os.path.join(ray, "ray")):
        raise RuntimeError(
            "RATCHET_RAY must be a directory with Ray, which `make test-ranks` installs. "
            f"Got: {ray!r}."
        )
    storage = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = PATIENT | {
        "PYTHONPATH": os.pathsep.join([ray, str(processes.SOURCE), str(processes.TESTS)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "JAX_PLATFORMS": "cpu",
    }
    script = processes.TESTS / "support/ray_runs.py"
    options = {"world_size": 1, "env": environment, "limit_s": 900}
    try:
        [ended] = processes.run(engine, script, [kinds, storage], **options)
        assert ended.code == 0, processes.report([ended])
        yield storage, [line.split() for line in ended.output.splitlines()]
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@pytest.fixture(scope="module")
def outcome():
    with ray_runs("torch,tune") as found:
        yield found


def epochs(directory, rank=0):
    lines = (directory / f"reports-{rank}.txt").read_text().splitlines()
    return [line.split()[0] for line in lines]


def digest(directory, rank=0):
    return (directory / f"digest-{rank}.txt").read_text()


def check_workers(kind, storage, lines):
    run = storage / kind
    assert (run / "killed/killed").exists() and not (run / "whole/killed").exists()
    for rank in (0, 1):
        assert digest(run / "killed", rank) == digest(run / "whole", rank)
        assert epochs(run / "whole", rank) == epochs(run / "killed", rank) == ALL
    attached = [(run / f"killed/reports-{rank}.txt").read_text() for rank in (0, 1)]
    assert "True" in attached[0] and "True" not in attached[1]
    [checkpoint] = [line[2] for line in lines if line[:2] == ["checkpoint", kind]]
    assert keras_ratchet.verify(os.path.join(checkpoint, "best.keras"))


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_epoch_changes_nothing(outcome):
    check_workers("torch", *outcome)


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="LONG=1: one more start of Ray")
def test_a_worker_on_jax_that_is_killed_in_mid_epoch_changes_nothing():
    with ray_runs("jax", "jax") as found:
        check_workers("jax", *found)


def trials(lines):
    """Return the directory of each trial, and the iterations that Tune has counted."""
    return [(Path(line[2]), line[3:]) for line in lines if line[:1] == ["trial"]]


@pytest.mark.slow
def test_a_trial_that_is_killed_goes_on_in_its_own_directory(outcome):
    [(directory, count)] = trials(outcome[1])
    assert (directory / "killed/killed").exists()
    assert digest(directory / "killed") == digest(directory / "whole")
    assert epochs(directory / "whole") == epochs(directory / "killed") == ALL
    assert count[-1] == "4"  # of the table's first rows Tune loses those that it has not synced
    # a run without snapshots starts over with the trial, and reports again
    assert epochs(directory / "unsaved") == [*ALL, *ALL]


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="LONG=1: one more start of Ray")
def test_trials_that_a_scheduler_stops_clean_up():
    with ray_runs("asha") as (_, lines):
        found = trials(lines)
        assert len({directory for directory, _ in found}) == 2
        for directory, count in found:
            assert (directory / "killed").exists()
            assert epochs(directory) == ["1", "2", "3"] and count[-1] == "3"
            assert "SystemExit" in (directory / ".ratchet/journal.jsonl").read_text()
            assert keras_ratchet.checkpoints(directory / "backup")
