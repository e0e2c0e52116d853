"""`ratchet prune`: plan what no rule keeps, and delete it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import click

from keras_ratchet._numbers import count
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import PROBLEM, _output, _select
from keras_ratchet.policy.retention import Decision, Retention, combined, plan, ranking_of
from keras_ratchet.types import CheckpointInfo

_COUNT = click.IntRange(min=1)


@dataclass(frozen=True, slots=True)
class _Step:
    """One line of the plan, and what became of it."""

    decision: Decision
    outcome: str
    own_bytes: int = 0  # which no other checkpoint shares that stays

    @property
    def deletes(self) -> bool:
        """Whether it deletes, or would."""
        return self.outcome in ("delete", "deleted")

    @property
    def frees(self) -> int:
        """How many bytes it frees, or would."""
        return self.own_bytes if self.deletes else 0


@click.command()
@_output.directory_argument
@click.option("--keep-best", type=_COUNT, help="Number of best checkpoints to keep.")
@click.option("--keep-last", type=_COUNT, help="Number of newest checkpoints to keep.")
@click.option("--keep-every", type=_COUNT, help="Keep the checkpoints of every this many epochs.")
@click.option("--keep-for-s", type=float, help="Keep checkpoints not older than this many seconds.")
@click.option("--yes", is_flag=True, help="Delete. Without it, only the plan is shown.")
@_output.json_option
@click.pass_context
def prune(
    ctx: click.Context,
    directory: str,
    *,
    keep_best: int | None,
    keep_last: int | None,
    keep_every: int | None,
    keep_for_s: float | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Plan which checkpoints to delete, and delete them.

    Without --yes nothing is deleted: the plan says for each checkpoint what would happen and
    why. The best and the newest checkpoint, pinned ones and those without a manifest are always
    kept. The rules apply to each series (the files of one file name template) separately. Before
    a file is deleted, its bytes are compared with its digest (on a store, its length and
    checksum): a file that has changed is kept, and the exit code is 1.
    """
    rule = combined(keep_best, keep_last, keep_every, keep_for_s)
    if rule is None:
        raise click.UsageError("Pass what to keep: --keep-best, --keep-last, --keep-every, ...")
    names = sorted({snapshot.series for snapshot in _select.checkpoints_in(directory)})
    steps: list[_Step] = []
    for series in names:
        steps += _carry_out(directory, series, rule) if yes else _planned(directory, series, rule)
    _report(steps, yes, as_json)
    if any(step.outcome == "changed" for step in steps):
        ctx.exit(PROBLEM)


def _planned(directory: str, series: str, rule: Retention) -> list[_Step]:
    decisions = _plan(directory, series, rule)
    return [_Step(d, "keep" if d.keep else "delete", own) for d, own in _sized(decisions)]


def _sized(decisions: Iterable[Decision]) -> Iterator[tuple[Decision, int]]:
    """Yield each decision with the bytes that are freed if it and those before it are done."""
    names: Counter[tuple[int, int]] = Counter()
    for decision in decisions:
        checkpoint = decision.checkpoint
        if decision.keep or not os.path.exists(checkpoint.path):  # what is on a store
            yield decision, checkpoint.size_bytes
            continue
        own = 0
        for path in _files(checkpoint):
            info = os.stat(path)
            names[info.st_dev, info.st_ino] += 1
            if names[info.st_dev, info.st_ino] == info.st_nlink:
                own += info.st_size
        yield decision, own


def _files(checkpoint: CheckpointInfo) -> list[str]:
    if not checkpoint.is_directory:
        return [checkpoint.path]
    return [entry.path for entry in os.scandir(checkpoint.path) if entry.is_file()]


def _plan(directory: str, series: str, rule: Retention) -> list[Decision]:
    snapshots = [s for s in _select.checkpoints_in(directory) if s.series == series]
    ranking = ranking_of(snapshots)
    best = {s.name for s in _select.best_first(snapshots, ranking)[:1]}
    decisions = plan(snapshots, rule, ranking, time.time())
    return [
        replace(d, keep=True, reason="the best of the newest run")
        if d.checkpoint.name in best and not d.keep
        else d
        for d in decisions
    ]


def _carry_out(directory: str, series: str, rule: Retention) -> list[_Step]:
    """Plan again as the only writer of the series, and do it."""
    first = _planned(directory, series, rule)
    if all(step.outcome == "keep" for step in first):
        return first
    with anywhere.locked(directory, series, f"{series or 'backup'!r}"):
        planned = list(_sized(_plan(directory, series, rule)))
        return [_done(directory, decision, own) for decision, own in planned]


def _done(directory: str, decision: Decision, own_bytes: int) -> _Step:
    if decision.keep:
        return _Step(decision, "keep")
    snapshot = decision.checkpoint
    if not anywhere.delete_unless_changed(snapshot):
        return _Step(decision, "changed")
    anywhere.note(
        directory,
        "drop",
        series=snapshot.series,
        name=snapshot.name,
        reason=f"ratchet prune: {decision.reason}",
        epoch=snapshot.position.epoch,
    )
    return _Step(decision, "deleted", own_bytes)


def _report(steps: Sequence[_Step], done: bool, as_json: bool) -> None:
    freed = sum(step.frees for step in steps)
    if as_json:
        plans = [_data(step) for step in steps]
        _output.emit({"deleted": done, "freed_bytes": freed, "plan": plans})
        return
    rows = [
        [
            step.outcome,
            step.decision.checkpoint.name,
            str(step.decision.checkpoint.position.epoch),
            readable(step.decision.checkpoint.size_bytes),
            _why(step),
        ]
        for step in steps
    ]
    headers = ["what", "name", "epoch", "size", "why"]
    colors = [None if step.outcome == "keep" else "red" for step in steps]
    _output.table(headers, rows, {"epoch", "size"}, colors)
    gone = count(sum(step.deletes for step in steps), "checkpoint")
    if done:
        _output.say(f"Deleted {gone}, {readable(freed)}.")
    else:
        _output.say(f"Would delete {gone}, {readable(freed)}. Nothing is deleted without --yes.")


def _why(step: _Step) -> str:
    if step.outcome == "changed":
        return "it has changed since it was saved, so it is kept (see `ratchet verify`)"
    return step.decision.reason


def _data(step: _Step) -> dict[str, object]:
    snapshot: CheckpointInfo = step.decision.checkpoint
    return {
        "name": snapshot.name,
        "path": snapshot.path,
        "series": snapshot.series,
        "keep": step.outcome in ("keep", "changed"),
        "outcome": step.outcome,
        "reason": _why(step),
        "bytes": snapshot.size_bytes,
    }
