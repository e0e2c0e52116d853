"""`ratchet soup`: one file whose weights are the mean of the best checkpoints."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import numpy as np

import keras_ratchet
from keras_ratchet._formats.numeric import is_float, mean_of, moving_statistics
from keras_ratchet._formats.patching import rewrite
from keras_ratchet._formats.readers import Weight, open_weights
from keras_ratchet._numbers import count, number
from keras_ratchet._storage import anywhere, journal, single_file
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import PROBLEM, _output, _select
from keras_ratchet.errors import CorruptError, LoadError
from keras_ratchet.policy.retention import Ranking
from keras_ratchet.policy.soup import distinct
from keras_ratchet.types import CheckpointInfo

_SUFFIXES = (".weights.h5", ".keras", ".h5")


@click.command()
@_output.directory_argument
@click.option("-o", "--output", metavar="FILE", type=_output.Place())
@click.option(
    "--k", type=click.IntRange(min=2), default=5, help="Number of checkpoints to average. [5]"
)
@click.option("--metric", help="Rank by this metric instead of the one they were saved by.")
@click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    help="Whether smaller (min) or larger (max) is better.",
)
@click.option(
    "--moving-statistics",
    "statistics",
    type=click.Choice(["refuse", "mean"]),
    default="refuse",
    help="What to do with moving statistics (BatchNormalization). [refuse]",
)
@click.option("--dry-run", is_flag=True, help="Show the members; write nothing.")
@_output.force_option
@_output.json_option
@click.pass_context
def soup(
    ctx: click.Context,
    directory: str,
    *,
    output: str | None,
    k: int,
    metric: str | None,
    mode: str | None,
    statistics: str,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a file whose weights are the mean of the best checkpoints.

    FILE is a copy of the best checkpoint whose weights are replaced by the mean of the k best;
    values that are not floats and the optimizer are copied unchanged. Keras loads it like any
    other file. Nothing is measured: to accept an average only if it is better, use
    `keras_ratchet.soup` or `keras_ratchet.mean` in Python. A state saved under two names counts
    once; corrupt checkpoints are skipped. Moving statistics fit only the weights with which they
    were computed, so they are refused unless --moving-statistics mean averages them too.
    """
    if output is None and not dry_run:
        raise click.UsageError("Pass the file to write: -o FILE (or look first with --dry-run).")
    snapshots = _select.checkpoints_in(directory)
    ranking = _select.ranking_by(metric, mode, snapshots)
    with contextlib.ExitStack() as stack:
        room = stack.enter_context(anywhere.room(anywhere.joined(directory, "soup")))
        files = _members(snapshots, ranking, k, room)
        members = list(files.values())
        if len(members) < 2:
            _output.say(_too_few(directory, ranking, members), err=True)
            ctx.exit(PROBLEM)
        _refuse_mixed(members)
        weights = _Weights([stack.enter_context(open_weights(file)) for file in files], members)
        if statistics == "refuse":
            weights.refuse_moving()
        if output is not None and not dry_run:
            _check_suffix(output, members[0])
            _output.make_place(output, force)
            _write(output, next(iter(files)), members, ranking, weights)
    _report(None if dry_run else output, members, ranking, weights, as_json)


def _members(
    snapshots: Sequence[CheckpointInfo], ranking: Ranking, k: int, room: str
) -> dict[str, CheckpointInfo]:
    """Return the k best that are whole by their local files, the best first."""
    files_only = [s for s in snapshots if not s.is_directory and s.name.endswith(_SUFFIXES)]
    members: dict[str, CheckpointInfo] = {}
    for snapshot in distinct(_select.best_first(files_only, ranking)):
        if len(members) == k:
            break
        try:
            members[anywhere.fetch_to(snapshot.path, room)] = snapshot
        except CorruptError as error:
            _output.say(f"Skipped {snapshot.name}: {str(error).removesuffix('.')}.", err=True)
    return members


def _too_few(directory: str, ranking: Ranking, members: Sequence[CheckpointInfo]) -> str:
    if not ranking.metrics:
        return f"No mean: no checkpoint in {directory!r} says by which metric it was saved."
    found = count(len(members), "checkpoint")
    return f"No mean: {found} in {directory!r} with a usable {ranking.metrics[0][0]}."


def _refuse_mixed(members: Sequence[CheckpointInfo]) -> None:
    """Raise a LoadError if the members are of different models or formats."""
    models = {member.fingerprint: member.name for member in reversed(members)}
    if len(models) > 1:
        raise LoadError(
            f"these belong to different models: {', '.join(sorted(models.values()))}. A mean "
            "needs checkpoints of one model: keep them in a directory of their own.",
            see="average-members",
        )


