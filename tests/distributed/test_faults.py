"""What goes wrong on one rank ends all ranks, soon, with a message; or it changes nothing.

`make test-ranks LONG=1` runs every fault on every engine.
"""

import os
from pathlib import Path

import pytest
from support import processes, rank_faults

LONG = bool(os.environ.get("RATCHET_LONG"))
LIMIT_S = 300
SOON_S = 90  # after the other: the watchdog's grace is 20 s, and the machine may be loaded
SCRIPT = Path(rank_faults.__file__)

pytestmark = [pytest.mark.slow]


def on(*engines):
    """Parametrize by engines; with LONG by all."""
    return pytest.mark.parametrize("engine", processes.ENGINES if LONG else engines)


def run(engine, fault, where):
    ended = processes.run(engine, SCRIPT, [fault, where], limit_s=LIMIT_S)
    assert abs(ended[0].ended_s - ended[1].ended_s) < SOON_S, processes.report(ended)
    return ended


def check_all(ended, code, *texts):
    for rank in ended:
        assert rank.code == code, processes.report(ended)
        assert all(text in rank.output for text in texts), processes.report(ended)


@on("torch-fit")
def test_a_full_disk_of_rank_0_is_a_save_error_on_all(engine, tmp_path):
    check_all(run(engine, "disk full", tmp_path), 1, "SaveError", "No space left", "Free some")


@on("torch")
def test_a_full_disk_that_is_only_warned_of_is_told_by_rank_0_and_changes_nothing(engine, tmp_path):
    ended = run(engine, "disk full, warn", tmp_path)
    straight = run(engine, "", tmp_path / "straight")
    check_all(ended, 0, "ended with")
    last = [[rank.output.splitlines()[-1] for rank in ranks] for ranks in (ended, straight)]
    assert last[0] == last[1]
    assert "No space left" in ended[0].output
    assert "No space left" not in ended[1].output


@on("torch", "jax")
def test_an_exception_on_one_rank_ends_the_other_too(engine, tmp_path):
    ended = run(engine, "raise", tmp_path)
    assert ended[0].code != 0 and ended[1].code != 0, processes.report(ended)
    assert "ValueError: boom" in ended[1].output
    assert "ended with" not in ended[0].output
    again = run(engine, "", tmp_path)
    check_all(again, 0, "ended with")


@pytest.mark.parametrize("engine", ["torch-fit", "jax"] if LONG else ["torch-fit"])
def test_fewer_batches_on_one_rank_are_found_at_the_start(engine, tmp_path):
    text = "rank 0 has batches per epoch = 6, rank 1 has 4"
    ended = run(engine, "short", tmp_path)
    check_all(ended, 1, "ConfigError", text)
    assert "struck" not in ended[0].output


@on("torch")
def test_fewer_batches_in_a_loop_are_found_at_the_start_if_the_data_has_a_length(engine, tmp_path):
    text = "rank 0 has batches per epoch = 6, rank 1 has 4"
    check_all(run(engine, "short", tmp_path), 1, "ConfigError", text)


@on("torch")
def test_a_rank_that_waits_in_vain_for_one_with_more_batches_ends_both(engine, tmp_path):
    ended = run(engine, "short, unknown", tmp_path)
    assert all(rank.code not in (0, -9) for rank in ended), processes.report(ended)
    assert "rank 1 waits in vain at" in ended[1].output
    assert "in batch 5 of epoch 1" in ended[1].output


@on("torch")
def test_a_directory_of_each_ranks_own_is_found_at_the_start(engine, tmp_path):
    ended = run(engine, "apart", tmp_path)
    check_all(ended, 1, "ConfigError", "Give all ranks one directory")
    assert "struck" not in ended[0].output


@on("torch-fit")
def test_sigterm_to_one_rank_ends_all_with_one_snapshot_and_the_exit_code(engine, tmp_path):
    check_all(run(engine, "sigterm", tmp_path), 77)
    names = [path.name for path in (tmp_path / "backup").glob("epoch-*")]
    assert any("batch" in name and not name.endswith("0000000") for name in names), names
    check_all(run(engine, "", tmp_path), 0, "ended with")


@on("torch")
def test_the_second_of_two_launches_on_one_directory_is_refused_on_all_its_ranks(engine, tmp_path):
    with processes.start(engine, SCRIPT, ["wait", tmp_path], limit_s=LIMIT_S) as first:
        assert first.wait_for(0, "struck") and first.wait_for(1, "struck")
        check_all(run(engine, "", tmp_path), 1, "LockedError")
        (tmp_path / "go").touch()
        check_all(first.end(), 0, "ended with")


@on("torch")
def test_a_rank_that_is_started_late_is_waited_for(engine, tmp_path):
    given = {"limit_s": LIMIT_S}
    with processes.start(engine, SCRIPT, ["", tmp_path], ranks=[0], **given) as first:
        assert not first.has_ended_within(0, 3)
        later = {"ranks": [1], "port": first.port, **given}
        with processes.start(engine, SCRIPT, ["", tmp_path], **later) as second:
            check_all([*first.end(), *second.end()], 0, "ended with")
