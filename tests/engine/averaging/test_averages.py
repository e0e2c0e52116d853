"""Averages in the model: equal decisions on the three backends, statistics, dtypes, no traces."""

import random

import keras
import numpy as np
import pytest
from support.averages import TOLERANCE, best_first, bits, loss_of, network, oracle_soup, recorded
from support.models import data, dense, fit

from keras_ratchet import _backends
from keras_ratchet._engine.averaging.averager import (
    Averager,
    Member,
    OutOfTime,
    average,
    moving_statistics,
    preserve_non_weights,
)
from keras_ratchet._engine.averaging.moving_statistics import StatisticsData, reestimate
from keras_ratchet._engine.averaging.validation import Validation, validation_of
from keras_ratchet._formats.numeric import mean_of
from keras_ratchet._keras.ema import ema_pairs
from keras_ratchet.errors import ConfigError, MetricError, MissingMetricError
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.soup import Candidate

LOSS = Monitor("val_loss")


def members_of(snapshots, values):
    return [
        Member(Candidate(f"epoch {i}", value), weights)
        for i, (weights, value) in enumerate(zip(snapshots, values, strict=True))
    ]


def averager(model, snapshots, validation, monitor=LOSS, **arguments):
    values = [0.0] * len(snapshots)
    return Averager(model, members_of(snapshots, values), monitor, validation, **arguments)


def recorded_validation():
    _, x, y = recorded()
    return validation_of((x, y), {})


@pytest.mark.parametrize("k", [10, 5, 2])
def test_the_same_snapshots_give_the_same_soup_on_every_backend(k):
    """The oracle is NumPy in double precision, so each backend's answer is compared with one."""
    snapshots = best_first()[:k]
    members, value, margin = oracle_soup(snapshots)
    assert margin > 100 * TOLERANCE  # no decision hangs on rounding
    model = network()
    measured = averager(model, snapshots, recorded_validation())
    record = average(
        measured, "soup", [m.candidate for m in members_of(snapshots, [0.0] * k)], LOSS
    )
    assert record.indices == members and len(members) > (1 if k > 2 else 0)
    assert record.best == pytest.approx(loss_of(snapshots[0]), rel=TOLERANCE)
    assert record.value == pytest.approx(value, rel=TOLERANCE)
    _, x, y = recorded()
    assert model.evaluate(x, y, verbose=0) == record.value  # the model holds what was scored


def test_the_same_snapshots_give_the_same_mean_on_every_backend():
    snapshots = best_first()[:5]
    means = [np.mean([s[i].astype("float64") for s in snapshots], axis=0) for i in range(4)]
    model = network()
    candidates = [m.candidate for m in members_of(snapshots, [0.0] * 5)]
    record = average(
        averager(model, snapshots, recorded_validation()), "mean", candidates, LOSS, 0.63
    )
    assert record.indices == (0, 1, 2, 3, 4) and len(record.trials) == 1
    assert record.value == pytest.approx(loss_of(means), rel=TOLERANCE)
    assert bits(model.get_weights()) == bits([m.astype("float32") for m in means])


def test_an_average_that_is_no_better_leaves_the_best_alone_bit_for_bit():
    snapshots = best_first()[:4]
    model = network()
    candidates = [m.candidate for m in members_of(snapshots, [0.0] * 4)]
    validation = Validation({}, lambda model: next(values))
    for kind in ("soup", "mean"):
        values = iter([1.0, 1.0, float("nan"), 2.0])
        record = average(averager(model, snapshots, validation), kind, candidates, LOSS)
        assert not record.accepted and record.value == 1.0
        assert bits(model.get_weights()) == bits(snapshots[0])


def test_no_more_passes_than_candidates_and_none_for_a_value_that_is_known():
    snapshots = best_first()[:6]
    candidates = [m.candidate for m in members_of(snapshots, [0.0] * 6)]
    calls = []
    validation = Validation({}, lambda model: calls.append(1) or 1.0)
    for kind, best, passes in (("soup", 1.0, 5), ("soup", None, 6), ("mean", 1.0, 1)):
        calls.clear()
        average(averager(network(), snapshots, validation), kind, candidates, LOSS, best)
        assert len(calls) == passes


