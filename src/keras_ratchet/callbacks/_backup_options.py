"""The arguments of BackupAndRestore as a session uses them, and what it tells about itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import keras

from keras_ratchet._engine.resume.branch import Branch
from keras_ratchet._storage.anywhere import path_or_url
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.monitor import one_of
from keras_ratchet.policy.schedule import EveryBatches, IfBusy, Interval, interval_of
from keras_ratchet.types import Position, StopReason

WhichRate = Literal["saved", "script"]


@dataclass(slots=True)
class RunInfo:
    """What a run tells about itself; see the attributes of BackupAndRestore."""

    initial_epoch: int = 0
    resumed_from: Position | None = None
    stop_reason: StopReason | None = None
    elapsed_s: float = 0.0
    branched_from: str = ""

    def set_branch(self, source: str, callbacks: Iterable[Any]) -> None:
        """Set the snapshot that the run goes on from; History has it in its `params`, too."""
        self.branched_from = source
        for callback in callbacks:
            if source and isinstance(callback, keras.callbacks.History):
                callback.params = {**(callback.params or {}), "branched_from": source}


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How a run is saved and resumed.

    Attributes:
        every_epoch: Whether to save when an epoch has ended.
        every_batches: After how many batches to save, if at all.
        interval: After how much time to save, if at all.
        skips_if_busy: Whether a save is left out while the one before is still being written.
        deletes_at_end: Whether the snapshots are deleted when the run has ended.
        data: The data set, where it cannot be seen.
        exit_code: With which code the process exits after a signal or a deadline, if it does.
        script_sets_rate: Whether the script's learning rate counts, not the saved one.
        is_loop: Whether the loop is written by hand, and skips batches itself.
        optimizer: The optimizer of such a loop.
        branch: The branch that the run is on, if it is on one.
    """

    every_epoch: bool
    every_batches: EveryBatches | None
    interval: Interval | None
    skips_if_busy: bool
    deletes_at_end: bool
    data: Any
    exit_code: int | None
    script_sets_rate: bool
    is_loop: bool = False
    optimizer: Any = None
    branch: Branch = field(default_factory=lambda: Branch("", None))

    @property
    def are_periodic(self) -> bool:
        """Whether saves between the ends of epochs may come."""
        return self.every_batches is not None or self.interval is not None


def options_of(
    *,
    save_freq: str | int | bool,
    deletes_at_end: bool,
    every_s: float | None,
    overhead: float | None,
    mtbf_s: float | None,
    if_busy: IfBusy,
    data: Any,
    exit_code: int | None,
    learning_rate: WhichRate,
    resume_from: str | os.PathLike[str] | None,
    storage_options: Mapping[str, Any] | None,
) -> BackupOptions:
    """Return the options that arguments of BackupAndRestore ask for.

    Raises:
        ConfigError: If an argument cannot work.
    """
    one_of("if_busy", if_busy, get_args(IfBusy))
    one_of("learning_rate", learning_rate, get_args(WhichRate))
    return BackupOptions(
        every_epoch=save_freq == "epoch",
        every_batches=_every_batches(save_freq),
        interval=interval_of(every_s, overhead, mtbf_s),
        skips_if_busy=if_busy == "skip",
        deletes_at_end=deletes_at_end,
        data=data,
        exit_code=exit_code,
        script_sets_rate=learning_rate == "script",
        branch=Branch(_source(resume_from), storage_options),
    )


def _source(resume_from: str | os.PathLike[str] | None) -> str:
    if resume_from is None:
        return ""
    if not isinstance(resume_from, str | os.PathLike) or not os.fspath(resume_from):
        raise ConfigError(
            "resume_from must be the path or URL of a snapshot, the name of one in backup_dir, or "
            f"'best'. Got: {resume_from!r}.",
            see="resume-from",
        )
    return path_or_url(resume_from, "resume_from")


def checked_keep(keep: int, double_checkpoint: bool) -> int:
    """Return how many snapshots are kept, or raise a ConfigError."""
    whole_number("keep", keep, at_least=1, meaning="is a number of snapshots")
    return max(keep, 2) if double_checkpoint else keep


def _every_batches(save_freq: str | int | bool) -> EveryBatches | None:
    if save_freq == "epoch" or save_freq is False:
        return None
    try:
        return EveryBatches(save_freq)  # type: ignore[arg-type]  # it checks
    except ConfigError:
        raise ConfigError(
            f"Invalid value for argument `save_freq`: {save_freq!r}. Expected 'epoch', a number of "
            f"batches (at least 1), or False.",
            see="save-freq",
        ) from None
