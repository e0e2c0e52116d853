"""One training: the script in a scratch directory of its own, started until it ends."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from keras_ratchet._doctor import processes, scratch
from keras_ratchet._doctor.kills import Instant
from keras_ratchet._doctor.marks import Start, Training

OUTSIDE = "RATCHET_DOCTOR_OUTSIDE"
SCRATCH = "RATCHET_DOCTOR_SCRATCH"
_NOT_FOR_THE_SCRIPT = ("RATCHET_RUN", SCRATCH)


@dataclass(slots=True)
class Trials:
    """Runs trainings.

    Attributes:
        command: Program and arguments, as the user gave them.
        plan: What a scratch directory gets.
        root: Where scratch directories, marks and outputs go.
        epochs: After how many epochs each fit ends; None: as the script says.
        steps: After how many steps each fit ends.
        in_place: Whether the script runs in the user's directory.
        keep: Whether all that is left stays.
    """

    command: Sequence[str]
    plan: scratch.Plan
    root: str
    epochs: int | None = None
    steps: int | None = None
    in_place: bool = False
    keep: bool = False
    _holders: dict[str, tempfile.TemporaryDirectory[str]] = field(default_factory=dict)

    def whole(self, name: str, limit_s: float | None = None) -> Training:
        """Run the script once, from its begin to its end."""
        training = self._prepare(name)
        return self._start(training, None, limit_s)

    def killed(self, name: str, instant: Instant, limit_s: float) -> Training:
        """Run the script, kill it at an instant, and run it again until it ends.

        If the kill came too late, it is not run again.
        """
        training = self._start(self._prepare(name), instant, limit_s)
        if training.starts[0].killed_at is None:
            return training
        return self._start(training, None, limit_s)

    def drop(self, training: Training) -> None:
        """Remove what a training has left, if nobody wants to keep it."""
        holder = self._holders.pop(training.name, None)
        if holder is not None:
            holder.cleanup()

    def _prepare(self, name: str) -> Training:
        place = self._place(name)
        work = os.path.join(place, "work")
        outside = os.path.join(place, "outside")
        os.makedirs(outside)
        if self.in_place:
            return Training(name, self.plan.source, outside, in_place=True)
        return Training(name, work, outside, copied=scratch.mirror(self.plan, work))

    def _place(self, name: str) -> str:
        if self.keep:
            place = os.path.join(self.root, name.replace(" ", "-"))
            os.makedirs(place)
            return place
        holder = tempfile.TemporaryDirectory(dir=self.root, ignore_cleanup_errors=True)
        self._holders[name] = holder
        return holder.name

    def _start(
        self, training: Training, instant: Instant | None, limit_s: float | None
    ) -> Training:
        directory = os.path.join(os.path.dirname(training.outside), f"start-{len(training.starts)}")
        os.makedirs(directory)
        with open(os.path.join(directory, "options.json"), "w", encoding="utf-8") as file:
            json.dump({"epochs": self.epochs, "steps": self.steps}, file)
        command = list(self.command)
        if not self.in_place:
            command = scratch.command_in(command, self.plan.source, training.work)
        # Not below `root`: the names of sockets that Python makes there must stay short.
        with tempfile.TemporaryDirectory(prefix="ratchet-", ignore_cleanup_errors=True) as tmp:
            environment = self._environment(training, tmp)
            start = processes.start(
                command, training.work, environment, directory, instant=instant, limit_s=limit_s
            )
        return replace(training, starts=(*training.starts, start))

    def _environment(self, training: Training, tmp: str) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k not in _NOT_FOR_THE_SCRIPT}
        environment |= {
            OUTSIDE: training.outside,
            "TMPDIR": tmp,
            "PWD": training.work,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return environment | ({} if self.in_place else {SCRATCH: training.work})


def problem_of(start: Start) -> str | None:
    """Return why a start that was not killed on purpose did not end well; None if it did."""
    if start.has_hung:
        return f"it was still running after {start.seconds:.0f} s"
    if start.killed_at is not None or start.code == 0:
        return None
    how = f"signal {-start.code}" if start.code < 0 else f"exit code {start.code}"
    errors = [str(mark.data.get("text")) for mark in start.of("error")]
    return f"it ended with {how}" + (f": {errors[-1]}" if errors else "")
