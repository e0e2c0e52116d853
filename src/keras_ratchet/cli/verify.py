"""`ratchet verify`: are the bytes those that were saved, and can Keras load them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from keras_ratchet._numbers import count
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.space import readable
from keras_ratchet._storage.verify import Verification
from keras_ratchet.cli import PROBLEM, _output, _select

_COLORS = {"corrupt": "red", "unverified": "yellow", "ok": None}


@click.command()
@_output.paths_argument
@click.option("--read", is_flag=True, help="Read every byte of checkpoints on a store, too.")
@click.option("--load", is_flag=True, help="Load each model with Keras, in a process of its own.")
@click.option(
    "--custom",
    multiple=True,
    metavar="MODULE",
    help="With --load: import this module first. May be given several times.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="With --load: seconds for each file.",
)
@_output.json_option
@click.pass_context
def verify(
    ctx: click.Context,
    paths: tuple[str, ...],
    *,
    read: bool,
    load: bool,
    custom: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Check that the bytes of checkpoints are those that were saved.

    PATH is a checkpoint or a directory of them. Every byte is read and compared with the digest
    in the manifest, so a single flipped bit is detected. A store (PATH is a URL) is only asked
    for the lengths and checksums of the objects, which are compared with what it said when they
    were put; --read reads every byte. A file without a manifest is "unverified": it may be
    intact, but there is no evidence. The exit code is 1 if one is corrupt.

    --load has Keras load each whole model that is not corrupt, in a child process without
    accelerators and with safe_mode, and names classes and functions that were not found. The exit
    code is 1 if one cannot be loaded.
    """
    if custom and not load:
        raise click.UsageError("--custom is for --load.")
    checkpoints = _select.several(paths)
    found = _select.verify_all(checkpoints, read)
    outcomes = list(found.values())
    corrupt = sum(outcome.status == "corrupt" for outcome in outcomes)
    if not as_json:
        _say(outcomes, corrupt, read)
    unloadable = 0
    loaded = {}
    if load:
        from keras_ratchet.cli import _loading

        loaded = _loading.load_all(checkpoints, found, custom, timeout)
        unloadable = sum(outcome.status not in _loading.FINE for outcome in loaded.values())
        if not as_json:
            _loading.say(loaded)
    if as_json:
        data = [_output.with_stored_names(asdict(outcome)) for outcome in outcomes]
        if load:
            data = [d | {"load": _loading.as_data(loaded.get(d["path"]))} for d in data]
        _output.emit(data)
    if corrupt or unloadable:
        ctx.exit(PROBLEM)


def _say(outcomes: Sequence[Verification], corrupt: int, read: bool) -> None:
    """Print a line for each, and the sum."""
    for outcome in outcomes:
        problem = f": {outcome.problem}" if outcome.problem else ""
        line = f"{outcome.status.ljust(10)}  {outcome.path}{problem}"
        _output.say(line, fg=_COLORS[outcome.status])
    known = sum(outcome.status == "ok" for outcome in outcomes)
    _output.say(
        f"{count(len(outcomes), 'checkpoint')}: {known} ok, {corrupt} corrupt, "
        f"{len(outcomes) - known - corrupt} without a manifest ({_how(outcomes, read)})"
    )


def _how(outcomes: Sequence[Verification], read: bool) -> str:
    """Return what was compared."""
    asked = 0 if read else sum(is_url(outcome.path) for outcome in outcomes)
    total = readable(sum(outcome.size_bytes for outcome in outcomes))
    if not asked:
        return f"{total} read"
    how = "by what the store says of them; --read reads every byte"
    return how if asked == len(outcomes) else f"{total} read; {asked} {how}"
