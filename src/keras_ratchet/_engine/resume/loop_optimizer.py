"""The optimizers of a hand-written loop: their states, and gradients that they have yet to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_ratchet import _backends
from keras_ratchet._warn import warn

_GRADIENTS = "gradients"
_ORDER = "order"
_SEVERAL = "several"


class LoopOptimizers:
    """What a loop trains with: optimizers, schedulers of learning rates, scalers of gradients.

    Args:
        given: One object, or a list of several; each has `state_dict` and `load_state_dict`.
        model: The model, or None.
    """

    def __init__(self, given: Any, model: Any = None) -> None:
        several = given if isinstance(given, list) else [given]
        self._each = [LoopOptimizer(one, model) for one in several]

    def begin_batch(self) -> None:
        """Note that a batch begins, in which no step was made yet."""
        for one in self._each:
            one.begin_batch()

    def close(self) -> None:
        """Watch them no more."""
        for one in self._each:
            one.close()

    def state(self) -> dict[str, Any]:
        """Return their states, as plain data and arrays."""
        if len(self._each) == 1:
            return self._each[0].state()
        return {_SEVERAL: [one.state() for one in self._each]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; warn if it was for another number of objects."""
        if not state:
            return
        saved = state.get(_SEVERAL, [state])
        if len(saved) != len(self._each):
            warn(
                f"Resume will not be exact: Run(optimizer=...) has {len(self._each)} objects, and "
                f"the snapshot has the states of {len(saved)}. The first ones are restored."
            )
        for one, its_state in zip(self._each, saved, strict=False):
            one.restore(its_state)


class LoopOptimizer:
    """An optimizer with `state_dict` and `load_state_dict`, such as torch's.

    A loop may sum the gradients of several batches before a step. After a batch in which a torch
    optimizer made no step, the gradients of its parameters are a part of its state.

    A torch optimizer knows its parameters by their order. That of `model.parameters()` is the order
    of the variables' names, and "dense_10" comes before "dense_9": it is another one if a process
    has made other layers before. So the order is saved, by the places of the model's variables.

    Args:
        optimizer: The optimizer, or None.
        model: The model, or None.
    """

    def __init__(self, optimizer: Any, model: Any = None) -> None:
        self._optimizer = optimizer
        self._model = model
        self._has_stepped = True
        self._hook = None
        watch = getattr(optimizer, "register_step_post_hook", None)
        if watch is not None and hasattr(optimizer, "param_groups"):
            self._hook = watch(self._note_step)

    def _note_step(self, *_: Any) -> None:
        self._has_stepped = True

    def begin_batch(self) -> None:
        """Note that a batch begins, in which no step was made yet."""
        self._has_stepped = self._hook is None

    def close(self) -> None:
        """Watch it no more."""
        if self._hook is not None:
            self._hook.remove()

    def state(self) -> dict[str, Any]:
        """Return the state, as plain data and arrays."""
        if self._optimizer is None:
            return {}
        found: dict[str, Any] = {
            "optimizer": _backends.torch_plain(self._optimizer.state_dict()),
            _ORDER: self._order(),
        }
        if not self._has_stepped and any(p.grad is not None for p in self._parameters()):
            gradients = [parameter.grad for parameter in self._parameters()]
            found[_GRADIENTS] = _backends.torch_plain(gradients)
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        if self._optimizer is None or "optimizer" not in state:
            return
        whole = _backends.torch_tensors(state["optimizer"])
        gradients = _backends.torch_tensors(state.get(_GRADIENTS, []))
        before, now = state.get(_ORDER, []), self._order()
        if before != now and sorted(before) == sorted(now) == sorted(set(now)):
            places = [before.index(variable) for variable in now]
            slots = whole["state"]
            moved = {new: slots[old] for new, old in enumerate(places) if old in slots}
            whole = {**whole, "state": moved}
            gradients = gradients and [gradients[old] for old in places]
        self._optimizer.load_state_dict(whole)
        for parameter, gradient in zip(self._parameters(), gradients, strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self._has_stepped = not gradients

    def _order(self) -> list[int]:
        """Return each parameter's place among the model's variables, -1 if it is none of them."""
        variables = getattr(self._model, "variables", ())
        places = {id(getattr(variable, "value", None)): i for i, variable in enumerate(variables)}
        return [places.get(id(parameter), -1) for parameter in self._parameters()]

    def _parameters(self) -> list[Any]:
        groups = getattr(self._optimizer, "param_groups", ())
        return [parameter for group in groups for parameter in group["params"]]
