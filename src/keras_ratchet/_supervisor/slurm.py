"""Slurm: whether the end of the job is why a script has ended, and back into the queue."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping

JOB, END = "SLURM_JOB_ID", "SLURM_JOB_END_TIME"
_ARRAY, _TASK = "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"
_NEAR_S = 600.0  # the end of the job
_PATIENCE_S = 60.0  # with scontrol


def is_job_ending(
    asked: str, was_preempted: bool, env: Mapping[str, str], now_s: float | None = None
) -> bool:
    """Return whether the job's time limit is the cause: then the job has to be queued again.

    SIGUSR1 is what `#SBATCH --signal=B:USR1@120` sends for that. A SIGTERM comes from `scancel`,
    too, and a script is preempted for other reasons: these count if the job has less than ten
    minutes left, or nobody knows how many.

    Args:
        asked: The name of the last signal that the supervisor got; empty without one.
        was_preempted: Whether the script says that it was asked to end, or saw a deadline.
        env: The environment, with Slurm's variables.
        now_s: The time; None for now.
    """
    if asked == "SIGUSR1":
        return True
    if asked not in ("", "SIGTERM") or not (asked or was_preempted):
        return False
    try:
        left_s = float(env[END]) - (time.time() if now_s is None else now_s)
    except (KeyError, ValueError):
        return True
    return left_s < _NEAR_S


def job(env: Mapping[str, str]) -> str:
    """Return the job's name for `scontrol`; empty outside of Slurm.

    Example:
        >>> job({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"})
        '12_3'
    """
    if env.get(_ARRAY) and env.get(_TASK):
        return f"{env[_ARRAY]}_{env[_TASK]}"
    return env.get(JOB, "")


def requeue(name: str) -> str:
    """Put a job into the queue again; return what went wrong, or nothing."""
    if shutil.which("scontrol") is None:
        return "there is no scontrol on the PATH"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", name],
            check=False,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return done.stderr.strip() or f"scontrol ended with exit code {done.returncode}"
