"""`ratchet ls`: the checkpoints of a directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from keras_ratchet._numbers import number
from keras_ratchet._storage.space import readable
from keras_ratchet._storage.verify import Verification
from keras_ratchet.cli import PROBLEM, _columns, _output, _select
from keras_ratchet.policy.retention import ranking_of
from keras_ratchet.types import CheckpointInfo

_METRIC_COLUMNS = 4
_NO_MANIFEST = "no manifest"


@click.command()
@_output.directory_argument
@click.option("--verify", is_flag=True, help="Compare each file with its digest.")
@click.option(
    "--columns",
    metavar="NAME,...",
    help="Show these: epoch, size, a metric, metadata (lr, or meta.lr), and so on.",
)
@_output.json_option
@click.pass_context
def ls(
    ctx: click.Context, directory: str, *, verify: bool, columns: str | None, as_json: bool
) -> None:
    """List the checkpoints of a directory.

    Oldest first. "best" marks the checkpoint that `ratchet best` prints, "last" the newest one,
    "earlier run" the files of runs before the newest one with the same path, and "pinned" those
    protected from deletion. The first metric is the one that decides what is best; `ratchet
    show` prints all metrics. Without --verify no file is read, unless the column
    `trainable_only` is asked for; on a store, --verify asks for the lengths and checksums of the
    objects.
    """
    names = _columns.split(columns)
    snapshots = _select.checkpoints_in(directory)
    _columns.check(names, snapshots)
    outcomes = _select.verify_all(snapshots) if verify else {}
    marks = _select.marks(snapshots)
    if as_json and names:
        _output.emit([_chosen(names, s, marks[s.name], outcomes) for s in snapshots])
    elif as_json:
        _output.emit([_data(s, marks[s.name], outcomes) for s in snapshots])
    elif snapshots and names:
        _print_chosen(names, snapshots, marks, outcomes)
    elif snapshots:
        _print(snapshots, marks, outcomes)
    else:
        _output.say(f"No checkpoints in {directory}: all were deleted (see `ratchet history`).")
    if any(outcome.status == "corrupt" for outcome in outcomes.values()):
        ctx.exit(PROBLEM)


def _data(
    snapshot: CheckpointInfo, marks: Sequence[str], outcomes: Mapping[str, Verification]
) -> dict[str, object]:
    outcome = outcomes.get(snapshot.path)
    verified = None if outcome is None else {"status": outcome.status, "problem": outcome.problem}
    return _output.as_data(snapshot) | {"marks": marks, "verified": verified}


def _print(
    snapshots: Sequence[CheckpointInfo],
    marks: Mapping[str, Sequence[str]],
    outcomes: Mapping[str, Verification],
) -> None:
    names = _metric_names(snapshots)
    headers = ["name", "epoch", "step", *names, "size", "age", "marks", "verified"]
    rows = [
        [
            s.name,
            str(s.position.epoch) if s.has_manifest else "-",
            _step(s),
            *(number(s.metrics.get(name)) for name in names),
            readable(s.size_bytes),
            _output.age(s.saved_at),
            " ".join(marks[s.name]),
            _status(s, outcomes),
        ]
        for s in snapshots
    ]
    colors = [_color(marks[s.name], outcomes.get(s.path)) for s in snapshots]
    _output.table(headers, rows, {"epoch", "step", "size", "age", *names}, colors)


def _chosen(
    names: Sequence[str],
    snapshot: CheckpointInfo,
    marks: list[str],
    outcomes: Mapping[str, Verification],
) -> dict[str, Any]:
    """Return the values of the columns that were asked for."""
    looked = {_columns.MARKS: marks, _columns.VERIFIED: _status(snapshot, outcomes)}
    return {n: looked[n] if n in looked else _columns.value(n, snapshot) for n in names}


def _print_chosen(
    names: Sequence[str],
    snapshots: Sequence[CheckpointInfo],
    marks: Mapping[str, list[str]],
    outcomes: Mapping[str, Verification],
) -> None:
    found = [_chosen(names, s, marks[s.name], outcomes) for s in snapshots]
    rows = [
        [" ".join(v) if n == _columns.MARKS else _columns.cell(v) for n, v in values.items()]
        for values in found
    ]
    numbers = {n for n in names if any(isinstance(values[n], int | float) for values in found)}
    colors = [_color(marks[s.name], outcomes.get(s.path)) for s in snapshots]
    _output.table(names, rows, {*numbers, "size", "age"}, colors)


def _metric_names(snapshots: Sequence[CheckpointInfo]) -> list[str]:
    """Return the metrics that get a column, those that decide what is best first."""
    names = dict.fromkeys(name for name, _ in ranking_of(snapshots).metrics)
    known = dict.fromkeys(name for s in reversed(snapshots) for name in s.metrics)
    return [name for name in names | known if name in known][:_METRIC_COLUMNS]


def _step(snapshot: CheckpointInfo) -> str:
    if snapshot.position.step is not None:
        return str(snapshot.position.step)
    return f"batch {snapshot.position.batch}" if snapshot.position.batch else "-"


def _status(snapshot: CheckpointInfo, outcomes: Mapping[str, Verification]) -> str:
    if not snapshot.has_manifest and snapshot.path not in outcomes:
        return _NO_MANIFEST
    outcome = outcomes.get(snapshot.path)
    if outcome is None:
        return "-"
    return _NO_MANIFEST if outcome.status == "unverified" else outcome.status


def _color(marks: Sequence[str], outcome: Verification | None) -> str | None:
    if outcome is not None and outcome.status == "corrupt":
        return "red"
    return "green" if "best" in marks else None
