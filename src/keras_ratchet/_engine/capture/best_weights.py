"""Copies of weights: of the best epoch, or for as long as a block runs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends.slices import held_as, is_like
from keras_ratchet._engine.capture.device_copies import DeviceCopies, KeepOn
from keras_ratchet._engine.capture.model_state import finalize, weights_beyond
from keras_ratchet._engine.capture.optimizers import AllOptimizers, optimizers_of
from keras_ratchet._keras import anatomy
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model


class VariableCopies:
    """Copies of a list of variables, in buffers that are allocated once and reused.

    Attributes:
        buffers: The copies, in host memory.
    """

    def __init__(self) -> None:
        self._variables: list[Any] = []
        self._of: Callable[[], Sequence[Any]] | None = None
        self.buffers: list[NDArray[Any]] = []

    @property
    def values(self) -> Sequence[Any]:
        """The copies as they are held, which is as arrays."""
        return self.buffers

    def capture(self, variables: Sequence[Any], sources: Mapping[int, Any]) -> None:
        """Copy the values; `sources` maps the id of a variable to the one to read instead."""
        backend = _backends.current()
        self._variables = list(variables)
        if not is_like(self.buffers, [tuple(v.shape) for v in variables]):
            self.buffers = [np.empty_like(backend.view(v), order="C") for v in variables]
        self._of = None
        for variable, buffer in zip(variables, self.buffers, strict=True):
            np.copyto(buffer, backend.view(sources.get(id(variable), variable)))

    def restore(self) -> None:
        """Assign the values to the variables that they belong to."""
        backend = _backends.current()
        if self._of is not None:
            self._variables, self._of = list(self._of()), None
        for variable, buffer in zip(self._variables, self.buffers, strict=True):
            backend.assign(variable, buffer)

    def load(self, variables: Callable[[], Sequence[Any]], values: Sequence[NDArray[Any]]) -> None:
        """Take over values from another process.

        Args:
            variables: Returns the variables they belong to; a first step may have to make them.
            values: The values, as `buffers` had them.
        """
        self._variables, self._of = [], variables if values else None
        held = list(variables()) if values else []
        if len(held) == len(values):
            backend = _backends.current()
            self.buffers = [
                held_as(a, backend.view(v)) if backend.is_split(v) else np.array(a)
                for a, v in zip(values, held, strict=True)
            ]
        else:
            self.buffers = [np.array(value) for value in values]


Copies = VariableCopies | DeviceCopies


def copies_on(keep_on: KeepOn) -> Copies:
    """Return what holds copies there."""
    return DeviceCopies() if keep_on == "device" else VariableCopies()


class BestWeights:
    """The weights (and, if asked for, the optimizer) of the best moment so far.

    Models that only have `get_weights` and `set_weights` work too.

    Args:
        optimizer: False for weights only; True for all optimizers of the model (slots, iterations,
            learning rates); or the optimizer of a custom loop: a Keras one, or anything with
            `state_dict` and `load_state_dict` (torch's).
        keep_on: Whether they are kept in host memory or on the device. The state of a torch
            optimizer stays where it is.
    """

    def __init__(self, optimizer: Any = False, keep_on: KeepOn = "host") -> None:
        self._optimizer = optimizer
        self._weights = copies_on(keep_on)
        self._slots = copies_on(keep_on)
        self._opaque: Any = None
        self._optimizer_state: Any = None
        self._count = 0
        self.is_captured = False

    def capture(self, model: Model, sources: Mapping[int, Any]) -> Any:
        """Copy the present values over those captured before.

        Args:
            model: The model.
            sources: For each variable whose value lies elsewhere (under SwapEMAWeights): its
                id and the variable to read instead.

        Returns:
            The captured weights, in the order of `model.get_weights()`: arrays, or tensors on the
            device. The next call overwrites them in place.
        """
        weights = weights_of(model)
        self._count = len(weights or ())
        if weights is None:
            self._opaque = copy.deepcopy(model.get_weights())
        else:
            self._weights.capture([*weights, *weights_beyond(model)], sources)
            self._capture_optimizer(model, sources)
        self.is_captured = True
        return self._opaque if weights is None else self.weights

    @property
    def weights(self) -> list[Any]:
        """The captured weights of a Keras model, in the order of `model.weights`."""
        return list(self._weights.values[: self._count])

    @property
    def buffers(self) -> Sequence[NDArray[Any]]:
        """The same as arrays, then the values that the model computes with besides its weights."""
        return self._weights.buffers

    def swap_buffers(self, spare: Copies) -> Copies:
        """Return the buffers of the captured weights; the next `capture` fills `spare` instead."""
        kept, self._weights = self._weights, spare
        return kept

    def restore(self, model: Model) -> None:
        """Restore what was captured."""
        if weights_of(model) is None:
            model.set_weights(self._opaque)
            return
        self._weights.restore()
        self._slots.restore()
        finalize(model)
        if self._optimizer_state is not None:
            # torch's takes the tensors as they are: training would write into the captured ones
            of = AllOptimizers(model) if self._optimizer is True else self._optimizer
            of.load_state_dict(copy.deepcopy(self._optimizer_state))

    def state_dict(self) -> dict[str, Any]:
        """Return what was captured, as plain data and arrays."""
        if not self.is_captured:
            return {}
        return {
            "weights": [buffer.copy() for buffer in self._weights.buffers],
            "optimizer": [buffer.copy() for buffer in self._slots.buffers],
            "torch": _backends.torch_plain(self._optimizer_state),
        }

    def load_state_dict(self, state: Mapping[str, Any], model: Model) -> Any:
        """Take over what `state_dict` returned; return the weights, or None."""
        if not state:
            return None
        optimizer = AllOptimizers(model) if self._optimizer is True else self._optimizer
        self._count = len(weights_of(model) or ())
        self._weights.load(lambda: all_weights_of(model), state["weights"])
        self._slots.load(lambda: getattr(optimizer, "variables", ()), state["optimizer"])
        self._optimizer_state = _backends.torch_tensors(state["torch"])
        self.is_captured = True
        return self.weights

    def _capture_optimizer(self, model: Model, sources: Mapping[int, Any]) -> None:
        if self._optimizer is False:
            return
        optimizer = AllOptimizers(model) if self._optimizer is True else self._optimizer
        if hasattr(optimizer, "variables"):
            self._slots.capture(optimizer.variables, sources)
        if not hasattr(optimizer, "variables") or self._optimizer is True:
            self._optimizer_state = copy.deepcopy(optimizer.state_dict())


@contextlib.contextmanager
def preserved(variables: Iterable[Any]) -> Iterator[None]:
    """Restore the values that variables have now at the end of the block, however it ends."""
    backend = _backends.current()
    before = [(variable, backend.view(variable).copy()) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            backend.assign(variable, value)


def check_optimizer(model: Model, optimizer: Any) -> None:
    """Raise a ConfigError unless `optimizer` means something whose state can be captured."""
    if optimizer is False:
        return
    found = optimizer
    if optimizer is True:
        found = next(iter(optimizers_of(model).values()), None)
    if not (hasattr(found, "variables") or hasattr(found, "load_state_dict")):
        raise ConfigError(
            "restore_optimizer needs an optimizer with variables (Keras) or state_dict (torch). "
            f"Got: {found!r}. Compile the model, or pass the loop's optimizer: "
            "restore_optimizer=optimizer.",
            see="optimizer",
        )


def weights_of(model: Model) -> list[Any] | None:
    """Return the model's weight variables, or None if it only has get_weights/set_weights."""
    if anatomy.is_layer(model):
        return anatomy.listed(model, "weights")
    weights = getattr(model, "weights", None)
    return list(weights) if isinstance(weights, list | tuple) else None


def all_weights_of(model: Model) -> list[Any]:
    """Return the weight variables of a model, then what else it computes with."""
    return [*(weights_of(model) or ()), *weights_beyond(model)]
