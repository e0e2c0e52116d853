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


@contextlib.contextmanager
def ray_run(kind):
    """Run `support.ray_runs`; give its directory, whose path is short: Ray's sockets are in it."""
    ray = os.environ.get("RATCHET_RAY", "")
    if not os.path.isdir(os.path.join(ray, "ray")):
        raise RuntimeError(
            "RATCHET_RAY must be a directory with Ray, which `make test-ranks` installs. "
            f"Got: {ray!r}."
        )
    storage = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = {
        "PYTHONPATH": os.pathsep.join([ray, str(processes.SOURCE), str(processes.TESTS)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "JAX_PLATFORMS": "cpu",
    }
    engine = "jax" if kind == "jax" else "torch"
    try:
        [ended] = processes.run(
            engine,
            processes.TESTS / "support/ray_runs.py",
            [kind, storage],
            world_size=1,
            env=environment,
            limit_s=500,
        )
        assert ended.code == 0, processes.report([ended])
        yield storage / "run", ended.output
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def epochs(directory, rank):
    lines = (directory / f"reports-{rank}.txt").read_text().splitlines()
    return [line.split()[0] for line in lines]


def digest(directory, rank):
    return (directory / f"digest-{rank}.txt").read_text()


def check_workers(kind):
    with ray_run(kind) as (run, output):
        assert (run / "killed/killed").exists() and not (run / "whole/killed").exists()
        for rank in (0, 1):
            assert digest(run / "killed", rank) == digest(run / "whole", rank)
            assert epochs(run / "whole", rank) == epochs(run / "killed", rank) == ALL
        attached = [(run / f"killed/reports-{rank}.txt").read_text() for rank in (0, 1)]
        assert "True" in attached[0] and "True" not in attached[1]
        path = output.rpartition("checkpoint ")[2].split()[0]
        assert keras_ratchet.verify(os.path.join(path, "best.keras"))


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_epoch_changes_nothing():
    check_workers("train")


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="LONG=1: one more start of Ray")
def test_a_worker_on_jax_that_is_killed_in_mid_epoch_changes_nothing():
    check_workers("jax")


def trials(output):
    """Return the directory of each trial, and the iterations that Tune has counted."""
    lines = [line.split() for line in output.splitlines() if line.startswith("trial ")]
    return {line[1]: (Path(line[2]) / line[1], line[3:]) for line in lines}


@pytest.mark.slow
def test_a_trial_that_is_killed_goes_on_in_its_own_directory():
    with ray_run("tune") as (_, output):
        found = trials(output)
        whole, killed, unsaved = (found[name] for name in ("whole", "killed", "unsaved"))
        assert (killed[0] / "killed").exists()
        assert digest(killed[0], 0) == digest(whole[0], 0)
        assert epochs(whole[0], 0) == epochs(killed[0], 0) == whole[1] == killed[1] == ALL
        # without snapshots the trial starts over, and its epochs are reported again
        assert epochs(unsaved[0], 0) == ["1", "2", *ALL]


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="LONG=1: one more start of Ray")
def test_a_trial_that_a_scheduler_stops_cleans_up():
    with ray_run("asha") as (_, output):
        for directory, count in trials(output).values():
            assert count == ["1", "2", "3"] and not (directory / "digest-0.txt").exists()
            for where in (directory, directory / "backup"):
                journal = (where / ".ratchet/journal.jsonl").read_text()
                assert '"event": "save"' in journal
            assert "SystemExit" in (directory / ".ratchet/journal.jsonl").read_text()
            assert keras_ratchet.checkpoints(directory / "backup")
