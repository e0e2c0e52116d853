"""Signs of life of one start: beats of its processes, and what their callbacks note on saving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras_ratchet._storage import heartbeats
from keras_ratchet._storage.heartbeats import Beat
from keras_ratchet._storage.journal_tail import Tail
from keras_ratchet._supervisor import tree

Place = tuple[int, int]  # completed epochs, and completed batches of the next one
_BEGIN: Place = (0, 0)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a sign of life.

    Attributes:
        hang_s: Between two of them while a `fit` runs; None to wait for ever.
        start_s: Before the first batch of a `fit`, and after one.
        must_beat: Whether a script that never gives one hangs; otherwise it may know nothing of us.
    """

    hang_s: float | None = None
    start_s: float = 600.0
    must_beat: bool = False


class Life:
    """What one start shows of itself.

    Args:
        directory: Where its processes note their beats.
        patience: How long to wait for one.
        began_s: When it was started, in seconds since 1970: older lines of a journal do not count.

    Attributes:
        beats: The last beat of each process, the newest one at the end.
        saved: The place of the newest snapshot that it has saved, or None.
        was_preempted: Whether its callbacks say that a signal or a deadline has ended it.
    """

    def __init__(self, directory: str, patience: Patience, began_s: float) -> None:
        self._directory = directory
        self._patience = patience
        self._began_s = began_s
        self._tails: dict[str, Tail] = {}
        self._quiet_s: dict[int, float] = {}
        self._waited_s = 0.0
        self._has_saved_ahead = False
        self.beats: list[Beat] = []
        self.saved: Place | None = None
        self.was_preempted = False

    @property
    def place(self) -> Place | None:
        """Where training is, as far as is known."""
        return max(((b.epoch, b.batch) for b in self.beats), default=None)

    @property
    def resumed(self) -> Place | None:
        """The place of the snapshot that it has resumed from, if it has."""
        return next((beat.resumed for beat in self.beats if beat.resumed is not None), None)

    @property
    def saves_snapshots(self) -> bool:
        """Whether the next start can go on where this one stops."""
        return any(beat.snapshots for beat in self.beats)

    def progressed(self, furthest: Place) -> bool:
        """Return whether it came further: by its snapshots, or without any by its batches.

        Args:
            furthest: Where earlier starts were.
        """
        if self.saves_snapshots:
            return self._has_saved_ahead
        return self.place is not None and self.place > furthest

    def look(self, passed_s: float, root: int) -> None:
        """Look for signs of life.

        Args:
            passed_s: Seconds since the last look, without those in which this machine slept.
            root: The process of the script.
        """
        events = self._new_events()  # before the beats, in which is what they are compared with
        before = {beat.pid: beat.changed_ns for beat in self.beats}
        self.beats = heartbeats.read_all(self._directory)
        for event in events:
            self._take(event)
        is_stopped = tree.is_stopped(root)
        self._waited_s += 0.0 if is_stopped else passed_s
        for beat in self.beats:
            if events or before.get(beat.pid) != beat.changed_ns:
                self._quiet_s[beat.pid] = 0.0
            elif not is_stopped and not tree.is_stopped(beat.pid):
                self._quiet_s[beat.pid] += passed_s

    def _new_events(self) -> list[dict[str, Any]]:
        """Return what was noted in this start where the known processes save."""
        found = []
        for directory in {name for beat in self.beats for name in beat.directories}:
            tail = self._tails.setdefault(directory, Tail(directory, from_start=True))
            found += [event for event in tail.new() if _time_of(event) >= self._began_s]
        return found

    def _take(self, event: dict[str, Any]) -> None:
        self.was_preempted |= event["event"] == "preempted"
        if event["event"] != "save" or "series" in event:  # a snapshot belongs to no series
            return
        epoch, batch = event.get("epoch"), event.get("batch")
        if isinstance(epoch, int) and isinstance(batch, int):
            self.saved = epoch, batch
            self._has_saved_ahead |= self.saved != (self.resumed or _BEGIN)

    def hang(self) -> str:
        """Return why it hangs; empty if it does not, as far as is known."""
        patience = self._patience
        if patience.hang_s is None:
            return ""
        for beat in self.beats:
            limit_s = patience.hang_s if beat.state == "training" else patience.start_s
            if self._quiet_s[beat.pid] >= limit_s and tree.is_there(beat.pid):
                return f"{_EXPECTED[beat.state]} for {limit_s:g} s (process {beat.pid})"
        if not self.beats and patience.must_beat and self._waited_s >= patience.start_s:
            return f"no training has begun for {patience.start_s:g} s"
        return ""

    @property
    def is_unwatched(self) -> bool:
        """Whether no heartbeat has come for so long that none may come at all."""
        return not self.beats and self._waited_s >= self._patience.start_s


def _time_of(event: dict[str, Any]) -> float:
    time = event.get("time")
    return float(time) if isinstance(time, int | float) else 0.0


_EXPECTED = {
    "begun": "the first batch has not ended",
    "training": "no batch has ended and nothing was saved",
    "ended": "training is over, and nothing happens",
}


def describe(place: Place | None) -> str:
    """Return where a run goes on, for people.

    Example:
        >>> describe((3, 20)), describe((3, 0)), describe(None)
        ('after epoch 3 and 20 batches', 'after epoch 3', 'at the beginning')
    """
    if place is None or place == _BEGIN:
        return "at the beginning"
    epoch, batch = place
    batches = f"{batch} batch{'' if batch == 1 else 'es'}"
    if not batch:
        return f"after epoch {epoch}"
    return f"after epoch {epoch} and {batches}" if epoch else f"after {batches}"
