"""The checkpoints that the paths given by a user stand for, ranked and verified."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import click

from keras_ratchet._storage import anywhere
from keras_ratchet._storage.listing import SUFFIXES
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet._storage.verify import Verification
from keras_ratchet.errors import LoadError
from keras_ratchet.policy.monitor import Mode
from keras_ratchet.policy.retention import Ranking, age, of_newest_runs, ranking_of
from keras_ratchet.types import CheckpointInfo


def checkpoints_in(directory: str) -> list[CheckpointInfo]:
    """Return the checkpoints of a directory, oldest first.

    Raises:
        LoadError: If there are none and never were; the message says where there are some.
    """
    found = anywhere.checkpoints(directory)
    if found or anywhere.is_known(directory):
        return found
    near = [] if is_url(directory) else _directories_below(directory)
    hint = f" There are some in: {', '.join(near)}." if near else ""
    raise LoadError(
        f"there are no checkpoints in {directory!r}: no .keras, .weights.h5 or .h5 file and no "
        f"snapshot.{hint}"
    )


def one(path: str) -> CheckpointInfo:
    """Return the checkpoint at a path.

    Raises:
        LoadError: If the path is none; if it is a directory of some, the message names the best.
    """
    if not anywhere.is_directory(path):
        return anywhere.checkpoint_at(path)
    inside = [info.name for info in checkpoints_in(path)]
    named = f", as in {anywhere.joined(path, inside[-1])!r}" if inside else ""
    raise LoadError(f"{path!r} is a directory of checkpoints: name one of them{named}.")


def left_out(checkpoint: CheckpointInfo) -> int | None:
    """Return how many weights of the model a file of what trained leaves out; 0 for a whole one.

    None stands for what is not known: the file is on a store, or cannot be read.
    """
    if not checkpoint.name.endswith(".weights.h5"):  # the only ones that may leave any out
        return 0
    if is_url(checkpoint.path):
        return None
    from keras_ratchet._formats.readers import missing_weights

    try:
        return len(missing_weights(checkpoint.path) or ())
    except LoadError:
        return None


def several(paths: Iterable[str]) -> list[CheckpointInfo]:
    """Return the checkpoints at paths, with those inside of directories."""
    found: list[CheckpointInfo] = []
    for path in paths:
        inside = anywhere.is_directory(path)
        found += checkpoints_in(path) if inside else [anywhere.checkpoint_at(path)]
    return found


def best_first(snapshots: Sequence[CheckpointInfo], ranking: Ranking) -> list[CheckpointInfo]:
    """Return the checkpoints that may be called best: with the metric, no NaN, no earlier run's."""
    return [s for s in ranking.sort(of_newest_runs(snapshots)) if ranking.beats(s.metrics, None)]


def marks(snapshots: Sequence[CheckpointInfo]) -> dict[str, list[str]]:
    """Return, by name, the marks of a directory's checkpoints: best, last, earlier run, pinned."""
    found: dict[str, list[str]] = {snapshot.name: [] for snapshot in snapshots}
    for snapshot in best_first(snapshots, ranking_of(snapshots))[:1]:
        found[snapshot.name].append("best")
    if snapshots:
        found[max(snapshots, key=age).name].append("last")
    newest = {snapshot.name for snapshot in of_newest_runs(snapshots)}
    for snapshot in snapshots:
        if snapshot.name not in newest:
            found[snapshot.name].append("earlier run")
        if snapshot.pinned:
            found[snapshot.name].append("pinned")
    return found


def ranking_by(
    metric: str | None, mode: str | None, snapshots: Sequence[CheckpointInfo] = ()
) -> Ranking:
    """Return the order that options ask for, or without them the one of the newest checkpoint.

    Raises:
        click.UsageError: If it is not known which direction of a metric is better.
    """
    known = ranking_of(snapshots)
    if metric is None:
        if mode is not None and known.metrics:
            return Ranking(((known.metrics[0][0], _mode(mode)), *known.metrics[1:]), known.ties)
        return known
    if mode is None:
        loss = "min" if metric == "loss" or metric.endswith("_loss") else None
        mode = {name: better for s in snapshots for name, better in s.ranking}.get(metric, loss)
    if mode is None:
        raise click.UsageError(
            f"It is unknown whether a small or a large {metric!r} is better. Pass --mode min "
            "or --mode max."
        )
    return Ranking(((metric, _mode(mode)),), known.ties)


def _mode(mode: str) -> Mode:
    return "min" if mode == "min" else "max"


def verify_all(snapshots: Sequence[CheckpointInfo], read: bool = False) -> dict[str, Verification]:
    """Return the outcome for each path; a bar on stderr shows the bytes, on a terminal only.

    Args:
        snapshots: The checkpoints.
        read: Whether those on a store are read; else the store is asked for checksums.
    """
    names: dict[str, list[str]] = {}
    for snapshot in snapshots:
        names.setdefault(anywhere.parent(snapshot.path), []).append(snapshot.name)
    outcomes: dict[str, Verification] = {}
    with progress("verifying", snapshots) as done:
        for directory, inside in names.items():
            outcomes |= anywhere.verify_all(directory, inside, read, done)
    return {s.path: outcomes[s.path] for s in snapshots if s.path in outcomes}


@contextlib.contextmanager
def progress(label: str, snapshots: Sequence[CheckpointInfo]) -> Iterator[Callable[[int], object]]:
    """Yield a function that is told of bytes; a bar on stderr shows them, on a terminal only."""
    if not sys.stderr.isatty():  # where click writes the bar's label
        yield lambda size_bytes: None
        return
    total = sum(snapshot.size_bytes for snapshot in snapshots)
    with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
        yield bar.update


def _directories_below(directory: str) -> list[str]:
    """Return the directories right below that hold checkpoints."""
    near = []
    with contextlib.suppress(OSError):
        below = sorted(entry.path for entry in os.scandir(directory) if entry.is_dir())
        near = [path for path in below if _holds_checkpoints(path)]
    return near


def _holds_checkpoints(directory: str) -> bool:
    with contextlib.suppress(OSError):
        names = os.listdir(directory)
        return METADATA in names or any(name.endswith(SUFFIXES) for name in names)
    return False
