"""`ratchet show`: all that is known about one checkpoint."""

from __future__ import annotations

import json

import click

from keras_ratchet._numbers import count
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _columns, _output, _select
from keras_ratchet.types import CheckpointInfo


@click.command()
@click.argument("path", type=_output.Place(exists=True))
@_output.json_option
def show(path: str, as_json: bool) -> None:
    """Show everything known about one checkpoint.

    PATH is a checkpoint file or a snapshot directory. The output comes from its manifest, and
    from a local weights file whether it holds only what trained; to compare the bytes with the
    manifest, use `ratchet verify`.
    """
    snapshot = _select.one(path)
    files = anywhere.files_of(snapshot)
    beside = _select.checkpoints_in(anywhere.parent(snapshot.path))
    marks = _select.marks(beside).get(snapshot.name, [])
    if as_json:
        records = {name: {"bytes": r.size_bytes, "xxh3_128": r.digest} for name, r in files.items()}
        looked = {"trainable_only": _columns.value("trainable_only", snapshot)}
        _output.emit(_output.as_data(snapshot) | looked | {"marks": marks, "files": records})
        return
    _output.say(snapshot.path, bold=True)
    lines = _facts(snapshot, marks) if snapshot.has_manifest else _bare(snapshot)
    if left_out := _select.left_out(snapshot):
        lines.append(("holds", f"only what trained: {count(left_out, 'weight')} left out"))
    lines += [
        (f"file {name}", f"{r.size_bytes} bytes, XXH3-128 {r.digest}") for name, r in files.items()
    ]
    width = max(len(label) for label, _ in lines)
    for label, value in lines:
        _output.say(f"  {label.ljust(width)}  {value}")


def _facts(snapshot: CheckpointInfo, marks: list[str]) -> list[tuple[str, str]]:
    position = snapshot.position
    where = f"{count(position.epoch, 'epoch')} done"
    if position.batch:
        where += f", and {count(position.batch, 'batch')} of the next"
    if position.step is not None:
        where += f" ({count(position.step, 'step')} in total)"
    ranked = [f"{name} ({mode} is better)" for name, mode in snapshot.ranking]
    return [
        ("marks", " ".join(marks) or "-"),
        ("saved", f"{_output.clock(snapshot.saved_at)}, {_output.age(snapshot.saved_at)} ago"),
        ("why", snapshot.reason or "-"),
        ("position", where),
        *[(f"metric {name}", repr(value)) for name, value in snapshot.metrics.items()],
        *[(f"meta {name}", json.dumps(value)) for name, value in snapshot.metadata.items()],
        ("ranked by", ", then ".join(ranked) or "-"),
        ("series", snapshot.series or "-"),
        ("run", snapshot.run or "-"),
        ("size", readable(snapshot.size_bytes)),
        ("written by", ", ".join(f"{k} {v}" for k, v in snapshot.versions.items()) or "-"),
        ("fingerprint", snapshot.fingerprint or "-"),
    ]


def _bare(snapshot: CheckpointInfo) -> list[tuple[str, str]]:
    return [
        ("manifest", "none, so nothing is known about it; `ratchet adopt` writes one"),
        ("modified", f"{_output.clock(snapshot.saved_at)}, {_output.age(snapshot.saved_at)} ago"),
        ("size", readable(snapshot.size_bytes)),
    ]
