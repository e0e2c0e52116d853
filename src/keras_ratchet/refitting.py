"""`refit`: train again on all the data, for as long as was best when some of it was held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_ratchet._engine.averaging.validation import is_arrays
from keras_ratchet._keras.metrics import metric_direction
from keras_ratchet.errors import ConfigError, UnknownDirectionError
from keras_ratchet.policy._arguments import is_whole_number
from keras_ratchet.policy.monitor import Mode, Monitor, missing_message, one_of
from keras_ratchet.types import Model

Match = Literal["epochs", "steps"]
_OURS = ("epochs", "initial_epoch", "validation_split", "validation_data", "x", "y")


def refit(
    model_fn: Callable[[], Any],
    data: Any,
    result: Any,
    *,
    validation_data: Any = None,
    match: Match = "epochs",
    monitor: str = "val_loss",
    mode: str = "auto",
    **fit_arguments: Any,
) -> tuple[Any, Any]:
    """Train a new model on training and validation data, for as long as was best before.

    Once the validation data has told how long to train, it is better used for training. Nothing
    is left to measure the new model on: trust it as far as you trust the first run, and keep test
    data apart.

    Args:
        model_fn: Returns a new model, compiled as the first one was. It sets seeds if it likes.
        data: What to train on, as `fit` takes it: `x`, `(x, y)`, `(x, y, sample_weight)` or a
            dataset.
        result: The first run: the `EarlyStopping` that stopped it (ours or Keras's), its
            `History`, or a number of epochs (of steps with `match="steps"`).
        validation_data: What was held out, to be joined to `data`: arrays to arrays, a PyDataset
            to a PyDataset, a `tf.data.Dataset` to one. Leave it out if `data` holds it already.
        match: What to repeat from the first run's best epoch: "epochs" (each sample is seen as
            often; there are more steps, since there is more data) or "steps" (as many updates
            of the weights; the last epoch may be a partial one).
        monitor: Which metric of a `History` says what was best.
        mode: "min", "max" or "auto", for a `History`.
        **fit_arguments: More arguments of `fit`: `batch_size` (the first run's), `callbacks`,
            `verbose`, `class_weight`, `shuffle`, ...

    Returns:
        The model and the History of its training.

    Raises:
        ConfigError: If the result has no best epoch, or the data cannot be joined.

    Example:
        ```python
        stopper = keras_ratchet.EarlyStopping(patience=10)
        make_model().fit(x, y, validation_data=(x_val, y_val), epochs=200, callbacks=[stopper])
        model, history = keras_ratchet.refit(
            make_model, (x, y), stopper, validation_data=(x_val, y_val)
        )
        ```
    """
    one_of("match", match, get_args(Match))
    _refuse_ours(fit_arguments)
    epochs, steps = _length(result, match, monitor, mode)
    x, y, sample_weight = _parts(data, validation_data)
    model = model_fn()
    if not getattr(model, "compiled", False):
        raise ConfigError(
            f"model_fn must return a compiled Keras model. Got: {model!r}.", see="refit"
        )
    arguments = {"y": y, "sample_weight": sample_weight, **fit_arguments}
    if steps is not None:
        epochs = math.ceil(steps / _steps_per_epoch(x, fit_arguments))
        arguments["callbacks"] = [_stop_after(steps, model), *_listed(arguments.get("callbacks"))]
    given = {name: value for name, value in arguments.items() if value is not None}
    return model, model.fit(x, epochs=epochs, **given)


def _refuse_ours(arguments: Mapping[str, Any]) -> None:
    found = [name for name in _OURS if name in arguments]
    if found:
        raise ConfigError(
            f"refit decides how long to train, and on what, so it excludes {', '.join(found)}.",
            see="refit",
        )


def _length(result: Any, match: Match, monitor: str, mode: str) -> tuple[int, int | None]:
    """Return how many epochs to train, and how many steps if steps are what counts."""
    if is_whole_number(result):
        if result < 1:
            raise ConfigError(
                f"result must be a number of {match}, at least 1. Got: {result!r}.", see="refit"
            )
        return result, result if match == "steps" else None
    if isinstance(result, keras.callbacks.History):
        epochs = _best_of_history(result, monitor, mode)
    else:
        epochs = _best_of_stopper(result)
    if match == "epochs":
        return epochs, None
    steps = (result.params or {}).get("steps")
    if steps is None:
        raise ConfigError(
            "The number of steps per epoch of the first run is unknown. Count them, and pass "
            f"result={epochs} * steps_per_epoch; or use match='epochs'.",
            see="refit",
        )
    return epochs, epochs * int(steps)


def _best_of_stopper(stopper: Any) -> int:
    """Return how many epochs were done when an EarlyStopping saw the best."""
    is_keras = isinstance(stopper, keras.callbacks.EarlyStopping)  # before fit it has no epoch
    if not (is_keras or hasattr(stopper, "best_epoch")):
        raise ConfigError(
            f"result must be an EarlyStopping, a History, or a number of epochs. Got: {stopper!r}.",
            see="refit",
        )
    if getattr(stopper, "best_value", getattr(stopper, "best", None)) is None:
        raise ConfigError(
            f"This {type(stopper).__name__} has no best epoch: pass it to fit(callbacks=[...]) "
            f"first, with validation data.",
            see="refit",
        )
    return int(stopper.best_epoch) + 1


def _best_of_history(history: Any, monitor: str, mode: str) -> int:
    """Return how many epochs were done when a metric in a History was best."""
    values = history.history.get(monitor)
    if not values:
        raise ConfigError(f"result: {missing_message(monitor, history.history)}", see="refit")
    if len(values) != len(history.epoch):
        raise ConfigError(
            f"The History has {len(values)} values of {monitor!r} and {len(history.epoch)} epochs "
            f"(validation_freq), so which epoch was best is unknown. Pass the EarlyStopping.",
            see="refit",
        )
    rule = Monitor(monitor, _direction(history, monitor, mode))
    best: float | None = None
    epochs = 0
    for epoch, value in zip(history.epoch, values, strict=True):
        if rule.beats(float(value), best):
            best, epochs = float(value), epoch + 1
    if best is None:
        raise ConfigError(
            f"{monitor!r} was NaN in every epoch, so none of them was best.", see="refit"
        )
    return epochs


def _direction(history: Any, monitor: str, mode: str) -> Mode:
    if mode == "auto":
        mode = metric_direction(history.model, monitor) or mode
    if mode not in ("min", "max"):
        raise UnknownDirectionError(
            f"It is unknown whether a small or a large {monitor!r} is better. Pass mode='min' "
            f"or mode='max'. Got: {mode!r}."
        )
    return "min" if mode == "min" else "max"


def _parts(data: Any, more: Any) -> tuple[Any, Any, Any]:
    """Return x, y and sample weights of the data, joined if there are two."""
    ours: tuple[Any, Any, Any] = keras.utils.unpack_x_y_sample_weight(data)
    if more is None:
        return ours
    theirs = keras.utils.unpack_x_y_sample_weight(more)
    if is_arrays(ours[0]) and is_arrays(theirs[0]):
        return _joined_arrays(ours, theirs)
    if isinstance(ours[0], keras.utils.PyDataset) and isinstance(theirs[0], keras.utils.PyDataset):
        return _Chain(ours[0], theirs[0]), None, None
    if all(hasattr(d, "concatenate") and hasattr(d, "element_spec") for d in (ours[0], theirs[0])):
        return ours[0].concatenate(theirs[0]), None, None  # tf.data
    raise ConfigError(
        f"A {type(ours[0]).__name__} and a {type(theirs[0]).__name__} cannot be concatenated "
        "here. Concatenate them yourself and pass the result as data=, without validation_data.",
        see="refit",
    )


def _joined_arrays(
    ours: tuple[Any, Any, Any], theirs: tuple[Any, Any, Any]
) -> tuple[Any, Any, Any]:
    weights = [part[2] for part in (ours, theirs)]
    if (weights[0] is None) != (weights[1] is None):
        weights = [
            np.ones(_rows(part[0]), "float32") if part[2] is None else part[2]
            for part in (ours, theirs)
        ]
    pairs = [(ours[0], theirs[0]), (ours[1], theirs[1]), (weights[0], weights[1])]
    x, y, sample_weight = (_joined(a, b) for a, b in pairs)
    return x, y, sample_weight


def _joined(a: Any, b: Any) -> Any:
    if a is None and b is None:
        return None
    try:
        keras.tree.assert_same_structure(a, b)
        return keras.tree.map_structure(
            lambda one, other: np.concatenate([_array(one), _array(other)]), a, b
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"data and validation_data do not fit together: {error}", see="refit"
        ) from error


def _array(leaf: Any) -> Any:
    return np.asarray(leaf if isinstance(leaf, np.ndarray) else keras.ops.convert_to_numpy(leaf))


def _rows(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])


class _Chain(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """The batches of one dataset, then those of another."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(
            workers=first.workers,
            use_multiprocessing=first.use_multiprocessing,
            max_queue_size=first.max_queue_size,
        )
        self._first = first
        self._second = second

    def __len__(self) -> int:
        return int(self._first.num_batches + self._second.num_batches)

    def __getitem__(self, index: int) -> Any:
        count = self._first.num_batches
        return self._first[index] if index < count else self._second[index - count]

    def on_epoch_end(self) -> None:
        """Call both, so that each shuffles."""
        self._first.on_epoch_end()
        self._second.on_epoch_end()


def _steps_per_epoch(x: Any, arguments: Mapping[str, Any]) -> int:
    """Return how many steps an epoch will have, or 1 if that is unknown."""
    given = arguments.get("steps_per_epoch")
    if given:
        return int(given)
    if is_arrays(x):
        return math.ceil(_rows(x) / (arguments.get("batch_size") or 32))
    try:
        return max(int(x.num_batches if hasattr(x, "num_batches") else len(x)), 1)
    except TypeError:
        return 1


def _stop_after(steps: int, model: Model) -> Any:
    """Return a callback that ends training after so many steps."""
    done = before = 0

    def started(epoch: int, logs: Any = None) -> None:
        nonlocal before
        before = done

    def ended(batch: int, logs: Any = None) -> None:
        nonlocal done
        done = before + batch + 1
        if done >= steps:
            model.stop_training = True

    return keras.callbacks.LambdaCallback(on_epoch_begin=started, on_train_batch_end=ended)


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
