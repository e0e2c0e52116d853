"""What BackupAndRestore's arguments may be."""

from __future__ import annotations

from typing import Literal

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.schedule import EveryBatches

WhichRate = Literal["saved", "script"]


def checked_keep(keep: int, double_checkpoint: bool) -> int:
    """Return how many snapshots are kept, or raise a ConfigError."""
    whole_number("keep", keep, at_least=1, meaning="is a number of snapshots")
    return max(keep, 2) if double_checkpoint else keep


def batch_trigger(save_freq: str | int | bool) -> EveryBatches | None:
    """Return what says after how many batches to save, if at all, or raise a ConfigError."""
    if save_freq == "epoch" or save_freq is False:
        return None
    try:
        return EveryBatches(save_freq)  # type: ignore[arg-type]  # it checks
    except ConfigError:
        raise ConfigError(
            f"Invalid value for argument `save_freq`: {save_freq!r}. Expected 'epoch', a number of "
            f"batches (at least 1), or False."
        ) from None
