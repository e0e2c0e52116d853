"""Whether a script is started again, and when: pure rules. No clock, process or disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

_LONGEST_WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows.

    Attributes:
        max_restarts: Restarts in all.
        max_stalls: How many starts in a row may end without progress.
        backoff_s: Seconds before a restart; doubled for each start in a row without progress.
    """

    max_restarts: int = 3
    max_stalls: int = 2
    backoff_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a start has ended.

    Attributes:
        code: The exit code, -N for a signal.
        cause: "exit", "preempted" or "hang".
        progressed: Whether the next start would go on from a later place than this one did.
        asked: The name of the signal that asked the supervisor to end; empty without one.
        requeued: Whether the job was put into the queue again.
    """

    code: int
    cause: str = "exit"
    progressed: bool = False
    asked: str = ""
    requeued: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted so far.

    Attributes:
        restarts: Restarts in all.
        stalls: Starts without progress since the last one with some.
    """

    restarts: int = 0
    stalls: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do; true if the script is to be started again.

    Attributes:
        restarts: Whether it is.
        gives_up: Whether it is not although its work is not done.
        wait_s: How long to wait before.
        reason: Why.
    """

    restarts: bool
    reason: str
    wait_s: float = 0.0
    gives_up: bool = False

    def __bool__(self) -> bool:
        return self.restarts


def decide(tally: Tally, limits: Limits, ended: Ended) -> tuple[Tally, Decision]:
    """Return what to do after the script has ended, and what is counted then.

    Args:
        tally: What was counted so far.
        limits: What the user allows.
        ended: How the script has ended.

    Example:
        >>> tally, decision = decide(Tally(), Limits(), Ended(1, progressed=True))
        >>> bool(decision), decision.wait_s
        (True, 5.0)
    """
    if ended.code == 0 and ended.cause != "hang":
        return tally, Decision(False, "the script has ended")
    if ended.requeued:
        return tally, Decision(False, "the job was put into the queue again")
    if ended.asked:
        return tally, Decision(False, f"{ended.asked} has asked it to end")
    stalls = 0 if ended.progressed else tally.stalls + 1
    tally = replace(tally, stalls=stalls)
    if tally.restarts >= limits.max_restarts:
        times = _times(limits.max_restarts, "restart")
        return tally, Decision(False, f"after {times}, as many as allowed", gives_up=True)
    if stalls >= limits.max_stalls:
        times = _times(stalls, "start")
        row = " in a row" if stalls > 1 else ""
        reason = f"no progress in {times}{row}: another one would end the same way"
        return tally, Decision(False, reason, gives_up=True)
    wait_s = min(limits.backoff_s * 2.0 ** min(stalls, 64), _LONGEST_WAIT_S)
    return replace(tally, restarts=tally.restarts + 1), Decision(True, how(ended), wait_s)


def how(ended: Ended) -> str:
    """Return how a start has ended, for people.

    Example:
        >>> how(Ended(-9)), how(Ended(75, "preempted"))
        ('signal 9', 'a preemption (exit code 75)')
    """
    code = f"exit code {ended.code}" if ended.code >= 0 else f"signal {-ended.code}"
    if ended.cause == "preempted":
        return f"a preemption ({code})"
    return "a hang" if ended.cause == "hang" else code


def exit_code(code: int) -> int:
    """Return the exit code that a shell gives to a process that has ended.

    Example:
        >>> exit_code(3), exit_code(-15)
        (3, 143)
    """
    return code if code >= 0 else 128 - code


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
