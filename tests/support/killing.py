"""SIGKILL inside a save, many times over one path: who finds what afterwards?

`python -m support.killing SETTINGS` imports Keras once and starts no backend. For each kill it
forks a child that builds the model, gives all weights the save's number, and saves; the child
writes `B n` to a pipe before save n and `E n` after it. The parent waits for `B n`, sleeps a
random part of the time that a save takes, kills the child, and reads the rest of the pipe: if
there is no `E n`, the kill fell inside save n, and what is on the disk is examined.
"""

import collections
import dataclasses
import json
import os
import random
import shutil
import statistics
import sys
import time
from dataclasses import dataclass

from support import forking, stamped

WIDTH = 1280  # 39 MB in six layers
SAVES_PER_CHILD = 2


@dataclass(frozen=True)
class Settings:
    """What to do.

    Attributes:
        cases: Pairs of whose callback, one of `stamped.WHOSE`, and suffix.
        kills: Kills inside a save to collect for each case.
        limit_s: Time for each case.
        seed: Of the instants of the kills.
    """

    cases: tuple[tuple[str, str], ...]
    kills: int
    limit_s: float
    seed: int = 0


@dataclass(frozen=True)
class Kill:
    """One kill inside a save.

    Attributes:
        whose: One of `stamped.WHOSE`.
        suffix: The format.
        save: Number of the save that was in progress.
        committed: Number of the newest save that had ended before.
        found: Number of the save that the file holds now; None if it is not whole.
        problem: What is wrong with the file, or None.
        loaded: Number as Keras itself loads the file; None if this was not tried.
        strangers: Names beside the file that are neither it nor `.ratchet`.
    """

    whose: str
    suffix: str
    save: int
    committed: int
    found: int | None
    problem: str | None
    loaded: int | None
    strangers: list[str]

    @property
    def is_harmless(self):
        return self.found in (self.committed, self.save)


def run(settings, directory):
    """Make the kills in a process of its own; return them by case."""
    limit_s = settings.limit_s * len(settings.cases) + 60
    found = {case: [] for case in settings.cases}
    for record in forking.run_module(
        "support.killing", dataclasses.asdict(settings), directory, limit_s
    ):
        kill = Kill(**record)
        found[kill.whose, kill.suffix].append(kill)
    return found


def summary(kills):
    """Return what was found how often, as one line."""
    found = collections.Counter(
        kill.problem.partition(":")[0]
        if kill.problem
        else {kill.committed: "newest committed", kill.save: "in progress"}.get(kill.found, "other")
        for kill in kills
    )
    drafts = sum(bool(kill.strangers) for kill in kills)
    counts = ", ".join(f"{count} {what}" for what, count in found.most_common())
    return f"{len(kills)} kills inside a save: {counts}; {drafts} left a draft"


class Killer:
    """Kills children inside their saves, and examines what they leave."""

    def __init__(self, settings, whose, suffix):
        self._settings = settings
        self._whose = whose
        self._suffix = suffix
        directory = os.path.abspath(f"{whose}{suffix}")
        os.mkdir(directory)
        self._path = os.path.join(directory, f"model{suffix}")
        self._spare = f"{directory}.spare"  # a copy of the whole file of save `_spare_number`
        self._spare_number = 0
        self._random = random.Random(settings.seed)
        self._durations_s = []
        self._begun = self._committed = 0

    def kills(self):
        """Yield a `Kill` for each kill that fell inside a save, until there are enough."""
        wanted, limit_s = self._settings.kills, self._settings.limit_s
        deadline = time.monotonic() + limit_s
        self._save_undisturbed()
        done = 0
        for _ in range(5 * wanted + 20):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{done} of {wanted} kills in {limit_s} s")
            later = self._random.random() < 0.15  # the first save of a process, or the second
            if self._follow(self._begun + 1 + later) == 0 or self._begun == self._committed:
                continue
            done += 1
            yield self._examine(load=done % 20 == 0 or done == wanted)
            if done == wanted:
                return
        raise TimeoutError(f"only {done} of {wanted} kills fell inside a save")

    def _save_undisturbed(self):
        code = self._follow(None)
        assert code == 0, f"a child that nobody killed ended with {code}"
        shutil.copy(self._path, self._spare)
        self._spare_number = self._committed

    def _follow(self, victim):
        """Run a child and kill it in save `victim`; return its exit code."""
        whose, path, first = self._whose, self._path, self._begun + 1
        child = forking.Child(lambda say: _save_in_a_loop(whose, path, first, say))
        since = None
        for line in iter(child.line, None):
            what, number = line.split()
            if what == "E":
                self._committed = int(number)
                self._durations_s.append(time.monotonic() - since)
                continue
            since, self._begun = time.monotonic(), int(number)
            if self._begun == victim:
                usual_s = statistics.median(self._durations_s[-9:])
                time.sleep(self._random.uniform(0, 1) * usual_s)
                child.kill()
        child.end()
        assert child.code in (0, -9), f"the child ended with {child.code}"
        return child.code

    def _examine(self, load):
        found, problem = stamped.read(self._path, stamped.weight_count(WIDTH))
        loaded = None
        if load and problem is None:
            loaded = forking.ask(lambda: stamped.load(self._path, WIDTH))
        kill = Kill(
            self._whose,
            self._suffix,
            self._begun,
            self._committed,
            found,
            problem,
            loaded,
            stamped.strangers(self._path),
        )
        self._tidy(kill)
        return kill

    def _tidy(self, kill):
        """Remove leftovers; put back a whole file if need be, so that each kill meets one."""
        for name in kill.strangers:
            os.unlink(os.path.join(os.path.dirname(self._path), name))
        self._committed = kill.found
        if kill.problem is not None:
            shutil.copy(self._spare, self._path)
            self._committed = self._spare_number


def _save_in_a_loop(whose, path, first, say):
    model = stamped.build(WIDTH, first)
    callbacks = stamped.checkpoint(whose, path, model)
    for number in range(first, first + SAVES_PER_CHILD):
        if number > first:
            stamped.stamp(model, number)
        say(f"B {number}")
        stamped.save(callbacks, number)
        say(f"E {number}")


def main(settings):
    """Record the kills of each case."""
    forking.warm()
    records = forking.Records()
    for whose, suffix in settings.cases:
        for kill in Killer(settings, whose, suffix).kills():
            records.add(kill)


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
