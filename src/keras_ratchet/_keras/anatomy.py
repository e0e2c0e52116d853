"""What a model is made of: its layers, their own variables, its optimizers' own variables.

| name | for | checked on |
|---|---|---|
| `Layer._flatten_layers` | all layers, at any depth | 3.12 to 3.16 |
| `Layer._trainable_variables` | what a layer owns itself | 3.12 to 3.16 |
| `Layer._non_trainable_variables` | what a layer owns itself | 3.12 to 3.16 |
| `Layer._seed_generators` | the seeds that a layer owns itself | 3.12 to 3.16 |
| `Layer._tracker` | looked into by no walk of ours | 3.12 to 3.16 |
| `TorchLayer._torch_params` | the same; where torch finds the variables | 3.12 to 3.16 |
| `BaseOptimizer._variables` | what an optimizer owns, without those inside it | 3.12 to 3.16 |
| `BaseOptimizer._trainable_variables` | what it was built for | 3.12 to 3.16 |

Which of the two lists of its layer a variable is in was settled when it was made: setting
`trainable = False` moves none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras_ratchet.types import Model


def layers_of(model: Model) -> list[Any]:
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


def has_own_train_step(model: Model) -> bool:
    """Return whether the model trains itself otherwise than Keras's `train_step` would."""
    import keras

    return getattr(type(model), "train_step", None) is not keras.Model.train_step


def is_whole(model: Model) -> bool:
    """Return whether every layer of a model is built."""
    return all(layer.built for layer in layers_of(model))


def batch_normalizations(model: Any) -> list[Any]:
    """Return the BatchNormalization layers of a model, nested ones too."""
    import keras

    layers = model._flatten_layers(include_self=False, recursive=True)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
