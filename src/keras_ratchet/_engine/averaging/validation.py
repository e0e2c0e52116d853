"""Measures a model on the validation data, as `fit` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_ratchet.errors import ConfigError, MetricError, MissingMetricError
from keras_ratchet.policy.monitor import missing_message
from keras_ratchet.types import Model

_PARTS = ("x", "y", "sample_weight")


@dataclass(frozen=True, slots=True)
class Validation:
    """What a model's value is measured on.

    Attributes:
        arguments: Of `model.evaluate`.
        function: Returns the value, or metrics by name, of a model; in place of `evaluate`.
        is_fits: Whether it is what `fit` validates on, so that the values in the logs apply.
    """

    arguments: Mapping[str, Any]
    function: Callable[[Any], Any] | None = None
    is_fits: bool = False

    def check(self, model: Model) -> None:
        """Raise a ConfigError if `evaluate` cannot work."""
        if self.function is None and not getattr(model, "compiled", False):
            raise ConfigError(
                "Averages are compared with model.evaluate, but the model is not compiled. "
                "Compile it, or pass a function: validation_data=lambda model: value.",
                see="averages",
            )

    def value(self, model: Model, metric: str) -> float:
        """Return the metric of the model as it is; `val_loss` is what `evaluate` calls `loss`.

        Raises:
            MissingMetricError: If it is not among the metrics.
            MetricError: If it is not one number.
        """
        if self.function is None:
            found = model.evaluate(**self.arguments, verbose=0, return_dict=True)
        else:
            found = self.function(model)
        if isinstance(found, Mapping):
            found = _named(found, metric)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise MetricError(f"{metric!r} must be a single number. Got: {found!r}.") from None


def validation_of(
    given: Any, fits: Mapping[str, Any], batch_size: int | None = None, steps: int | None = None
) -> Validation:
    """Return the validation that a user asked for.

    Args:
        given: Data as `validation_data` of `fit` takes it, a function of the model, or None for
            what `fit` validates on.
        fits: The arguments with which `fit` evaluates (`fit.evaluate_arguments`), or nothing.
        batch_size: Of `given`; by default `fit`'s.
        steps: Number of batches of `given`; by default all.

    Raises:
        ConfigError: If there is nothing to validate on, or it can be read only once.
    """
    if given is None and "x" not in fits:
        raise ConfigError(
            "An average is accepted only if its value is better, but there is no data to "
            "measure it on. Pass validation_data=..., here or to fit.",
            see="averages",
        )
    if given is not None and callable(given) and not hasattr(given, "__len__"):
        return Validation({}, given)
    if given is None or _is_same(given, fits):
        _refuse_one_pass(fits["x"], "The validation data of fit")
        return Validation(dict(fits), is_fits=True)
    data = dict(zip(_PARTS, keras.utils.unpack_x_y_sample_weight(given), strict=True))
    _refuse_one_pass(data["x"], "validation_data")
    size = batch_size or fits.get("batch_size")
    in_arrays = is_arrays(data["x"])
    return Validation({**data, "batch_size": size if in_arrays else None, "steps": steps})


def is_arrays(x: Any) -> bool:
    """Return whether data is arrays (or a structure of them) rather than a source of batches."""
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)


def _refuse_one_pass(x: Any, what: str) -> None:
    if hasattr(x, "__next__"):
        raise ConfigError(
            f"{what} is a {type(x).__name__}, which can be read only once, but averages are "
            "compared on the same data. Pass arrays or a data set.",
            see="averages",
        )


def _is_same(given: Any, fits: Mapping[str, Any]) -> bool:
    """Return whether data is what `fit` validates on: the same objects, or equal arrays."""
    if "x" not in fits:
        return False
    ours = keras.utils.unpack_x_y_sample_weight(given)
    theirs = tuple(fits[part] for part in _PARTS)
    pairs = (keras.tree.flatten(ours), keras.tree.flatten(theirs))
    if len(pairs[0]) != len(pairs[1]):
        return False
    return all(_are_equal(a, b) for a, b in zip(*pairs, strict=True))


def _are_equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return False
    return a.dtype == b.dtype and np.array_equal(a, b)


def _named(metrics: Mapping[str, Any], metric: str) -> Any:
    for name in (metric.removeprefix("val_"), metric):
        if name in metrics:
            return metrics[name]
    raise MissingMetricError(
        f"{missing_message(metric.removeprefix('val_'), metrics)} These are the metrics of "
        "model.evaluate. Pass a metric that a callback adds as a function: "
        "validation_data=lambda model: value."
    )
