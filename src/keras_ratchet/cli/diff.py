"""`ratchet diff`: what differs between two checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from keras_ratchet._numbers import count, number
from keras_ratchet.cli import _output, _weights

_WIDEST = 60
_NOISE = ("shared_object_id", "inbound_nodes", "build_config")


@dataclass(frozen=True, slots=True)
class Change:
    """How one weight differs.

    Attributes:
        name: The weight's name.
        change: "changed", "same", "shape" (they cannot be subtracted), "only in A" or "only in B".
        a: Shape and dtype in A, or None.
        b: The same in B.
        max_abs: Largest absolute difference, or None where there is none to take.
        mean_abs: Mean absolute difference, or None.
    """

    name: str
    change: str
    a: str | None = None
    b: str | None = None
    max_abs: float | None = None
    mean_abs: float | None = None


@click.command()
@click.argument("a", type=_output.Place(exists=True))
@click.argument("b", type=_output.Place(exists=True))
@click.option("--most", type=click.IntRange(min=1), default=20, help="Number of weights to show.")
@click.option("--optimizer", is_flag=True, help="Compare the optimizer's variables too.")
@_output.json_option
def diff(a: str, b: str, most: int, optimizer: bool, as_json: bool) -> None:
    """Compare two checkpoints: config and weights.

    Prints the largest and the mean absolute difference of each weight, largest first, and the
    weights that only one of them has. The formats may differ; a `.weights.h5` file has no
    config. NaN in the same place of both is not a difference. The exit code is always 0.
    """
    files = {path: _weights.file_of(path) for path in (a, b)}
    configs = {path: _weights.config_of(file) for path, file in files.items()}
    config = list(_config_changes(configs[a], configs[b]))
    changes = sorted(_weight_changes(a, b, files, optimizer), key=_rank)
    same = sum(change.change == "same" for change in changes)
    if as_json:
        weights = [asdict(change) for change in changes]
        equal = not config and same == len(changes)
        _output.emit({"equal": equal, "config": config, "weights": weights})
        return
    _print_config([path for path, found in configs.items() if found is None], config)
    different = [change for change in changes if change.change != "same"]
    _print_weights(different[:most])
    rest = len(different) - most
    more = f"; {rest} more with --most {len(different)}" if rest > 0 else ""
    _output.say(f"{count(len(different), 'weight')} differ, {same} are the same{more}")


def _weight_changes(a: str, b: str, files: Mapping[str, str], optimizer: bool) -> Iterator[Change]:
    with (
        _weights.opened(files[a], a, optimizer) as ours,
        _weights.opened(files[b], b, optimizer) as theirs,
    ):
        pairs, rest_a, rest_b = _matched(ours, theirs)
        for one, other in pairs:
            yield _compare(one, other)
        for one in rest_a:
            yield Change(one.name, "only in A", a=_kind(one))
        for other in rest_b:
            yield Change(other.name, "only in B", b=_kind(other))


def _matched(
    ours: Sequence[Any], theirs: Sequence[Any]
) -> tuple[list[tuple[Any, Any]], list[Any], list[Any]]:
    """Pair weights by name; those left over by place, since names may count a program's layers."""
    pairs = []
    for key in ("name", "key"):
        index = {getattr(other, key): other for other in theirs}
        found = [(one, index[getattr(one, key)]) for one in ours if getattr(one, key) in index]
        pairs += found
        taken = {id(weight) for pair in found for weight in pair}
        ours = [one for one in ours if id(one) not in taken]
        theirs = [other for other in theirs if id(other) not in taken]
    return pairs, list(ours), list(theirs)


def _compare(one: Any, other: Any) -> Change:
    import numpy as np

    facts = (_kind(one), _kind(other))
    a, b = one.read(), other.read()
    numeric = all(array.dtype.kind in "biufcV" for array in (a, b))
    if a.shape != b.shape or not numeric:
        same = a.shape == b.shape and bool(np.array_equal(a, b))
        return Change(one.name, "same" if same else "shape", *facts)
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    a, b = a.astype(wide), b.astype(wide)
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    largest, mean = (float(gap.max()), float(gap.mean())) if gap.size else (0.0, 0.0)
    return Change(one.name, "same" if largest == 0 else "changed", *facts, largest, mean)


def _kind(weight: Any) -> str:
    return f"{weight.dtype} {'x'.join(map(str, weight.shape)) or 'scalar'}"


def _rank(change: Change) -> tuple[int, float]:
    """Return a sort key: what cannot be subtracted, NaN, then the largest differences."""
    if change.max_abs is None:
        return 0, 0.0
    return (1, 0.0) if change.max_abs != change.max_abs else (2, -change.max_abs)


def _config_changes(a: Any, b: Any) -> Iterator[dict[str, Any]]:
    if a is None or b is None:
        return
    ours, theirs = dict(_flat(a)), dict(_flat(b))
    for path in dict.fromkeys([*ours, *theirs]):
        if ours.get(path) != theirs.get(path):
            yield {"path": path, "a": ours.get(path), "b": theirs.get(path)}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of what a config says; layers go by their names, not their places."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in _NOISE:
                yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        for index, inner in enumerate(value):
            inside = inner.get("config")
            name = inside.get("name") if isinstance(inside, dict) else None
            yield from _flat(inner, f"{path}[{index if name is None else name}]")
    else:
        yield path, value


def _print_config(without: Sequence[str], changes: Sequence[dict[str, Any]]) -> None:
    if without:
        _output.say(f"config: not compared, there is none in {' and '.join(without)}")
        return
    _output.say(f"config: {count(len(changes), 'difference') if changes else 'the same'}")
    for change in changes:
        _output.say(f"  {change['path']}: {_short(change['a'])} -> {_short(change['b'])}")


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}..."


def _print_weights(changes: Sequence[Change]) -> None:
    if not changes:
        return
    rows = [
        [
            change.name,
            change.change,
            number(change.max_abs),
            number(change.mean_abs),
            change.a or "-",
            "=" if change.a == change.b else change.b or "-",
        ]
        for change in changes
    ]
    headers = ["weight", "change", "max |A-B|", "mean |A-B|", "A", "B"]
    _output.table(headers, rows, {"max |A-B|", "mean |A-B|"})
