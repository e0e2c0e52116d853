"""`ratchet verify --load`: can Keras load the checkpoints that verify?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from keras_ratchet._formats.load_trial import LoadTrial, Outcome, without_model
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.verify import Verification
from keras_ratchet.cli import _output
from keras_ratchet.errors import LoadError
from keras_ratchet.types import CheckpointInfo

FINE = ("loads", "weights", "snapshot")  # the others are problems
_COLORS = {"weights": "yellow", "snapshot": "yellow", "loads": None}


def load_all(
    checkpoints: Sequence[CheckpointInfo],
    outcomes: dict[str, Verification],
    custom: Sequence[str],
    limit_s: float,
) -> dict[str, Outcome]:
    """Return what becomes of loading each checkpoint, by path.

    Args:
        checkpoints: The checkpoints.
        outcomes: Whether their bytes are those that were saved, by path; what is damaged is not
            loaded.
        custom: Modules to import first.
        limit_s: After how many seconds a file counts as hung.
    """
    return {
        info.path: _loaded(info, outcomes[info.path], custom, limit_s)
        for info in checkpoints
        if info.path in outcomes
    }


def _loaded(
    info: CheckpointInfo, verified: Verification, custom: Sequence[str], limit_s: float
) -> Outcome:
    if verified.status == "corrupt":
        return Outcome(info.path, "fails", "not tried, because it is damaged")
    if info.is_directory:
        return Outcome(info.path, "snapshot", _what_a_snapshot_needs(info))
    try:
        local = anywhere.local_copy(info.path)
    except LoadError as error:
        return Outcome(info.path, "fails", str(error))
    outcome = without_model(local)
    if outcome is None:
        backend = info.versions.get("backend", "")
        outcome = LoadTrial(local, backend, custom, limit_s=limit_s).wait()
    return outcome


def _what_a_snapshot_needs(info: CheckpointInfo) -> str:
    known = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    saved = f" (saved with {known})" if known else ""
    return (
        "a snapshot holds the state of a run, not how its model is built: it needs the script that "
        f"saved it, with BackupAndRestore or Run on this directory{saved}"
    )


def say(outcomes: dict[str, Outcome]) -> None:
    """Print a line for each."""
    for path, outcome in outcomes.items():
        details = f": {outcome.problem}" if outcome.problem else _how(outcome)
        line = f"{outcome.status.ljust(10)}  {path}{details}"
        _output.say(line, fg=_COLORS.get(outcome.status, "red"))
    kinds = [outcome.status for outcome in outcomes.values()]
    loaded, bad = kinds.count("loads"), sum(kind not in FINE for kind in kinds)
    _output.say(f"{loaded} loaded, {bad} not, {len(kinds) - loaded - bad} without a model")


def _how(outcome: Outcome) -> str:
    """Return on what a file was loaded, and what it needed."""
    needs = ", ".join(map(str, outcome.custom))
    needed = f", with {needs}" if needs else ""
    return f" ({outcome.backend}, {outcome.took_s:.1f} s{needed})"


def as_data(outcome: Outcome | None) -> dict[str, Any] | None:
    """Return an outcome as data for JSON."""
    if outcome is None:
        return None
    data = asdict(outcome)
    for name in ("custom", "missing"):
        data[name] = [{k: v for k, v in each.items() if k != "is_certain"} for each in data[name]]
    return {name: value for name, value in data.items() if name != "path"}
