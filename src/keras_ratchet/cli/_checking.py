"""Verifying many checkpoints, with a bar that goes by their bytes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from keras_ratchet._storage.verify import Verification, verify
from keras_ratchet.types import CheckpointInfo


def verify_all(snapshots: Sequence[CheckpointInfo]) -> dict[str, Verification]:
    """Return the outcome for each path; the bar is on stderr, and only on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:  # rich before 14.3 writes an empty line even for a bar not shown
        return {snapshot.path: verify(snapshot.path) for snapshot in snapshots}
    outcomes = {}
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=sum(snapshot.bytes for snapshot in snapshots))
        for snapshot in snapshots:
            outcomes[snapshot.path] = verify(snapshot.path)
            bar.advance(task, snapshot.bytes)
    return outcomes
