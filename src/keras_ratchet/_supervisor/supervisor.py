"""The supervisor: starts a script, watches it, and starts it again."""

from __future__ import annotations

import os
import select
import shlex
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from keras_ratchet._storage import disk, heartbeats
from keras_ratchet._supervisor import slurm, tree
from keras_ratchet._supervisor.child import Child
from keras_ratchet._supervisor.events import Events
from keras_ratchet._supervisor.life import Life, Patience, Place, describe
from keras_ratchet._supervisor.progress import Ended, Limits, Tally, decide, exit_code, how
from keras_ratchet._supervisor.signals import ENDING, Signals
from keras_ratchet.errors import ConfigError

_POLL_S = 0.25
_LONGEST_STEP_S = 2.0  # of the clock between two looks; more than that was a pause of this process
_STACKS_S = 1.0  # to print them
_CLEAN_S = 5.0  # for what the script has left
_LONG_S = 60.0  # a script without our callbacks that ran for so long may have come further


@dataclass(frozen=True, slots=True)
class Options:
    """What the user wants.

    Attributes:
        command: The script and its arguments.
        limits: How often it is started again.
        hang_s: After how many seconds without a sign of life it hangs; None for never.
        start_s: The same before the first batch and after a `fit`; None for the default.
        grace_s: Seconds between SIGTERM and SIGKILL.
        preempted_code: The exit code with which the script says that it was interrupted.
        requeues: Whether a Slurm job whose time is over is put into the queue again.
    """

    command: Sequence[str]
    limits: Limits = field(default_factory=Limits)
    hang_s: float | None = None
    start_s: float | None = None
    grace_s: float = 30.0
    preempted_code: int = 75
    requeues: bool = False

    def patience(self, has_beaten: bool) -> Patience:
        """Return how long to wait for a sign of life.

        Args:
            has_beaten: Whether an earlier start gave any.
        """
        start_s = max(600.0, self.hang_s or 0.0) if self.start_s is None else self.start_s
        return Patience(self.hang_s, start_s, has_beaten or self.start_s is not None)


