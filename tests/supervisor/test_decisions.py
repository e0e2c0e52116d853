"""Whether a script is started again: rules without a clock, against simpler ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet._supervisor import slurm
from keras_ratchet._supervisor.life import describe
from keras_ratchet._supervisor.progress import Ended, Limits, Tally, decide, exit_code

ENDED = st.builds(
    Ended,
    code=st.sampled_from([0, 1, 75, -9]),
    cause=st.sampled_from(["exit", "preempted", "hang"]),
    progressed=st.booleans(),
    asked=st.sampled_from(["", "", "", "SIGTERM"]),
    requeued=st.sampled_from([False, False, False, True]),
)
LIMITS = st.builds(
    Limits,
    max_restarts=st.integers(0, 6),
    max_stalls=st.integers(1, 4),
    backoff_s=st.floats(0, 1000),
)


def starts(limits, endings):
    """Return how many starts there are, and whether it gave up: all from the whole history."""
    for number, last in enumerate(endings, 1):
        done = last.code == 0 and last.cause != "hang"
        if done or last.requeued or last.asked:
            return number, False
        tail = endings[max(0, number - limits.max_stalls) : number]
        is_stuck = len(tail) == limits.max_stalls and not any(e.progressed for e in tail)
        if number > limits.max_restarts or is_stuck:
            return number, True
    return len(endings) + 1, False


@given(LIMITS, st.lists(ENDED, max_size=8))
def test_the_number_of_starts_follows_from_the_whole_history(limits, endings):
    tally, count, gave_up = Tally(), 1, False
    for ended in endings:
        tally, decision = decide(tally, limits, ended)
        assert decision.reason
        if not decision:
            gave_up = decision.gives_up
            break
        count += 1
    assert (count, gave_up) == starts(limits, endings)


@given(LIMITS, st.lists(ENDED, max_size=8))
def test_the_wait_grows_while_there_is_no_progress_and_is_bounded(limits, endings):
    tally, before = Tally(), 0.0
    for ended in endings:
        tally, decision = decide(tally, limits, ended)
        if not decision:
            break
        assert 0 <= decision.wait_s <= 300
        assert decision.wait_s >= before or ended.progressed
        before = decision.wait_s


def test_the_wait_doubles_and_progress_begins_again():
    tally, limits, waits = Tally(), Limits(99, 99, 5.0), []
    for progressed in (True, False, False, True):
        tally, decision = decide(tally, limits, Ended(1, progressed=progressed))
        waits.append(decision.wait_s)
    assert waits == [5.0, 10.0, 20.0, 5.0]


@pytest.mark.parametrize(("code", "shown"), [(0, 0), (75, 75), (-9, 137), (-15, 143)])
def test_exit_codes_are_those_of_a_shell(code, shown):
    assert exit_code(code) == shown


NEAR, FAR = {slurm.END: "1100"}, {slurm.END: "5000"}


@pytest.mark.parametrize(
    ("asked", "was_preempted", "env", "is_ending"),
    [
        ("SIGUSR1", False, FAR, True),
        ("SIGTERM", False, NEAR, True),
        ("SIGTERM", False, {}, True),
        ("SIGTERM", True, FAR, False),  # scancel
        ("SIGINT", True, NEAR, False),  # a person
        ("", True, NEAR, True),  # deadline="slurm"
        ("", True, FAR, False),
        ("", False, NEAR, False),  # a crash
        ("SIGTERM", False, {slurm.END: "soon"}, True),
    ],
)
def test_when_the_time_limit_is_the_cause(asked, was_preempted, env, is_ending):
    assert slurm.is_job_ending(asked, was_preempted, env, now_s=1000.0) is is_ending


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (None, "at the beginning"),
        ((0, 0), "at the beginning"),
        ((0, 1), "after 1 batch"),
        ((3, 0), "after epoch 3"),
        ((3, 20), "after epoch 3 and 20 batches"),
    ],
)
def test_places_for_people(place, words):
    assert describe(place) == words
