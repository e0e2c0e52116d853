"""`ratchet adopt`: a manifest for files that plain Keras wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from keras_ratchet._storage import anywhere, metadata, single_file
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _output, _select
from keras_ratchet.policy.retention import Ranking
from keras_ratchet.types import CheckpointInfo, Position

if TYPE_CHECKING:
    _ParamType = click.ParamType[tuple[str, Any]]
else:
    _ParamType = click.ParamType  # takes no parameter before click 8.4


class _Metric(_ParamType):
    name = "NAME=VALUE"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Return name and value."""
        name, equals, text = value.rpartition("=")
        try:
            return (name, float(text)) if name and equals else self.fail("")
        except (ValueError, click.UsageError):
            self.fail(f"{value!r} is not of the form val_loss=0.123.", param, ctx)


class _Added(_ParamType):
    name = "NAME=VALUE"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return name and value."""
        name, equals, text = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not of the form lr=0.1.", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


@click.command()
@click.argument(
    "paths",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=_output.Place(exists=True, dir_okay=False),
)
@click.option("--metric", "values", type=_Metric(), multiple=True, help="As in val_loss=0.123.")
@click.option(
    "--metadata",
    "added",
    type=_Added(),
    multiple=True,
    help="As in lr=0.1; a value that is not JSON is a string.",
)
@click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    help="Whether smaller (min) or larger (max) is better.",
)
@click.option("--epoch", type=click.IntRange(min=0), default=0, help="Number of completed epochs.")
@click.option("--force", is_flag=True, help="Replace an existing manifest.")
@_output.json_option
def adopt(
    paths: tuple[str, ...],
    *,
    values: Sequence[tuple[str, float]],
    added: Sequence[tuple[str, Any]],
    mode: str | None,
    epoch: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write manifests for plain Keras files.

    From then on damage to the files is detected, and `ratchet best`, `ratchet prune` and a run
    that continues from them with `save_best_only` know their metrics. The first --metric ranks
    them: smaller is better for a loss; for other metrics pass --mode. The files themselves are
    not changed.
    """
    from keras_ratchet._formats.readers import keras_version

    ranking = _select.ranking_by(values[0][0], mode) if values else Ranking(())
    files = {path: anywhere.plain_copy(path) for path in paths}
    versions = {path: keras_version(files[path]) for path in paths}  # raises unless Keras's own
    for path in paths:
        _refuse_known(path, force)
    kept = {path: _select.one(path).metadata for path in paths}
    for path in paths:
        manifest = Manifest(
            files={},
            position=Position(epoch),
            metrics=dict(values),
            ranking=ranking.metrics,
            reason="adopted with `ratchet adopt`",
            series=os.path.basename(path),
            saved_at=_modified_s(path),
            versions={"keras": version} if (version := versions[path]) else {},
            metadata=metadata.checked({**kept[path], **dict(added)}),
        )
        _adopt(path, manifest)
    _report([_select.one(path) for path in paths], as_json)


def _refuse_known(path: str, force: bool) -> None:
    on_store = is_url(path)
    known = _select.one(path).has_manifest if on_store else single_file.manifests_of(path)
    if known and not force:
        raise click.UsageError(
            f"{path!r} already has a manifest (see `ratchet show` and `ratchet verify`). A new "
            "one would accept its current bytes, whatever they are; --force writes it."
        )


def _modified_s(path: str) -> float:
    return _select.one(path).saved_at if is_url(path) else os.stat(path).st_mtime


def _adopt(path: str, manifest: Manifest) -> None:
    directory = anywhere.parent(path) if is_url(path) else os.path.dirname(os.path.abspath(path))
    with anywhere.locked(directory, manifest.series, f"checkpoint {path!r}"):
        anywhere.adopt(path, manifest)


def _report(adopted: list[CheckpointInfo], as_json: bool) -> None:
    if as_json:
        _output.emit([_output.as_data(snapshot) for snapshot in adopted])
        return
    for s in adopted:
        _output.say(
            f"adopted  {s.path}  {readable(s.size_bytes)}  {_output.metrics(s.metrics)}".rstrip()
        )
