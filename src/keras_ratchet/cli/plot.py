"""`ratchet plot`: a picture of a run."""

from __future__ import annotations

import os
from typing import IO, cast

import click

from keras_ratchet import plots
from keras_ratchet.cli import _output
from keras_ratchet.cli.history import events_of

_SUFFIXES = (".png", ".svg", ".pdf")


@click.command()
@_output.directory_argument
@click.option("-o", "--output", metavar="FILE", required=True, type=_output.Place())
@click.option("--metric", help="Draw this metric instead of the one that ranks the checkpoints.")
@_output.force_option
@_output.json_option
def plot(directory: str, output: str, metric: str | None, force: bool, as_json: bool) -> None:
    """Draw the metrics of a run, its saves and its best epoch.

    FILE ends in .png, .svg or .pdf. The plot shows the last run in the directory's journal: the
    metric over the epochs, the best epoch, the saves and which of them still exist, and why
    training stopped. In Python: `keras_ratchet.plots.run(directory)`.
    """
    if not output.endswith(_SUFFIXES):
        raise click.UsageError(f"FILE must end in {' or '.join(_SUFFIXES)}. Got: {output!r}.")
    events = events_of(directory)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.UsageError(
            'Matplotlib is not installed: pip install "keras-ratchet[plot]".'
        ) from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    plots.run(events, metric=metric, axes=figure.subplots())
    form = os.path.splitext(output)[1][1:]
    with _output.new_file(output, force) as draft:
        draft.write(lambda file: figure.savefig(cast(IO[bytes], file), format=form, dpi=200))
    if as_json:
        _output.emit({"path": output})
        return
    _output.say(f"written to {output}")
