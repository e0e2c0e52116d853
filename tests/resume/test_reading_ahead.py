"""tf.data that reads ahead: what it has drawn by some moment depends on how busy the machine is.

TensorFlow joins `map` and `batch`, and prefetches, without being asked to. So the batch that Keras
looks at before training costs the random numbers of four rows, or of eight.
"""

import contextlib
import functools
import random
import re
import time

import keras
import numpy as np
import pytest
from support.hidden import as_written
from support.resuming import BATCH, PER_EPOCH, Kill, Script, arrays, model
from support.runs import warnings_like

from keras_ratchet._engine.resume.data_cursor import SourceState
from keras_ratchet.data import resumable

tf = pytest.importorskip("tensorflow")


def rows(count=PER_EPOCH * BATCH, pause_s=0.0):
    """Return rows and the generator that their noise is drawn from."""
    draws = tf.random.Generator.from_seed(3)

    def noisy(a, b):
        wait = [tf.py_function(lambda: time.sleep(pause_s), [], [])] if pause_s else []
        with tf.control_dependencies([one for one in wait if one is not None]):
            return a + draws.normal((4,)) * 0.3, b

    return tf.data.Dataset.from_tensor_slices(arrays(count)).map(noisy), draws


def drawn(draws):
    """Return for how many rows a generator has given numbers: each takes 1024 steps."""
    return int(draws.state[0]) // 1024


def test_tensorflow_reads_ahead_without_being_asked_to():
    dataset, draws = rows()
    iterator = iter(dataset.batch(BATCH))
    next(iterator)
    give_up = time.monotonic() + 30
    while drawn(draws) == BATCH and time.monotonic() < give_up:
        time.sleep(0.01)
    assert drawn(draws) > BATCH


def test_as_written_it_does_not():
    dataset, draws = rows()
    iterator = iter(as_written(dataset.batch(BATCH)))
    next(iterator)
    time.sleep(0.2)
    assert drawn(draws) == BATCH


class Look:
    """Stands for a thread that draws for so many rows beyond the batch that Keras looks at."""

    def __init__(self):
        self.draws = None

    def data(self):
        dataset, self.draws = rows()
        return {"x": as_written(dataset.batch(BATCH))}

    @contextlib.contextmanager
    def reads(self, ahead):
        look = keras.Model._symbolic_build

        @functools.wraps(look)
        def build(*args, **kwargs):
            look(*args, **kwargs)
            self.draws.normal((ahead, 4))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.Model, "_symbolic_build", build)
            yield


@pytest.mark.parametrize("kills", [(6,), (16, 24)], ids=["first epoch", "later epochs"])
def test_a_run_goes_on_with_what_it_had_drawn_itself(kills, tmp_path, backend):
    if backend == "tensorflow":
        pytest.skip("Keras looks at no batch on tensorflow")
    look = Look()
    whole, script, other = (Script(str(tmp_path / n), look.data) for n in ("a", "b", "c"))
    first, *later = map(Kill, kills)
    with look.reads(ahead=8):
        outcome = whole.uninterrupted(save_freq=3)
        assert script.run(first, save_freq=3) is None
    with look.reads(ahead=1):
        assert other.uninterrupted(save_freq=3).differences(outcome)  # so no two runs are alike
        assert script.chain(*later, save_freq=3).differences(outcome) == []


class OfPython:
    """Rows of a Python generator that draws from NumPy's global stream, ahead of training."""

    def __init__(self, ahead):
        self.ahead = ahead

    def __call__(self):
        spec = tf.TensorSpec((4,), tf.float32), tf.TensorSpec((1,), tf.float32)
        dataset = tf.data.Dataset.from_generator(self.noisy, output_signature=spec).batch(BATCH)
        return {"x": as_written(dataset.prefetch(self.ahead) if self.ahead else dataset)}

    def noisy(self):
        for a, b in zip(*arrays(), strict=True):
            yield a + np.random.normal(size=4) * 0.3, b


class Slowly(keras.callbacks.Callback):
    """Leaves a pipeline time to read ahead, and hides what it read before training."""

    def on_train_begin(self, logs=None):
        np.random.seed(1)

    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(0.02)


def test_numpys_stream_is_not_set_to_where_a_pipeline_had_read_ahead_to(tmp_path):
    def script(name, ahead):
        return Script(str(tmp_path / name), OfPython(ahead), callbacks=lambda: [Slowly()])

    whole = script("whole", ahead=4).uninterrupted(save_freq=3)
    assert script("killed", ahead=4).run(Kill(6), save_freq=3) is None
    assert script("killed", ahead=0).run(save_freq=3).differences(whole) == []


class NoisyWeights(keras.callbacks.Callback):
    """Draws from the host's streams in training, beside data that does not."""

    def on_train_batch_end(self, batch, logs=None):
        kernel = self.model.trainable_variables[0]
        noise = np.random.normal(size=kernel.shape) * 0.01 + random.random() * 0.01
        kernel.assign(keras.ops.convert_to_numpy(kernel) + noise.astype("float32"))


def called_from_python():
    spec = tf.TensorSpec((4,), tf.float32), tf.TensorSpec((1,), tf.float32)
    return tf.data.Dataset.from_generator(
        lambda: zip(*arrays(), strict=True), output_signature=spec
    )


@pytest.mark.parametrize("is_python", [True, False])
def test_a_stream_that_a_pipeline_does_not_draw_from_is_where_training_left_it(is_python, tmp_path):
    source = called_from_python if is_python else lambda: plain(PER_EPOCH * BATCH)

    def script(name):
        return Script(
            str(tmp_path / name), lambda: {"x": source().batch(BATCH)}, callbacks=noisy_weights
        )

    whole = script("whole").uninterrupted(save_freq=3)
    with warnings_like("stream of numpy and python has moved in this epoch") as count:
        assert script("killed").chain(Kill(6), Kill(16), save_freq=3).differences(whole) == []
    assert count() == (2 if is_python else 0)  # nobody can tell who draws


