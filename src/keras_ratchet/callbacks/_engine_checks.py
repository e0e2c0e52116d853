"""Ways to train in several processes that cannot work, or that train apart: said at the start."""

from __future__ import annotations

from typing import Any

import keras

from keras_ratchet import _backends
from keras_ratchet._engine.capture.model_state import Places
from keras_ratchet._engine.resume.drift import DriftWatch
from keras_ratchet._keras import anatomy, fit
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model

_ISSUE = "https://github.com/keras-team/keras/issues/20585"
_SYNCHRONIZED = (3, 16)  # from this Keras on `fit` averages gradients on torch


def refuse_strategy(model: Model | None = None) -> None:
    """Raise if TensorFlow is to train in several processes.

    `fit` fails before most callbacks see the model, so it is asked in constructors, too.

    Args:
        model: The model, if it is known; else the strategy is that of the scope.

    Raises:
        ConfigError: With a MultiWorkerMirroredStrategy of several workers, or a
            ParameterServerStrategy.
    """
    strategy = _backends.strategy(model)
    kinds = {kind.__name__ for kind in type(strategy).__mro__}
    found = [kind for kind in kinds if kind.startswith(("ParameterServer", "CollectiveAllReduce"))]
    if not found or _count_processes(strategy) == 1:
        return
    raise ConfigError(
        f"Keras 3 cannot train with {type(strategy).__name__} in several processes: its `fit` "
        f"fails there, see {_ISSUE}. Use MirroredStrategy (one process, several devices), or "
        "several processes on the backends that can: torchrun with KERAS_BACKEND=torch, or "
        "keras.distribution.initialize with KERAS_BACKEND=jax.",
        see="strategy",
    )


def _count_processes(strategy: Any) -> int:
    resolver = strategy.cluster_resolver
    cluster = {} if resolver is None else resolver.cluster_spec().as_dict()
    return max(1, sum(len(cluster.get(kind, ())) for kind in ("chief", "worker", "ps")))


def check_start(model: Model, ranks: Any) -> None:
    """Raise or warn, once in a run, where ranks on torch would train apart.

    Args:
        model: The model.
        ranks: The coordinator.

    Raises:
        ConfigError: If `fully_shard` was applied to a model whose variables it does not reach.
    """
    if keras.backend.backend() != "torch":
        return
    if _is_sharded_in_vain(model):
        raise ConfigError(
            "fully_shard() was applied to this Keras model, but Keras computes with the variables "
            "that it had before: training would go on unsharded, each rank by itself, and what "
            "torch saves would be the initial weights. Use DistributedDataParallel instead.",
            see="split-weights",
        )
    version = tuple(int(part) for part in keras.__version__.split(".")[:2])
    trains_apart = version < _SYNCHRONIZED and fit.epoch_iterator() is not None
    if ranks.rank == 0 and trains_apart and not _may_average(model):
        warn(
            f"`fit` of Keras {keras.__version__} on torch does not average gradients over the "
            f"{ranks.world_size} processes: each trains a model of its own, and rank 0's is "
            "saved. Use Keras 3.16 or later, a train_step() that calls the model in "
            "DistributedDataParallel, or a loop with keras_ratchet.Run."
        )


def _may_average(model: Any) -> bool:
    """Return whether there is code of the user's that may average gradients."""
    own_optimizer = not type(getattr(model, "optimizer", None)).__module__.startswith("keras.")
    hooked = any(
        getattr(parameter, "_backward_hooks", None)
        or getattr(parameter, "_post_accumulate_grad_hooks", None)
        for parameter in model.parameters()
    )
    return anatomy.has_own_train_step(model) or own_optimizer or hooked


def _is_sharded_in_vain(model: Any) -> bool:
    kinds = {kind.__name__ for part in model.modules() for kind in type(part).__mro__}
    if "FSDPModule" not in kinds:
        return False
    return any(type(v.value).__name__ != "DTensor" for v in model.trainable_variables)


class EpochDrift:
    """Looks for drift after epochs, in runs that no BackupAndRestore compares at each save."""

    def __init__(self) -> None:
        self._watch = DriftWatch()
        self._places = Places()

    def check(self, ranks: Any, model: Model) -> None:
        """Compare the weights of all ranks, which all call it.

        Args:
            ranks: The coordinator.
            model: The model.
        """
        self._watch.check(ranks, model, self._places, has_trained=True)
