"""What `pull` and `push` share: a bar, a line for each problem, and the sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Protocol

import click

from keras_ratchet._numbers import count
from keras_ratchet._storage.objects.copying import Copy
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import PROBLEM, _output, _select
from keras_ratchet.types import CheckpointInfo

force_option = click.option(
    "--force", "-f", is_flag=True, help="Replace other checkpoints of the same name."
)


class Task(Protocol):
    """What is to be copied."""

    @property
    def checkpoints(self) -> list[CheckpointInfo]:
        """What is copied."""

    @property
    def bare(self) -> list[str]:
        """Names of files that are not copied since they have no manifest."""

    def run(self, force: bool) -> Iterator[Copy]:
        """Copy; yield what became of each checkpoint."""


def carry_out(ctx: click.Context, task: Task, verb: str, force: bool, as_json: bool) -> None:
    """Copy, and print what became of it; exit with 1 if one was not copied.

    Args:
        ctx: The command's context.
        task: What is copied.
        verb: "pull" or "push".
        force: Whether other checkpoints of the same name are replaced.
        as_json: Whether to print JSON.
    """
    copies: list[Copy] = []
    with _select.progress(f"{verb}ing", task.checkpoints) as done:
        for copy in task.run(force):
            copies.append(copy)
            done(copy.size_bytes)
    for name in task.bare:
        _output.say(f"Skipped {name}: it has no manifest (see `ratchet adopt`).", err=True)
    if as_json:
        _output.emit([_output.with_stored_names(asdict(copy)) for copy in copies])
    else:
        _report(copies, verb)
    if any(copy.problem for copy in copies):
        ctx.exit(PROBLEM)


def _report(copies: Sequence[Copy], verb: str) -> None:
    for copy in copies:
        if copy.outcome == "differs":
            _output.say(f"Refused {copy.name}: {copy.problem}; --force replaces it.", err=True)
        elif copy.problem:
            _output.say(f"Damaged {copy.name}: {copy.problem}", err=True, fg="red")
    done = [copy for copy in copies if copy.outcome == "copied"]
    there = sum(copy.outcome == "there" for copy in copies)
    notes = [f"{there} {'was' if there == 1 else 'were'} there already"] if there else []
    if failed := sum(bool(copy.problem) for copy in copies):
        notes.append(f"{failed} {'was' if failed == 1 else 'were'} not copied")
    size = readable(sum(copy.size_bytes for copy in done))
    more = f" ({', '.join(notes)})" if notes else ""
    _output.say(f"{verb}ed {count(len(done), 'checkpoint')}, {size}{more}")
