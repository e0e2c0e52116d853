"""Helpers for torch's objects on any backend: data loaders, generators, optimizers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.optimizer import register_optimizer_step_post_hook

from keras_ratchet._backends import Foreign

_TENSOR = "torch.Tensor"


class Stream(Foreign):
    """The state of a `torch.Generator`."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__("state", is_stream=True)
        self._generator = generator

    @property
    def identity(self) -> Any:
        """The generator."""
        return id(self._generator)

    @property
    def value(self) -> Any:
        """The state, as a tensor of bytes."""
        return self._generator.get_state()

    def assign(self, value: NDArray[Any]) -> None:
        """Set the state."""
        self._generator.set_state(torch.from_numpy(np.array(value)))


def set_generator(generator: Any, state: NDArray[Any]) -> None:
    """Set the state of a `torch.Generator` from an array."""
    generator.set_state(torch.from_numpy(state))


def is_generator(value: Any) -> bool:
    """Return whether a value is a `torch.Generator`."""
    return isinstance(value, torch.Generator)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor."""
    return isinstance(value, torch.Tensor)


def tensor(value: NDArray[Any]) -> Any:
    """Return a tensor that owns its memory."""
    return torch.from_numpy(np.array(value))


def generators(loader: Any) -> list[Any]:
    """Return the generators that a DataLoader has of its own, each once."""
    sampler = getattr(loader, "sampler", None)
    owners = [loader, sampler, getattr(loader, "batch_sampler", None)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def generator_state(generator: Any) -> NDArray[Any]:
    """Return the state of a `torch.Generator` as an array."""
    state: NDArray[Any] = generator.get_state().numpy()
    return state


def rng_state() -> NDArray[Any]:
    """Return the state of torch's global generator, from which a DataLoader draws its seeds."""
    state: NDArray[Any] = torch.get_rng_state().numpy()
    return state


def set_rng_state(state: NDArray[Any]) -> None:
    """Restore that state."""
    torch.set_rng_state(torch.from_numpy(state))


def seeded(seed: int) -> NDArray[Any]:
    """Return the state of a fresh generator."""
    state: NDArray[Any] = torch.Generator().manual_seed(seed).get_state().numpy()
    return state


def plain(state: Any) -> Any:
    """Return a nested state with each tensor as a marked array (a copy)."""
    if isinstance(state, torch.Tensor):
        return (_TENSOR, state.detach().cpu().numpy().copy())
    return _rebuilt(state, plain)


def tensors(state: Any) -> Any:
    """Return what `plain` was given."""
    if isinstance(state, tuple) and len(state) == 2 and state[0] == _TENSOR:
        return torch.from_numpy(np.array(state[1]))
    return _rebuilt(state, tensors)


def _rebuilt(state: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(state, dict):
        return {key: change(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(change(value) for value in state)
    return state


def is_optimizer(value: Any) -> bool:
    """Return whether a value is a torch optimizer, or goes with one and has a state."""
    kinds = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    return isinstance(value, kinds)


def trainers(things: Iterable[Any], parameters: Collection[int]) -> list[Any]:
    """Return, of some objects, torch's optimizers of some parameters, and what adjusts them.

    Those are schedulers of these optimizers, and all scalers of gradients.

    Args:
        things: The objects.
        parameters: The ids of the parameters.
    """
    found, schedulers = [], []
    for thing in things:
        kind = type(thing)
        if issubclass(kind, torch.optim.Optimizer):
            groups = thing.param_groups
            if any(id(p) in parameters for group in groups for p in group["params"]):
                found.append(thing)
        elif issubclass(kind, torch.optim.lr_scheduler.LRScheduler):
            schedulers.append(thing)
        elif issubclass(kind, torch.amp.GradScaler) and thing.is_enabled():
            found.append(thing)
    ids = {id(thing) for thing in found}
    return found + [s for s in schedulers if id(getattr(s, "optimizer", None)) in ids]


def watch_steps(note: Callable[[Any], None]) -> Any:
    """Call a function with each optimizer that makes a step; return what ends that."""
    return register_optimizer_step_post_hook(lambda optimizer, *_: note(optimizer))