class Supervisor:
    """Starts a script, and starts it again.

    Args:
        options: What the user wants.
        events: Where to tell what happens.

    Raises:
        ConfigError: On systems without `fork`.
    """

    def __init__(self, options: Options, events: Events) -> None:
        if not hasattr(os, "fork"):
            raise ConfigError("`ratchet run` needs Linux, macOS or another Unix.", see="supervisor")
        self._options = options
        self._events = events
        self._tally = Tally()
        self._asked: list[str] = []  # signals that ask the supervisor to end
        self._heard: list[str] = []  # those and the others, of this start
        self._has_beaten = self._said_unwatched = False
        self._furthest: Place = (0, 0)
        self._next: Place | None = None  # where the next start goes on, if that is known

    def run(self) -> int:
        """Start the script until it has ended for good; return the exit code."""
        tree.adopt_orphans()
        directory = tempfile.mkdtemp(prefix="ratchet-run-")
        try:
            with Signals() as signals:
                return self._repeat(os.path.join(directory, "beats"), signals)
        finally:
            disk.discard_tree(directory)

    def _repeat(self, directory: str, signals: Signals) -> int:
        reason = f"start 1 of {self._options.limits.max_restarts + 1}: {self._shown}"
        while True:
            ended = self._start(directory, reason, signals)
            self._tally, decision = decide(self._tally, self._options.limits, ended)
            if not decision:
                return self._end(ended, decision.gives_up, decision.reason)
            if self._is_ended(decision.wait_s, signals):
                return exit_code(ended.code) or self._options.preempted_code
            reason = self._restart_line(decision.reason)

    @property
    def _shown(self) -> str:
        return shlex.join(self._options.command)

    def _restart_line(self, why: str) -> str:
        number, of = self._tally.restarts + 1, self._options.limits.max_restarts + 1
        where = f"; goes on {describe(self._next)}" if self._next is not None else ""
        return f"start {number} of {of}, after {why}{where}"

    def _start(self, directory: str, reason: str, signals: Signals) -> Ended:
        """Start the script, and watch it until it has ended and nothing is left of it."""
        disk.discard_tree(directory)  # the beats of the last start
        disk.make_directories(directory)
        self._heard = []
        env = os.environ | {heartbeats.VARIABLE: directory}
        env.setdefault("PYTHONFAULTHANDLER", "1")  # stacks of a script that hangs before a `fit`
        life = Life(directory, self._options.patience(self._has_beaten), time.time() - 0.001)
        began_s = time.monotonic()
        child = Child(self._options.command, env)
        self._events.note("start", reason=reason, start=self._tally.restarts + 1, pid=child.pid)
        is_hung = self._watch(child, life, signals)
        took_s = time.monotonic() - began_s
        for _ in range(2):  # a directory that the first look finds is read by the second one
            life.look(0.0, child.pid)
        assert child.code is not None
        ended = self._judge(child.code, is_hung, life, took_s)
        self._finish(child, ended, life, took_s)
        return ended

    def _watch(self, child: Child, life: Life, signals: Signals) -> bool:
        """Watch the script until it has ended; return whether it hung."""
        is_hung = False
        last_s = time.monotonic()
        while child.code is None:
            self._wait_for_news(child, signals, _POLL_S)
            now_s = time.monotonic()  # it stands still while the machine sleeps
            life.look(min(now_s - last_s, _LONGEST_STEP_S), child.pid)
            last_s = now_s
            self._say_unwatched(life)
            if child.code is None and not self._asked and (why := life.hang()):
                is_hung = True
                self._end_hung(child, life, signals, why)
        return is_hung

    def _wait_for_news(self, child: Child, signals: Signals, at_most_s: float) -> None:
        ready, _, _ = select.select([child.fileno(), signals.fileno()], [], [], at_most_s)
        if child.fileno() in ready:
            child.look()
        for name in signals.take():
            self._pass_on(child, name)

    def _pass_on(self, child: Child, name: str) -> None:
        """Pass a signal on to the script; one that should end it must do so in time."""
        number = getattr(signal, name)
        if name == "SIGTSTP":  # the script is in a session of its own: Ctrl-Z does not reach it
            child.signal_all(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            child.signal_all(signal.SIGCONT)
            return
        child.signal(number)
        if name == "SIGWINCH":
            return
        self._heard.append(name)
        self._events.note("signal", reason=f"{name} passed on")
        if name in ENDING:
            self._asked.append(name)
            if len(self._asked) == 2:
                self._end_soon(child, self._options.grace_s)

    def _end_soon(self, child: Child, grace_s: float) -> None:
        """Give the script some time to end, then end it."""
        until = time.monotonic() + grace_s
        while child.code is None and (left_s := until - time.monotonic()) > 0:
            if select.select([child], [], [], left_s)[0]:
                child.look()
        while child.code is None:
            child.signal_all(signal.SIGKILL)
            if select.select([child], [], [], 1.0)[0]:
                child.look()

    def _end_hung(self, child: Child, life: Life, signals: Signals, why: str) -> None:
        """Print the stacks of a script that hangs, and end it."""
        self._events.note("hang", reason=f"{why}: it hangs. Its stacks follow, then it is ended.")
        printing = [beat for beat in life.beats if beat.stacks is not None]
        for beat in printing:
            child.signal_process(beat.pid, beat.stacks or 0)
        if not life.beats:  # PYTHONFAULTHANDLER prints them, and the process ends
            child.signal_all(signal.SIGABRT)
        until = time.monotonic() + _STACKS_S
        while child.code is None and (left_s := until - time.monotonic()) > 0:
            self._wait_for_news(child, signals, left_s)
        if child.code is None:
            child.signal(signal.SIGTERM)
            self._end_soon(child, self._options.grace_s)

    def _judge(self, code: int, is_hung: bool, life: Life, took_s: float) -> Ended:
        """Return how a start has ended."""
        self._has_beaten |= bool(life.beats)
        was_preempted = code == self._options.preempted_code or (life.was_preempted and code != 0)
        progressed = life.progressed(self._furthest)
        if not self._has_beaten:
            progressed = took_s >= _LONG_S
        self._furthest = max(self._furthest, life.place or (0, 0))
        if life.beats:
            at = life.saved or life.resumed or (0, 0)
            self._next = at if life.saves_snapshots else None
        cause = "hang" if is_hung else "preempted" if was_preempted else "exit"
        asked = self._asked[-1] if self._asked else ""
        ended = Ended(code, cause, progressed, asked)
        if self._options.requeues and not is_hung and self._requeue(ended, life):
            ended = Ended(code, cause, progressed, asked, requeued=True)
        return ended

    def _requeue(self, ended: Ended, life: Life) -> bool:
        """Put the job into the queue again if its time is over; return whether that was done."""
        heard = "SIGUSR1" if "SIGUSR1" in self._heard else (self._heard or [""])[-1]
        preempted = ended.cause == "preempted" or life.was_preempted
        if not slurm.is_job_ending(heard, preempted, os.environ):
            return False
        if ended.code == 0 and not life.was_preempted:  # it has ended by itself before
            return False
        return self._queue_again()

    def _queue_again(self) -> bool:
        job = slurm.job(os.environ)
        problem = slurm.requeue(job) if job else f"{slurm.JOB} is not set"
        if problem:
            self._events.note(
                "requeue", reason=f"the job could not be put into the queue again: {problem}"
            )
        else:
            self._events.note("requeue", reason=f"job {job} was put into the queue again")
        return not problem

    def _finish(self, child: Child, ended: Ended, life: Life, took_s: float) -> None:
        """End what the script has left, unless it has ended well; tell how it has ended."""
        left = False
        if ended.code == 0 and ended.cause != "hang":
            child.leave()
        else:
            left = child.clean(_CLEAN_S)
        what = "as it hung," if ended.cause == "hang" else f"with {how(ended)}"
        more = "; processes that it had left were ended" if left else ""
        place = {"epoch": life.place[0], "batch": life.place[1]} if life.place else {}
        self._events.note(
            "exit",
            reason=f"ended {what} after {took_s:.1f} s{more}",
            code=exit_code(ended.code),
            took_s=round(took_s, 3),
            progressed=ended.progressed,
            **place,
        )

    def _say_unwatched(self, life: Life) -> None:
        if self._options.hang_s is None or self._said_unwatched or not life.is_unwatched:
            return
        if not self._options.patience(self._has_beaten).must_beat:
            self._said_unwatched = True
            self._events.note(
                "unwatched",
                reason="no heartbeat: without a callback of keras_ratchet in the script its hangs "
                "cannot be seen; --start-after S says when there has to be one",
            )

    def _is_ended(self, seconds: float, signals: Signals) -> bool:
        """Wait before a restart; return whether a signal says that there is to be none."""
        until = time.monotonic() + seconds
        while True:
            for name in signals.take():
                is_end = self._options.requeues and slurm.is_job_ending(name, False, os.environ)
                if name not in ENDING and not is_end:
                    continue
                self._events.note("signal", reason=f"{name} came between two starts")
                if (is_end and self._queue_again()) or name in ENDING:
                    return True
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            select.select([signals], [], [], left_s)

    def _end(self, ended: Ended, gives_up: bool, reason: str) -> int:
        """Tell why the script is not started again; return the exit code."""
        if gives_up and self._options.limits.max_restarts:
            self._events.note("give_up", reason=f"gives up: {reason}")
        if ended.code == 0 and (ended.requeued or gives_up):
            return self._options.preempted_code  # its work is not done
        return exit_code(ended.code)