def test_a_mean_that_is_not_finite_is_never_measured():
    big = np.finfo("float32").max
    snapshots = [[np.full_like(w, 1.0) for w in recorded()[0][0]] for _ in range(2)]
    snapshots[1][0][0, 0] = np.inf
    measured = averager(network(), snapshots, Validation({}, lambda model: 0.0))
    assert np.isnan(measured.score((0, 1))) and measured.score((0,)) == 0.0
    assert mean_of([np.float32([big]), np.float32([big])])[0] == big  # added up in float64


def test_it_can_be_cut_short():
    snapshots = best_first()[:3]
    cuts = iter([False, True])
    measured = averager(
        network(), snapshots, Validation({}, lambda model: 0.5), cut=lambda: next(cuts)
    )
    with pytest.raises(OutOfTime):
        average(measured, "soup", [Candidate("a", 1.0)] * 3, LOSS, 1.0)


class Odd(keras.layers.Layer):
    """A layer with integer, boolean and float state that no gradient changes."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False, name="count")
        self.seen = self.add_weight(shape=(2,), dtype="bool", trainable=False, name="seen")
        self.state = self.add_weight(shape=(2,), dtype="uint32", trainable=False, name="state")
        self.fixed = self.add_weight(shape=(), trainable=False, name="fixed")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


def test_integers_booleans_and_seeds_are_those_of_the_best():
    model = keras.Sequential([keras.Input((4,)), Odd()])
    model.compile("sgd", "mse")
    names = [v.name for v in model.weights]
    snapshots = []
    for i in (1, 2):
        values = {"count": i, "seen": [i == 1, True], "state": [i, 7], "fixed": 0.1, "scale": i}
        typed = zip(names, model.get_weights(), strict=True)
        snapshots.append([np.asarray(values[name], w.dtype) for name, w in typed])
    measured = averager(model, snapshots, Validation({}, lambda model: 0.0))
    assert not measured.moving
    measured.assign((0, 1))
    found = dict(zip(names, model.get_weights(), strict=True))
    assert found["count"] == 1 and list(found["seen"]) == [True, True]
    assert list(found["state"]) == [1, 7] and found["fixed"] == np.float32(0.1)
    assert found["scale"] == 1.5
    assert [found[name].dtype for name in names] == [w.dtype for w in snapshots[0]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_averaged_in_float32(dtype):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)])
    view = _backends.current().view
    kind = view(model.weights[0]).dtype
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 4.0, (7, 3, 2)).astype("float32").astype(kind)
    snapshots = [[v, np.zeros(2, kind)] for v in values]
    measured = averager(model, snapshots, Validation({}, lambda model: 0.0))
    measured.assign(tuple(range(7)))
    expected = (values.astype("float32").sum(axis=0, dtype="float32") / 7).astype(kind)
    found = view(model.weights[0])
    assert found.dtype == kind and found.tobytes() == expected.tobytes()
    careless = values[0]
    for value in values[1:]:
        careless = careless + value
    assert (careless / kind.type(7)).tobytes() != expected.tobytes()  # rounding would show


def normalized(**arguments):
    """Return a trained model with BatchNormalization, and its weights of two epochs."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8)]
    layers += [keras.layers.BatchNormalization(**arguments), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    snapshots = []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            snapshots.append(self.model.get_weights())

    fit(model, [Record()], epochs=2)
    return model, snapshots


def test_moving_statistics_are_found_by_what_training_has_done():
    model, snapshots = normalized()
    names = [model.weights[i].name for i in moving_statistics(model.weights, snapshots)]
    assert names == ["moving_mean", "moving_variance"]
    measured = averager(model, snapshots, Validation({}, lambda model: 0.0))
    assert "moving_mean" in measured.refusal() and "average_data" in measured.refusal()
    model.layers[1].trainable = False  # frozen: they are the same in every epoch
    same = [[*snapshots[0][:4], *snapshots[i][4:]] for i in (0, 1)]
    same = [[*same[i][:2], *snapshots[0][2:6], *snapshots[i][6:]] for i in (0, 1)]
    assert not moving_statistics(model.weights, same)


def inputs_of_the_normalization(model, x):
    kernel, bias = model.layers[0].get_weights()
    return x @ kernel + bias


@pytest.mark.parametrize("form", ["arrays", "pair", "dataset", "torch", "batches"])
def test_statistics_are_those_of_the_averaged_weights(form):
    model, snapshots = normalized()
    x, y = data(24)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return x[index * 8 : index * 8 + 8], y[index * 8 : index * 8 + 8]

    def torch_loader():
        torch = pytest.importorskip("torch")
        pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        return torch.utils.data.DataLoader(pairs, batch_size=8)

    source = {
        "arrays": lambda: x,
        "pair": lambda: (x, y),
        "dataset": Batches,
        "torch": torch_loader,
        "batches": lambda: Again([Batches()[i] for i in range(3)]),
    }[form]()
    measured = averager(
        model,
        snapshots,
        Validation({}, lambda model: 0.0),
        data=StatisticsData(source, batch_size=8),
    )
    measured.score((0, 1))
    hidden = inputs_of_the_normalization(model, x.astype("float64")).reshape(3, 8, 8)
    _, _, mean, variance = model.layers[1].get_weights()
    np.testing.assert_allclose(mean, hidden.mean(axis=1).mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, hidden.var(axis=1).mean(axis=0), rtol=1e-4)
    assert model.layers[1].momentum == 0.99
    means = [mean_of([s[i] for s in snapshots]) for i in (0, 1, 2, 3, 6, 7)]
    assert bits(means) == bits(model.get_weights()[i] for i in (0, 1, 2, 3, 6, 7))


class Again:
    """Something that yields batches, more than once."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)


def test_nothing_in_memory_of_statistics_but_what_is_scored():
    """What the model ends with was scored with exactly these statistics, dropout or not."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    x, y = data(32)
    snapshots = []
    for _ in range(3):
        model.fit(x, y, verbose=0)
        snapshots.append(model.get_weights())
    scored = []

    def value(model):
        scored.append(bits(model.get_weights()))
        return next(values)

    values = iter([0.5, 0.9])
    measured = averager(model, snapshots, Validation({}, value), data=StatisticsData(x))
    record = average(measured, "soup", [Candidate(str(i), 1.0) for i in range(3)], LOSS, 1.0)
    assert record.indices == (0, 1)
    assert bits(model.get_weights()) == scored[0] != scored[1]


def test_what_a_layer_changes_in_training_mode_beside_its_statistics_is_undone():
    class Meddler(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
            self.ema = self.add_weight(shape=(), trainable=False, name="ema")

        def call(self, inputs, training=False):
            if training:
                self.scale.assign(self.scale * 2)
                self.ema.assign(self.ema * 0.5 + keras.ops.mean(inputs) * 0.5)
            return inputs * self.scale

    model = keras.Sequential([keras.Input((4,)), Meddler()])
    model.compile("sgd", "mse")
    snapshots = [[np.float32(1.0), np.float32(0.0)], [np.float32(2.0), np.float32(1.0)]]
    x = np.ones((4, 4), "float32")
    measured = averager(
        model, snapshots, Validation({}, lambda model: 0.0), data=StatisticsData(x, 2)
    )
    measured.score((0, 1))
    assert [float(w) for w in model.get_weights()] == [1.5, 0.75]


def test_data_that_is_read_once_or_is_empty_is_refused():
    with pytest.raises(ConfigError, match="only once"):
        StatisticsData(x for x in [1])
    with pytest.raises(ConfigError, match="no batch"):
        reestimate(dense(), StatisticsData(np.zeros((0, 4), "float32")))


def test_nothing_but_the_weights_is_changed():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x, y = data()
    model.fit(x, y, verbose=0)
    others = [*model.non_trainable_variables, *model.optimizer.variables, *model.metrics_variables]
    before = bits(others)
    streams = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tobytes()
    with preserve_non_weights(model):
        model.evaluate(x, y + 1, verbose=0)
        reestimate(model, StatisticsData(x, 8))
        random.random(), np.random.random()
        changed = bits(others) != before
    assert changed
    assert bits(others) == before
    assert streams == (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tobytes(),
    )


def test_an_evaluation_that_fails_leaves_a_model_that_can_be_restored():
    """On JAX `evaluate` takes the values away from the variables while it runs."""
    model, snapshots = normalized()
    x, y = data()

    class Failing(keras.utils.PyDataset):
        def __init__(self, broken):
            super().__init__()
            self.broken = broken

        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == self.broken:
                raise OSError("the disk is gone")
            return x[:8], y[:8]

    for broken in (0, 1, 2):
        validation = validation_of(Failing(broken), {})
        measured = averager(model, snapshots, validation, data=StatisticsData(x))
        with pytest.raises(Exception, match=r"disk is gone|UNKNOWN"), preserve_non_weights(model):
            measured.score((0, 1))
        measured.assign((0,))
        assert bits(model.get_weights()) == bits(snapshots[0])
        model.evaluate(x, y, verbose=0)
        model.fit(x, y, verbose=0)


def test_averages_that_share_memory_on_jax_are_no_obstacle():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05, use_ema=True), "mse")
    x, y = data()
    snapshots = []
    for _ in range(2):
        model.fit(x, y, verbose=0)
        snapshots.append(model.get_weights())
        for weight, slot in ema_pairs(model.optimizer):
            slot.assign(weight)  # as fit leaves them
        measured = averager(model, [snapshots[-1]] * 2, validation_of((x, y), {}))
        measured.score((0, 1))
        measured.assign((0,))
        assert bits(model.get_weights()) == bits(snapshots[-1])


