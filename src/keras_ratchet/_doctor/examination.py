"""The examination of a script: two whole runs, then runs that are killed and started again."""

from __future__ import annotations

import os
import random
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from keras_ratchet._doctor import costs, judging, kills, processes, scratch
from keras_ratchet._doctor.marks import Start, Training
from keras_ratchet._doctor.outcome import Examination, Kill
from keras_ratchet._doctor.trial import Trials, problem_of
from keras_ratchet.errors import ConfigError

DEFAULT_KILLS = 4
_TRIES = 3
_PATIENCE, _PATIENCE_S = 10, 60.0  # how often a whole run's length, and how much more, is a hang


@dataclass(frozen=True, slots=True)
class Options:
    """What the user wants.

    Attributes:
        command: Program and arguments.
        kills: How many; None for some, where they make sense.
        minutes: No kill is begun that would probably end later.
        epochs: After how many epochs each fit ends.
        steps: After how many steps each fit ends.
        seed: For the choice of instants.
        in_place: Whether the script runs in the present directory.
        keep: Where everything stays; None for nowhere.
    """

    command: tuple[str, ...]
    kills: int | None = None
    minutes: float | None = None
    epochs: int | None = None
    steps: int | None = None
    seed: int | None = None
    in_place: bool = False
    keep: str | None = None


def examine(options: Options, tell: Callable[[str], None]) -> Examination:
    """Run a script whole, twice, then kill it and run it again, and compare.

    Args:
        options: What the user wants.
        tell: Is given a line about what is being done.

    Raises:
        ConfigError: If the script cannot be examined.
    """
    source = os.getcwd()
    if options.in_place:
        scratch.refuse_keras_backups(source)
    plan = scratch.Plan(source) if options.in_place else scratch.plan_of(source)
    with _root(options.keep) as root:
        keep = options.keep is not None
        trials = Trials(
            options.command, plan, root, options.epochs, options.steps, options.in_place, keep
        )
        return _Examiner(options, trials, tell).examine()


@contextmanager
def _root(keep: str | None) -> Iterator[str]:
    if keep is None:
        with tempfile.TemporaryDirectory(
            prefix="ratchet-doctor-", ignore_cleanup_errors=True
        ) as place:
            yield os.path.realpath(place)
        return
    place = os.path.realpath(keep)
    os.makedirs(place, exist_ok=True)
    if os.listdir(place):
        raise ConfigError(
            f"--keep needs an empty directory, or a new one. Got: {keep!r}.", see="doctor"
        )
    yield place


