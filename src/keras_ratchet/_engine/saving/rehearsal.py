"""A save gone through when training begins, without values: what would fail later fails now."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._engine.capture import rng
from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._formats import format_of
from keras_ratchet._keras import rebuilding, saving
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError

_log = logging.getLogger("keras_ratchet")


class _Nothing:
    """Takes the place of the values."""

    def arrays(self) -> list[NDArray[Any]]:
        """Return nothing."""
        return []


def rehearse(model: Any, path: str, whole: bool) -> None:
    """Find out whether a model can be saved to a path, and loaded again.

    It costs about a millisecond for each layer. Variables are not read and nothing is written; a
    model without variables yet (on TensorFlow, before its first batch) is left alone.

    Args:
        model: The model, when training begins.
        path: The file, or its template.
        whole: Whether a `.weights.h5` file, too, is to hold the whole model.

    Raises:
        ConfigError: If it can never be saved there.
    """
    form = format_of(path, whole)
    method = "save_weights" if path.endswith(".weights.h5") and not whole else "save"
    known = getattr(model, "built", False) and bool(weights_of(model))
    if form is None or not known or saving.has_own_saving(model, method):
        return
    try:
        form.freeze(model, _hold_nothing)
    except ConfigError:
        raise
    except NotImplementedError as error:
        raise ConfigError(
            f"{path!r} cannot be saved: {_first_line(error)} Or save weights only: a path that "
            f"ends in '.weights.h5', with save_weights_only=True."
        ) from error
    except Exception as error:
        warn(
            f"{path!r} cannot be saved yet: {type(error).__name__}: {_first_line(error)} If "
            "this is still so at the first save, training ends there."
        )
        return
    if form.suffix != ".weights.h5":
        _check_rebuilding(model, path)


def _hold_nothing(sources: Sequence[Any]) -> _Nothing:
    return _Nothing()


def _check_rebuilding(model: Any, path: str) -> None:
    """Warn of layers that the file's reader cannot make again."""
    name = os.path.basename(path)
    if code := rebuilding.layers_that_run_code(model):
        kinds = " and ".join(code)
        _log.warning("%s contains %s: load it with load_model(..., safe_mode=False)", name, kinds)
    layers = rebuilding.own_layers(model)
    if not layers:
        return
    streams = rng.capture()
    try:
        for layer in layers:
            problem = rebuilding.complaint(layer, [type(each) for each in layers])
            if problem is not None:
                kind = type(layer).__name__
                warn(
                    f"{name!r} can be saved but not loaded: a {kind} cannot be created from "
                    f"its config ({problem}). Its __init__ should pass **kwargs to "
                    "super().__init__, and its get_config should return its arguments; or save "
                    "weights only."
                )
    finally:
        rng.restore(streams)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4])
