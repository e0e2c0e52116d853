"""Whether a save still fits before the end that a signal or a deadline has set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keras_ratchet.types import Verdict

_MARGIN = 1.25  # a save may take this many times as long as the longest one so far


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which the process may be gone.

    Args:
        at_s: The moment, in seconds on the clock that `check` is given.
        cause: What set it, for people: "SIGTERM" or "the deadline".
        kind: The same for programs.
    """

    at_s: float
    cause: str
    kind: Literal["signal", "deadline"]

    def is_near(self, now_s: float, save_s: float, step_s: float) -> bool:
        """Return whether one more step could make the save come too late.

        Args:
            now_s: The time.
            save_s: Duration of the longest save so far.
            step_s: Duration of the last step.
        """
        return now_s + _MARGIN * (save_s + step_s) >= self.at_s

    def check(self, now_s: float, save_s: float) -> Verdict:
        """Return whether a save fits.

        Example:
            >>> Deadline(30.0, "SIGTERM", "signal").check(now_s=2.0, save_s=40.0).reason
            'SIGTERM: a save takes about 40.0 s and 28.0 s are left, so the last save stands'
        """
        left_s = max(0.0, self.at_s - now_s)
        if _MARGIN * save_s <= left_s:
            return Verdict(True, "fits", f"{self.cause}: saved with {left_s:.1f} s left")
        return Verdict(
            False,
            "too late",
            f"{self.cause}: a save takes about {save_s:.1f} s and {left_s:.1f} s are left, so "
            "the last save stands",
        )
