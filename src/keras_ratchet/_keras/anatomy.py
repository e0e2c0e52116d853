"""What a model is made of: its layers, their own variables, its optimizers' own variables.

| name | for | checked on |
|---|---|---|
| `Layer._flatten_layers` | all layers, at any depth | 3.12.0, 3.15.1, 3.16 nightly |
| `Layer._trainable_variables`, `._non_trainable_variables` | what a layer itself owns | the same |
| `Layer._seed_generators` | the seeds that a layer itself owns | the same |
| `Optimizer._variables` | what an optimizer itself owns, without those inside it | the same |
| `Optimizer._trainable_variables` | what it was built for | the same |
| `saving_lib.get_attr_skipset` | the attributes that are Keras's own | the same |

Whether a variable is in the one or in the other list of its layer was settled when it was made:
`trainable = False` moves none. `tests/keras/test_names.py` fails when a name is gone. Keras is
imported on call, never before.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any


def layers_of(model: Any) -> list[Any]:
    """Return the model and all layers in it, each once; none if it is no Keras model."""
    flatten = getattr(model, "_flatten_layers", None)
    if flatten is None:
        return []
    return list({id(layer): layer for layer in flatten()}.values())


def own_variables(layer: Any) -> list[Any]:
    """Return the variables of a layer that belong to none of its sublayers, in a fixed order."""
    seeds = [generator.state for generator in layer._seed_generators]
    return [*layer._trainable_variables, *layer._non_trainable_variables, *seeds]


def is_layer(thing: Any) -> bool:
    """Return whether something is a Keras layer or model."""
    import keras

    return isinstance(thing, keras.layers.Layer)


def is_metric(thing: Any) -> bool:
    """Return whether something is a Keras metric."""
    import keras

    return isinstance(thing, keras.metrics.Metric)


def is_optimizer(thing: Any) -> bool:
    """Return whether something is a Keras optimizer."""
    import keras

    return isinstance(thing, keras.optimizers.Optimizer)


def with_inner(optimizer: Any) -> Iterator[tuple[str, Any]]:
    """Yield an optimizer, and those inside it (loss scale, one of several), with their paths."""
    yield "", optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        yield from ((f"/inner_optimizer{path}", one) for path, one in with_inner(inner))
    for i, each in enumerate(getattr(optimizer, "optimizers", ())):
        yield from ((f"/optimizers/{i}{path}", one) for path, one in with_inner(each))


def optimizer_variables(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer that belong to none inside it."""
    return list(optimizer._variables)


def built_for(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer was built for, in its order."""
    return list(optimizer._trainable_variables) if optimizer.built else []


def has_own_train_step(model: Any) -> bool:
    """Return whether the model trains itself otherwise than Keras's `train_step` would."""
    import keras

    return getattr(type(model), "train_step", None) is not keras.Model.train_step


def is_whole(model: Any) -> bool:
    """Return whether every layer of a model is built."""
    return all(layer.built for layer in layers_of(model))


@functools.cache
def keras_attributes() -> frozenset[str]:
    """Return the attributes that Keras itself keeps on every layer."""
    from keras.src.saving import saving_lib

    return frozenset(saving_lib.get_attr_skipset("Layer"))


def batch_normalizations(model: Any) -> list[Any]:
    """Return the BatchNormalization layers of a model, nested ones too."""
    import keras

    layers = model._flatten_layers(include_self=False, recursive=True)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