class Seldom(keras.utils.PyDataset):
    """Draws from NumPy's global stream for its last batches only, and slowly."""

    num_batches = PER_EPOCH

    def __getitem__(self, index):
        x, y = (rows[index * BATCH :][:BATCH] for rows in arrays())
        if index < 6:
            return x, y
        time.sleep(0.1)
        return x + np.random.normal(size=x.shape).astype("float32"), y


def test_a_stream_that_data_draws_from_later_in_the_epoch_is_waited_for(tmp_path):
    def in_order():
        return {"x": Seldom(), "shuffle": False}

    def script(name):
        return Script(str(tmp_path / name), in_order, callbacks=lambda: [Slower()])

    whole = script("whole").uninterrupted(save_freq=3)
    resumed = script("killed").chain(Kill(7), Kill(16), save_freq=3)  # resumed at 6 and at 5
    assert resumed.differences(whole) == []


class Slower(keras.callbacks.Callback):
    """Leaves data time to be read ahead to the end of the epoch."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.1)


def noisy_weights():
    return [NoisyWeights()]


def options(dataset, **chosen):
    found = tf.data.Options()
    for name, value in chosen.items():
        owner = found if hasattr(found, name) else found.experimental_optimization
        setattr(owner, name, value)
    return dataset.with_options(found)


def drawing(count=40):
    return rows(count)[0]


def plain(count=40):
    return tf.data.Dataset.from_tensor_slices(arrays(count))


LOOK, CUT, CACHE, EARLY = "learn shapes", "rows unused", "keeps in memory", "before it begins"
PIPELINES = {
    "map, batch": (lambda: drawing().batch(4), LOOK),
    "map": (drawing, LOOK),
    "map, batch, prefetch": (lambda: drawing().batch(4).prefetch(2), LOOK),
    "as written": (lambda: as_written(drawing().batch(4)), None),
    "as written, prefetch": (lambda: as_written(drawing().batch(4).prefetch(1)), LOOK),
    "without the two stages": (
        lambda: options(drawing().batch(4), map_and_batch_fusion=False, inject_prefetch=False),
        None,
    ),
    "as written, but fused": (
        lambda: options(
            drawing().batch(4), apply_default_optimizations=False, map_and_batch_fusion=True
        ),
        LOOK,
    ),
    "draws nothing": (lambda: plain().batch(4).take(3).prefetch(2), None),
    "take": (lambda: drawing().batch(4).take(3), CUT),
    "take, as written": (lambda: as_written(drawing().batch(4).take(3)), None),
    "filter": (lambda: drawing().filter(lambda a, b: b[0] > 0).batch(4), CUT),
    "filter before": (
        lambda: as_written(plain().filter(lambda a, b: b[0] > 0).concatenate(drawing()).batch(4)),
        None,
    ),
    "drop_remainder, none left": (lambda: drawing(40).batch(4, drop_remainder=True), LOOK),
    "drop_remainder, two left": (lambda: drawing(42).batch(4, drop_remainder=True), CUT),
    "zip with fewer": (lambda: tf.data.Dataset.zip((drawing(), plain(30))).batch(4), CUT),
    "zip with more": (lambda: tf.data.Dataset.zip((drawing(30), plain())).batch(4), LOOK),
    "enumerate": (lambda: drawing().enumerate().batch(4), LOOK),
    "cache of draws": (lambda: drawing().cache().batch(4), CACHE),
    "cache of an order": (lambda: plain().shuffle(9, seed=1).cache().batch(4), CACHE),
    "cache of one order": (
        lambda: plain().shuffle(9, seed=1, reshuffle_each_iteration=False).cache().batch(4),
        None,
    ),
    "cache before": (lambda: plain().cache().shuffle(9, seed=1).batch(4), None),
    "warm start": (lambda: options(drawing().batch(4), experimental_warm_start=True), EARLY),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_what_depends_on_timing_is_named(name, backend):
    make, expected = PIPELINES[name]
    if expected == LOOK and backend == "tensorflow":
        expected = None
    complaint = SourceState("tf_dataset", make()).complaint()
    assert complaint is None if expected is None else re.search(expected, complaint or "")


def test_a_cache_in_a_file_lasts(tmp_path):
    dataset = as_written(drawing().cache(str(tmp_path / "rows")).batch(4))
    assert SourceState("tf_dataset", dataset).complaint() is None


def test_a_loop_of_ones_own_looks_at_no_batch():
    assert SourceState("loop", drawing().batch(4)).complaint() is None


def test_resumable_reads_to_the_end_so_that_all_rows_are_drawn_for():
    dataset, draws = rows(PER_EPOCH * BATCH + 2, pause_s=0.005)
    wrapped = resumable(dataset.batch(BATCH, drop_remainder=True))
    assert SourceState("py_dataset", wrapped).complaint() is None
    for epoch in (1, 2):
        assert len(list(wrapped)) == PER_EPOCH
        assert drawn(draws) == epoch * (PER_EPOCH * BATCH + 2)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("strategy", ["MirroredStrategy", "OneDeviceStrategy"])
def test_a_strategy_draws_for_an_epoch_before_it_begins(strategy, tmp_path, backend):
    if backend != "tensorflow":
        pytest.skip("strategies are of tensorflow")
    scope = {
        "MirroredStrategy": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
        "OneDeviceStrategy": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    }[strategy]()

    def make():
        with scope.scope():
            return model()

    with pytest.warns(UserWarning, match=EARLY):
        Script(str(tmp_path), lambda: {"x": drawing().batch(4)}, make=make).run()
