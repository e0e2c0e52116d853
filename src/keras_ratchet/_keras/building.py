"""Variables that Keras's own `train_step` would create, created before the first step.

| name | for | checked on |
|---|---|---|
| `Trainer._symbolic_build` | metrics and optimizer, without data | 3.12 to 3.16 |
| `TFEpochIterator._distributed_dataset` | the shapes of batches | 3.12 to 3.16 |
| `Layer._flatten_layers` | whether all layers are built | 3.12 to 3.16 |
| `PyDatasetAdapter.enqueuer` | batches drawn early | 3.12 to 3.16 |
| `PyDatasetEnqueuer.ready_queue` | batches drawn early | 3.12 to 3.16 |
"""

from __future__ import annotations

import logging
from typing import Any

from keras_ratchet._keras.metrics import metrics_are_known
from keras_ratchet.types import Model

_log = logging.getLogger("keras_ratchet")


def create_variables(model: Model, iterator: Any, variables: bool = True) -> None:
    """Create what Keras's own `train_step` creates in the first step, before it.

    torch and jax have done so by now; tensorflow defers it to the first step. Where it cannot be
    done without data (a `call` that only runs eagerly) it is left to that step, which would fail
    in the same way if there is more to it. Batches that were drawn for it, and would be trained
    on a second time, are thrown away.

    Args:
        model: The model.
        iterator: The `EpochIterator` of `fit`, or None.
        variables: Whether there is anything to create.
    """
    _drop_drawn(iterator)
    if not variables:
        return
    optimizer = getattr(model, "optimizer", None)
    dataset = getattr(iterator, "_distributed_dataset", None)
    if dataset is not None and not (model.built and metrics_are_known(model)):
        try:
            _build_symbolically(model, dataset)
        except Exception as error:
            _log.debug("%s is built by its first step: %r", model.name, error)
            return
    layers: Any = getattr(model, "_flatten_layers", list)()
    if optimizer is not None and not optimizer.built and all(layer.built for layer in layers):
        optimizer.build(model.trainable_variables)


def _build_symbolically(model: Any, dataset: Any) -> None:
    import keras

    spec = keras.tree.map_structure(
        lambda t: keras.KerasTensor(tuple(t.shape), keras.backend.standardize_dtype(t.dtype)),
        dataset.element_spec,
    )
    model._symbolic_build(data_batch=spec)


def _drop_drawn(iterator: Any) -> None:
    """Drop the batches that a PyDataset's workers prepared while the model was built.

    torch and jax draw one batch to learn shapes. Keras stops the workers then, but keeps what
    they had prepared, and would start training with it, in addition to a whole epoch.
    """
    enqueuer = getattr(getattr(iterator, "data_adapter", None), "enqueuer", None)
    if enqueuer is not None and iterator.data_adapter.num_batches is not None:
        enqueuer.ready_queue.queue.clear()