class _Examiner:
    """One examination."""

    def __init__(self, options: Options, trials: Trials, tell: Callable[[str], None]) -> None:
        self._options = options
        self._trials = trials
        self._tell = tell
        self._began_at = time.monotonic()
        self._seed = random.randrange(10**6) if options.seed is None else options.seed
        self._random = random.Random(self._seed)
        self._notes: list[str] = []
        self._missed = 0
        self._spans: dict[str, list[kills.Span]] = {}

    def examine(self) -> Examination:
        """Do all of it."""
        one = self._whole(1)
        two = self._whole(2)
        whole, is_reproducible, judge = judging.judge_of(one, two)
        self._trials.drop(two)
        has_backup = all(mark.data.get("backup") for mark in one.begins().values())
        asked = self._asked(is_reproducible, has_backup)
        found = tuple(self._kills(one, judge, asked))
        started = one.starts[0].first("started")
        versions = started.data if started else {}
        return Examination(
            command=self._options.command,
            seed=self._seed,
            versions={k: str(versions[k]) for k in _VERSIONS if k in versions},
            seconds=one.starts[0].seconds,
            fits=len(one.begins()),
            steps=len(one.steps()),
            has_backup=has_backup,
            whole=whole,
            is_reproducible=is_reproducible,
            asked_kills=DEFAULT_KILLS if self._options.kills is None else self._options.kills,
            kills=found,
            missed=self._missed,
            cost=costs.cost_of_saves(one),
            says=one.said(),
            notes=[*self._notes, *judging.notes_on(one, self._trials.plan)],
            problems=judging.problems_with(one, self._trials.plan),
        )

    def _whole(self, number: int) -> Training:
        name = f"whole run {number}"
        self._tell(f"{name}: {shlex.join(self._options.command)}")
        training = self._trials.whole(name, self._left_s())
        start = training.starts[0]
        if problem := problem_of(start):
            self._tell(processes.last_lines(start.directory))
            too_long = (
                " That is more than --minutes allows; --epochs or --steps make the runs shorter."
                if start.has_hung
                else ""
            )
            raise ConfigError(
                f"The script does not run to its end without any kill: {problem}.{too_long}",
                see="doctor",
            )
        self._tell(f"{name}: ended after {start.seconds:.1f} s, {_steps_of(training)} steps")
        _check(training)
        return training

    def _left_s(self) -> float | None:
        """Return how much of the time is left; None if there is no limit."""
        if self._options.minutes is None:
            return None
        return max(self._began_at + 60 * self._options.minutes - time.monotonic(), 1.0)

    def _asked(self, is_reproducible: bool, has_backup: bool) -> int:
        """Return how many kills are to be tried."""
        if self._options.kills is not None:
            return self._options.kills
        if not is_reproducible:
            self._notes.append(
                "No run was killed: two whole runs differ already, so a comparison would say "
                "nothing. --kills N does it anyway."
            )
        elif not has_backup:
            self._notes.append(
                "No run was killed: without BackupAndRestore each start begins from nothing. "
                "--kills N does it anyway."
            )
        return DEFAULT_KILLS if is_reproducible and has_backup else 0

    def _kills(self, one: Training, judge: judging.Judge, asked: int) -> Iterator[Kill]:
        """Yield kills that happened."""
        start = one.starts[0]
        self._spans = kills.spans_of(start.marks, start.began_at)
        if asked and (absent := kills.missing(self._spans)):
            self._notes.append(f"The script has no moment {', '.join(absent)}; others were chosen.")
        expected_s = start.seconds + _startup_of(start)
        instants = kills.choose(self._spans, self._random)
        done = 0
        for number, instant in zip(range(1, asked + 1), instants, strict=False):
            left_s = self._left_s()
            if left_s is not None and expected_s > left_s:
                self._notes.append(
                    f"{done} of {asked} kills: another one takes about {expected_s:.0f} s, longer "
                    "than --minutes allows."
                )
                return
            to_go_s = expected_s * (asked - number + 1)
            title = f"kill {number} of {asked} (about {to_go_s:.0f} s to go)"
            kill = self._kill(title, number, instant, judge)
            if kill is not None:
                done += 1
                yield kill

    def _kill(
        self, title: str, number: int, instant: kills.Instant, judge: judging.Judge
    ) -> Kill | None:
        """Kill a run and let it end; None if all tries came too late."""
        whole_s = judge.whole.starts[0].seconds
        chosen: kills.Instant | None = instant
        for attempt in range(_TRIES):
            if chosen is None:
                break
            name = f"kill {number}" + (f" try {attempt + 1}" if attempt else "")
            self._tell(f"{title}: {chosen.kind}, after {chosen.at_s:.1f} s of {whole_s:.1f} s")
            training = self._trials.killed(name, chosen, _PATIENCE * whole_s + _PATIENCE_S)
            if _was_hit(training):
                kill = judging.kill_of(training, number, chosen.kind, judge)
                self._tell(_told(kill))
                self._trials.drop(training)
                return kill
            self._check_first_start(training.starts[0])
            self._missed += 1
            self._tell(f"kill {number}: came too late, training was over")
            self._trials.drop(training)
            chosen = kills.earlier(self._spans, chosen, self._random)
        self._notes.append(f"Kill {number} ({instant.kind}) came too late each time.")
        return None

    def _check_first_start(self, start: Start) -> None:
        """Raise an error if a run that was not hit has failed by itself."""
        if problem := problem_of(start):
            self._tell(processes.last_lines(start.directory))
            raise ConfigError(f"A run failed before it could be killed: {problem}.", see="doctor")


_VERSIONS = ("python", "keras", "backend", "package")


def _was_hit(training: Training) -> bool:
    """Return whether the kill came while the script still had something to train."""
    first = training.starts[0]
    return first.killed_at is not None and kills.hit(first.marks) != "after training"


def _told(kill: Kill) -> str:
    if kill.problem:
        return f"kill {kill.number}: {kill.hit}; the next start failed: {kill.problem}"
    outcome = "equal" if kill.is_equal else "not equal"
    return f"kill {kill.number}: {kill.hit}; run again, ended after {kill.seconds:.1f} s: {outcome}"


def _steps_of(training: Training) -> int:
    return len(training.steps())


def _startup_of(start: Start) -> float:
    """Return how long it took until training began."""
    first = start.first("fit_begin")
    return first.t - start.began_at if first else start.seconds


def _check(training: Training) -> None:
    """Raise an error if the script has nothing to examine."""
    start = training.starts[0]
    if start.first("fit_begin") is None:
        reached = start.first("started") is not None
        raise ConfigError(
            "The script "
            + ("never began an epoch" if reached else "never used a callback of keras_ratchet")
            + ", so there is nothing to examine. Add "
            "keras_ratchet.BackupAndRestore('backup') to callbacks=[...] of model.fit.",
            see="doctor",
        )
    if len({mark.pid for mark in start.of("fit_begin")}) > 1:
        raise ConfigError(
            "More than one process of the script trains. ratchet doctor examines scripts that "
            "train in one process; start it without torchrun or its like.",
            see="doctor",
        )


def shortened(options: Options) -> Sequence[str]:
    """Return the options that made the runs shorter, for people."""
    both = (("--epochs", options.epochs), ("--steps", options.steps))
    return [f"{name} {value}" for name, value in both if value is not None]