class _Weights:
    """The weights of the members, side by side.

    Args:
        opened: What each member's file holds, while it is open.
        members: The members, for messages.

    Attributes:
        floats: Keys of the weights that have a mean.
    """

    def __init__(
        self, opened: Sequence[Sequence[Weight]], members: Sequence[CheckpointInfo]
    ) -> None:
        models = [{w.key: w for w in weights if not w.of_optimizer} for weights in opened]
        for other, member in zip(models[1:], members[1:], strict=True):
            _compare(models[0], other, members[0], member)
        self._models = models
        self.floats = [key for key, w in models[0].items() if is_float(np.dtype(w.dtype))]

    @property
    def bytes(self) -> int:
        """The size of the averaged weights."""
        weights = [self._models[0][key] for key in self.floats]
        return sum(math.prod(w.shape) * np.dtype(w.dtype).itemsize for w in weights)

    def values(self) -> dict[str, Any]:
        """Return, by key, the functions that compute the means."""
        return {key: functools.partial(self._mean, key) for key in self.floats}

    def refuse_moving(self) -> None:
        """Raise a LoadError if moving statistics differ between the members."""
        for key in sorted(moving_statistics(self._models[0].values())):
            first, *others = (model[key].read().tobytes() for model in self._models)
            if any(other != first for other in others):
                raise LoadError(
                    f"{self._models[0][key].name!r} is a moving statistic "
                    "(BatchNormalization), which does not fit a mean of weights. Re-estimate "
                    "it in Python with keras_ratchet.mean(model, ..., average_data=x_train), "
                    "or average it too: --moving-statistics mean.",
                    see="average-members",
                )

    def _mean(self, key: str) -> Any:
        return mean_of(model[key].read() for model in self._models)


def _compare(
    ours: Mapping[str, Weight],
    theirs: Mapping[str, Weight],
    best: CheckpointInfo,
    member: CheckpointInfo,
) -> None:
    shapes = [{key: (w.shape, w.dtype) for key, w in model.items()} for model in (ours, theirs)]
    differing = [k for k in {**ours, **theirs} if shapes[0].get(k) != shapes[1].get(k)]
    if differing:
        raise LoadError(
            f"{member.name} does not have the weights of {best.name}: {differing[0]!r} "
            "differs. A mean needs checkpoints of one model in one format.",
            see="average-members",
        )


def _check_suffix(output: str, best: CheckpointInfo) -> None:
    suffix = next(suffix for suffix in _SUFFIXES if best.name.endswith(suffix))
    if next((s for s in _SUFFIXES if output.endswith(s)), None) != suffix:
        raise click.UsageError(f"FILE is a copy of {best.name}, so it must end in {suffix}.")


def _write(
    output: str,
    best_file: str,
    members: Sequence[CheckpointInfo],
    ranking: Ranking,
    weights: _Weights,
) -> None:
    best = members[0]
    name = output.rpartition("/")[2] if is_url(output) else os.path.basename(output)
    manifest = Manifest(
        files={},
        position=best.position,
        reason=_reason(members, ranking),
        series=name,
        saved_at=time.time(),
        versions={**best.versions, "keras_ratchet": keras_ratchet.__version__},
        fingerprint=best.fingerprint,
    )
    with anywhere.room(output) as where:
        local = os.path.join(where, name) if is_url(output) else output
        with _locked(local):
            single_file.save_file(
                local,
                lambda draft: draft.write(lambda file: rewrite(best_file, file, weights.values())),
                manifest,
            )
        epoch = best.position.epoch
        journal.append(where, "soup", name=name, reason=manifest.reason, epoch=epoch)
        if is_url(output):
            _put(where, output)


def _put(directory: str, url: str) -> None:
    """Put the one checkpoint in a directory, and its journal, on a store."""
    from keras_ratchet._storage.objects.copying import Push

    for copy in Push(directory, anywhere.parent(url)).run(force=True):
        if copy.problem:
            raise CorruptError(f"{copy.path!r} was not put: {copy.problem}.")


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    directory, name = os.path.split(os.path.abspath(path))
    with FileLock(single_file.series_lock_path(directory, name), f"checkpoint {path!r}"):
        yield


def _reason(members: Sequence[CheckpointInfo], ranking: Ranking) -> str:
    names = ", ".join(member.name for member in members)
    return f"mean of the {len(members)} best by {ranking.metrics[0][0]}: {names}"


def _report(
    output: str | None,
    members: Sequence[CheckpointInfo],
    ranking: Ranking,
    weights: _Weights,
    as_json: bool,
) -> None:
    name = ranking.metrics[0][0]
    if as_json:
        data = [_output.as_data(member) for member in members]
        _output.emit({"path": output, "metric": name, "members": data, "bytes": weights.bytes})
        return
    rows = [
        [m.name, str(m.position.epoch), number(m.metrics[name]), readable(m.size_bytes)]
        for m in members
    ]
    _output.table(["name", "epoch", name, "size"], rows, {"epoch", name, "size"})
    size = f"{count(len(weights.floats), 'weight')}, {readable(weights.bytes)}"
    what = f"the mean of {len(members)} checkpoints ({size})"
    if output is None:
        _output.say(f"Would write {what}. Nothing is written with --dry-run.")
    else:
        _output.say(f"{what} written to {output}; not measured")
