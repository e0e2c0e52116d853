"""What makes a `tf.data` pipeline inexact to resume: by how much it is drawn ahead, and caches."""

from __future__ import annotations

from typing import Any

import keras

from keras_ratchet import _backends

_WRAP = "Wrap it: keras_ratchet.data.resumable(...)."
_RACE = (
    "Several calls of a function in this tf.data pipeline draw random numbers in parallel, so no "
    "two runs are alike. Use map() without num_parallel_calls, or "
    "tf.config.experimental.enable_op_determinism()."
)
_CUT_SHORT = (
    "When a pass over this tf.data pipeline leaves rows unused (take, filter, drop_remainder, "
    "steps), it is unknown for how many of them random numbers were drawn ahead, so no two runs "
    "are alike. Choose the rows, with take() or filter(), before the map() that draws."
)
_CACHED = (
    "This tf.data pipeline keeps in memory what it drew or shuffled in its first pass, and a run "
    "that resumes draws anew. Call cache() before shuffle() and before the map() that draws, or "
    "cache to a file."
)
_EARLY = (
    "Under a tf.distribute strategy, or with the option experimental_warm_start, this tf.data "
    f"pipeline draws random numbers for an epoch before it begins. {_WRAP}"
)
_LOOKED_AT = (
    "Keras draws a batch to learn shapes, and it is unknown for how many more rows this tf.data "
    "pipeline has drawn random numbers ahead, which TensorFlow does even without prefetch(), so "
    f"no two runs are alike. {_WRAP}"
)

_TOO_EARLY = (
    "With steps_per_epoch Keras makes the iterator of an epoch before it validates after the epoch "
    "before, and here both draw from one shuffle(). Leave steps_per_epoch out, or shuffle the "
    "training data only."
)


def complaint(
    pipeline: Any,
    *,
    steps: int | None = None,
    reads_to_end: bool = False,
    is_drawn_by_fit: bool = False,
    is_looked_at: bool = False,
    model: Any = None,
) -> str | None:
    """Return why a pipeline cannot be resumed exactly, and the cure; None for other data.

    Args:
        pipeline: What may be a `tf.data.Dataset`.
        steps: Batches of a pass, where `fit` is told.
        reads_to_end: Whether a pass is read on after its last batch, until there is no more.
        is_drawn_by_fit: Whether Keras makes the iterators.
        is_looked_at: Whether Keras, on torch and jax, draws a batch of it before training.
        model: The model that `fit` trains on it.
    """
    tensorflow = _backends.tensorflow_loading()
    if tensorflow is None or not tensorflow.is_pipeline(pipeline):
        return None
    if tensorflow.races(pipeline):
        return _RACE
    draws_ahead = tensorflow.draws(pipeline) and tensorflow.reads_ahead(pipeline)
    if draws_ahead and (steps or tensorflow.draws_below_a_cut(pipeline, reads_to_end)):
        return _CUT_SHORT
    if tensorflow.caches_what_varies(pipeline):
        return _CACHED
    early = tensorflow.starts_early(pipeline) or tensorflow.is_distributed(model)
    if is_drawn_by_fit and early and tensorflow.draws(pipeline):
        return _EARLY
    if is_looked_at and draws_ahead and keras.backend.backend() != "tensorflow":
        return _LOOKED_AT
    return None


def complaint_of_both(training: Any, validation: Any, steps: int | None) -> str | None:
    """Return why two pipelines cannot be resumed exactly together, and the cure.

    Args:
        training: What may be a `tf.data.Dataset`.
        validation: What may be another one, or the same.
        steps: The argument `steps_per_epoch`.
    """
    tensorflow = _backends.tensorflow_loading()
    if not steps or tensorflow is None or keras.backend.backend() != "tensorflow":
        return None
    if not (tensorflow.is_pipeline(training) and tensorflow.is_pipeline(validation)):
        return None
    ours = {id(stage) for stage in tensorflow.shuffles(training)}
    is_shared = any(id(stage) in ours for stage in tensorflow.shuffles(validation))
    return _TOO_EARLY if is_shared else None
