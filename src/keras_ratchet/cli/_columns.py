"""The columns that `ratchet ls --columns` can show: facts, metrics and metadata of checkpoints."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from keras_ratchet._numbers import number
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _output, _select
from keras_ratchet.types import CheckpointInfo

META = "meta."
_BUILT_IN: dict[str, Callable[[CheckpointInfo], Any]] = {
    "name": lambda info: info.name,
    "path": lambda info: info.path,
    "epoch": lambda info: info.position.epoch if info.has_manifest else None,
    "batch": lambda info: info.position.batch if info.has_manifest else None,
    "step": lambda info: info.position.step,
    "bytes": lambda info: info.size_bytes,
    "size": lambda info: readable(info.size_bytes),
    "age": lambda info: _output.age(info.saved_at),
    "saved": lambda info: _output.clock(info.saved_at),
    "reason": lambda info: info.reason,
    "series": lambda info: info.series,
    "run": lambda info: info.run,
    "trainable_only": lambda info: _is_partial(_select.left_out(info)),
}
MARKS, VERIFIED = "marks", "verified"  # which need a look at others, or at the bytes


def split(text: str | None) -> list[str]:
    """Return the names in the option; `name` comes first unless it is among them."""
    if text is None:
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--columns needs names, as in --columns epoch,val_loss,meta.lr.")
    return names if "name" in names else ["name", *names]


def check(names: Sequence[str], checkpoints: Sequence[CheckpointInfo]) -> None:
    """Raise a UsageError about a name that no checkpoint has."""
    metrics = {metric for info in checkpoints for metric in info.metrics}
    metadata = {key for info in checkpoints for key in info.metadata}
    known = {*_BUILT_IN, MARKS, VERIFIED, *metrics, *metadata, *(META + key for key in metadata)}
    for name in names:
        if name in known or any(value(name, info) is not None for info in checkpoints):
            continue
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise click.UsageError(
            f"No checkpoint has {name!r}.{hint} There are: {', '.join(sorted(known))}."
        )


def value(name: str, info: CheckpointInfo) -> Any:
    """Return what a column has for a checkpoint: built-in names first, then metrics, metadata.

    `meta.optimizer.lr` is `lr` in the dict `optimizer` of the metadata.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name](info)
    if name in info.metrics:
        return info.metrics[name]
    return _within(info.metadata, name.removeprefix(META))


def _is_partial(left_out: int | None) -> bool | None:
    return None if left_out is None else left_out > 0


def _within(data: Mapping[str, Any], name: str) -> Any:
    if name in data:
        return data[name]
    head, dot, rest = name.partition(".")
    inner = data.get(head) if dot else None
    return _within(inner, rest) if isinstance(inner, Mapping) else None


def cell(found: Any) -> str:
    """Return a value for people."""
    if found is None or found == "":
        return "-"
    return number(found) if isinstance(found, float) else str(found)