def test_the_metric_is_found_by_the_name_that_it_has_in_the_logs():
    model = dense(metrics=["mae"])
    x, y = data()
    weights = np.linspace(0, 1, len(x)).astype("float32")
    expected = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    validation = validation_of((x, y, weights), {})
    assert validation.value(model, "val_loss") == expected["loss"]
    assert validation.value(model, "val_mae") == expected["mae"] == validation.value(model, "mae")
    with pytest.raises(MissingMetricError, match=r"'f1'.*mae.*function"):
        validation.value(model, "val_f1")


def test_a_function_may_return_a_number_or_metrics():
    for returned in (0.25, np.float32(0.25), {"f1": 0.25}, {"val_f1": 0.25}):
        found = validation_of(lambda model, value=returned: value, {})
        assert found.value(None, "val_f1") == 0.25 and not found.is_fits
    with pytest.raises(MetricError, match="a single number"):
        validation_of(lambda model: [1, 2], {}).value(None, "val_f1")


def test_data_is_recognised_as_what_fit_validates_on():
    x, y = data()
    fits = {"x": x, "y": y, "sample_weight": None, "batch_size": 4, "steps": 2}
    for given in (None, (x, y), [x, y], (x.copy(), y.copy()), (x, y, None)):
        found = validation_of(given, fits)
        assert found.is_fits and found.arguments == fits
    for given in ((x, y + 1), (x[:8], y[:8]), (x, y, np.ones(len(x))), (x.astype("float64"), y)):
        found = validation_of(given, fits)
        assert not found.is_fits
        assert (found.arguments["batch_size"], found.arguments["steps"]) == (4, None)


def test_validation_that_cannot_work_is_refused():
    x, y = data()
    with pytest.raises(ConfigError, match=r"no data to measure.*validation_data"):
        validation_of(None, {"batch_size": 4})
    with pytest.raises(ConfigError, match="of fit is a generator"):
        validation_of(None, {"x": (pair for pair in [(x, y)]), "y": None, "sample_weight": None})
    with pytest.raises(ConfigError, match="validation_data is a generator"):
        validation_of((pair for pair in [(x, y)]), {})
    with pytest.raises(ConfigError, match="not compiled"):
        validation_of((x, y), {}).check(keras.Sequential())
    validation_of(lambda model: 0.0, {}).check(keras.Sequential())
