"""Objects that a callback holds: saved with their values, shared as before, or named."""

import json
import warnings
from array import array
from collections import deque

import keras
import numpy as np
import pytest
from support.resuming import Kill, Script, arrays, model
from support.sources import numpy_arrays

import keras_ratchet
from keras_ratchet._engine.resume import held_values
from keras_ratchet._engine.resume.attributes import AttributeStates
from keras_ratchet._engine.resume.callback_states import CallbackStates
from keras_ratchet._engine.resume.state_codec import decode, encode

C = keras.callbacks
IS_TORCH = keras.backend.backend() == "torch"


class Uses(C.Callback):
    """Has an object whose values change with each batch, and that changes the weights."""

    def __init__(self, make, use, built_in=None):
        super().__init__()
        self.make, self.use, self.thing, self.factor = make, use, None, 0.0
        self.built_in = built_in
        if built_in is None:
            self.thing = make()

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.built_in:
            self.thing = self.make()

    def on_train_batch_end(self, batch, logs=None):
        if self.thing is not None:
            bias = self.model.layers[-1].bias
            self.factor = float(np.sum(self.use(self.thing, logs["loss"], bias)))
            bias.assign(bias + 0.01 * self.factor)


def updated(metric, loss, bias):
    metric.update_state(loss)
    return keras.ops.convert_to_numpy(metric.result())


def counted(variable, loss, bias):
    variable.assign(variable + 1.0)
    return keras.ops.convert_to_numpy(variable.value)


def drawn(seed, loss, bias):
    return keras.ops.convert_to_numpy(keras.random.normal((1,), seed=seed))


def averaged(net, loss, bias):
    kernel = net.layers[-1].bias
    kernel.assign(0.9 * kernel + 0.1 * bias)
    return keras.ops.convert_to_numpy(kernel.value)


def stepped(optimizer, loss, bias):
    weight = optimizer.mine
    optimizer.apply([weight * 0.3], [weight])
    return keras.ops.convert_to_numpy(weight.value)


def drawn_by_torch(generator, loss, bias):
    import torch

    return torch.randn((), generator=generator).item()


def mean():
    return keras.metrics.Mean()


def teacher():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def torch_generator():
    import torch

    return torch.Generator().manual_seed(4)


class Box:
    """An object of the user's."""

    def __init__(self, thing):
        self.thing = thing


class Tally(keras.metrics.Mean):
    """A metric of the user's, with a number beside its variables."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def update_state(self, values, sample_weight=None):
        self.times += 1
        return super().update_state(values * self.times)


THINGS = {
    "metric": (mean, updated),
    "own metric": (Tally, updated),
    "list of metrics": (lambda: [mean()], lambda m, *rest: updated(m[0], *rest)),
    "metric in an object": (lambda: Box(mean()), lambda box, *rest: updated(box.thing, *rest)),
    "metric in a dict": (lambda: {"a": mean()}, lambda d, *rest: updated(d["a"], *rest)),
    "variable": (lambda: keras.Variable(0.0), counted),
    "list of variables": (lambda: [keras.Variable(0.0)], lambda v, *rest: counted(v[0], *rest)),
    "seed": (lambda: keras.random.SeedGenerator(3), drawn),
    "model": (teacher, averaged),
    "generator of torch": (torch_generator, drawn_by_torch),
    "array of numbers": (lambda: array("d", [0.0]), lambda a, *_: (a.append(1.0), len(a))[1]),
    "bytes that change": (bytearray, lambda b, *_: (b.append(1), len(b))[1]),
}


def script(folder, callbacks, **arguments):
    return Script(str(folder / "b"), numpy_arrays, callbacks=callbacks, **arguments)


@pytest.mark.parametrize("saves", [3, "epoch"])
@pytest.mark.parametrize("name", THINGS)
def test_values_of_objects_are_kept_without_a_warning(name, saves, tmp_path):
    cut = script(tmp_path, lambda: [Uses(*THINGS[name])])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole = cut.uninterrupted(save_freq=saves)
        resumed = cut.chain(Kill(14), Kill(17), save_freq=saves)
    assert resumed.differences(whole) == []
    assert resumed.callbacks[0].factor == whole.callbacks[0].factor != 0


def messages(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(w.message) for w in caught if "lost" in str(w.message)]


@pytest.mark.parametrize("name", ["metric", "list of metrics", "seed", "model"])
def test_what_has_too_many_values_is_named_if_they_change(name, tmp_path, monkeypatch):
    monkeypatch.setattr(held_values, "_MOST_BYTES", 0)
    (said,) = messages(script(tmp_path, lambda: [Uses(*THINGS[name])]).run)
    assert "interrupted: Uses.thing" in said
    unused = script(tmp_path, lambda: [Uses(THINGS[name][0], lambda *_: 0.0)])
    assert messages(unused.run) == []


def test_what_is_made_in_the_first_epoch_is_named(tmp_path):
    (said,) = messages(script(tmp_path, lambda: [Uses(teacher, averaged, built_in=0)]).run)
    assert "interrupted: Uses.thing. Give" in said


def test_what_is_not_there_again_is_named_when_training_resumes(tmp_path):
    cut = script(tmp_path, lambda: [Uses(teacher, averaged, built_in=1)])
    with pytest.warns(UserWarning, match="lost if training is interrupted: Uses.thing"):
        cut.run(Kill(22), save_freq="epoch")  # said after the epoch in which it was built
    with pytest.warns(UserWarning, match="start anew: Uses.thing. Create and build them before"):
        cut.run(save_freq="epoch")


def test_what_the_model_has_too_is_left_to_the_model(tmp_path):
    class Looks(C.Callback):
        def on_train_begin(self, logs=None):
            self.layer, self.metrics = self.model.layers[0], list(self.model.metrics)
            self.kernel, self.optimizer = [self.layer.kernel], self.model.optimizer
            self.part = keras.Model(self.model.inputs, self.model.layers[0].output)

    looks = Looks()
    assert messages(script(tmp_path, lambda: [looks]).run) == []
    states = CallbackStates([looks])
    looks.kernel[0].assign(looks.kernel[0] + 1.0)
    assert next(iter(states.capture().values())) == {} and states.lost() == []


class Noisy(keras.utils.PyDataset):
    """Draws from a seed of its own, in the order of its batches."""

    def __init__(self):
        super().__init__()
        self.seed, (self.x, self.y) = keras.random.SeedGenerator(7), arrays()

    def __len__(self):
        return 10

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        noise = keras.ops.convert_to_numpy(keras.random.normal((4, 4), seed=self.seed))
        return self.x[rows] + noise, self.y[rows]


@pytest.mark.parametrize("kind", ["data", "seed"])
def test_what_the_data_has_too_is_left_to_the_data(kind, tmp_path):
    class Looks(C.Callback):
        def __init__(self, data):
            super().__init__()
            self.held = data if kind == "data" else [data.seed]

    made = []

    def data():
        made.append(Noisy())
        return {"x": made[-1]}

    cut = Script(str(tmp_path / "b"), data, callbacks=lambda: [Looks(made[-1])])
    whole = cut.uninterrupted(save_freq=3)
    assert cut.chain(Kill(14), Kill(17), save_freq=3).differences(whole) == []


class Wraps(C.Callback):
    """Passes what it is told on to another callback."""

    def __init__(self, inner):
        super().__init__()
        self.inner = [inner]

    def set_model(self, model):
        super().set_model(model)
        self.inner[0].set_model(model)

    def on_train_begin(self, logs=None):
        self.inner[0].on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.inner[0].on_epoch_end(epoch, logs)


INNER = {
    "keras": lambda: C.ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=9.0),
    "ours": lambda: keras_ratchet.ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=9.0),
    "a list of Keras": lambda: C.CallbackList(
        [C.ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=9.0)]
    ),
    "wrapped twice": lambda: Wraps(C.ReduceLROnPlateau("loss", patience=2, min_delta=9.0)),
}


@pytest.mark.parametrize("saves", [3, "epoch"])
@pytest.mark.parametrize("name", INNER)
def test_a_callback_in_a_callback_decides_as_without_a_kill(name, saves, tmp_path):
    cut = script(tmp_path, lambda: [Wraps(INNER[name]())], fit={"epochs": 5})
    whole = cut.uninterrupted(save_freq=saves)
    assert cut.chain(Kill(24), save_freq=saves).differences(whole) == []
    rate = float(keras.ops.convert_to_numpy(whole.callbacks[0].model.optimizer.learning_rate))
    assert rate < 0.01


class Collects(C.Callback):
    """Puts something into containers that others have, too."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen
        self.table, self.last = {"in": seen, "rows": [[]]}, deque(maxlen=3)
        self.kept, self.sums, self.again = {"last": self.last}, np.zeros(2), None
        self.again = [self.sums]

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(logs["loss"])
        self.table["rows"][0].append(batch)
        self.last.append(batch)
        self.sums += batch


class Replaces(Collects):
    """Makes a new list each time, so that the script's stays as it is."""

    def on_train_batch_end(self, batch, logs=None):
        self.seen = [*self.seen, logs["loss"]]


def shared_with_the_script(folder, kind, *kills):
    seen = []

    def callbacks():
        seen.clear()
        return [kind(seen), kind(seen)]

    outcome = script(folder, callbacks).chain(*kills, save_freq=3)
    return seen, outcome.callbacks


@pytest.mark.parametrize("kind", [Collects, Replaces])
def test_containers_that_several_have_stay_one(kind, tmp_path):
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    whole, (mine, _) = shared_with_the_script(tmp_path / "whole", kind)
    cut, (one, two) = shared_with_the_script(tmp_path / "cut", kind, Kill(14), Kill(17))
    assert cut == whole and one.seen == mine.seen
    assert len(whole) == (60 if kind is Collects else 0)
    assert (one.seen is cut) == (two.seen is cut) == (kind is Collects)
    assert one.table["in"] is cut and one.table["rows"] == mine.table["rows"]
    assert one.kept["last"] is one.last and one.last == mine.last
    assert one.again[0] is one.sums and repr(one.sums) == repr(mine.sums)


def through_a_file(state):
    kept = {}
    data = json.loads(json.dumps(encode(state, kept, "")))
    return decode(data, {name: value.copy() for name, value in kept.items()})


def test_lists_that_were_one_and_are_no_longer_are_not_filled_as_one():
    callback = C.Callback()
    callback.a = callback.b = []
    callback.rows = [callback.a, callback.a]
    states = CallbackStates([callback])
    callback.b, callback.rows = [1], [[2], [3]]
    saved = through_a_file(states.capture())
    other = C.Callback()
    other.a = other.b = []
    other.rows = [other.a, other.a]
    CallbackStates([other]).load(saved)
    assert (other.a, other.b, other.rows) == ([], [1], [[2], [3]])


class Appends(keras.layers.Layer):
    """A layer with numbers of the module `array`."""

    def __init__(self):
        super().__init__()
        self.numbers, self.raw = array("i", [1]), bytearray(b"a")

    def call(self, x):
        return x


def test_arrays_of_a_layer_are_kept():
    nets = [keras.Sequential([keras.Input((2,)), Appends()]) for _ in range(2)]
    states = [AttributeStates(net) for net in nets]
    nets[0].layers[0].numbers.append(-2), nets[0].layers[0].raw.extend(b"\xff\0")
    states[1].restore(nets[1], through_a_file(states[0].capture(nets[0])))
    assert nets[1].layers[0].numbers == array("i", [1, -2])
    assert nets[1].layers[0].raw == bytearray(b"a\xff\0")


def test_an_array_of_another_shape_takes_the_place_of_the_present_one():
    callback, other = C.Callback(), C.Callback()
    callback.a, other.a = np.zeros(2), np.zeros(3)
    present = other.a
    states = CallbackStates([callback])
    callback.a += 1
    CallbackStates([other]).load(through_a_file(states.capture()))
    assert other.a.tolist() == [1, 1] and present.tolist() == [0, 0, 0]


@pytest.mark.skipif(not IS_TORCH, reason="an optimizer of torch")
def test_an_optimizer_of_torch_in_a_callback_is_kept(tmp_path):
    import torch

    def make():
        weight = torch.nn.Linear(1, 1)
        with torch.no_grad():
            weight.weight.fill_(0.5), weight.bias.fill_(0.1)
        return [weight, torch.optim.Adam(weight.parameters(), 0.1)]

    def use(pair, loss, bias):
        pair[1].zero_grad()
        pair[0](torch.ones(1, 1)).sum().backward()
        pair[1].step()
        return pair[0].weight.item()

    cut = script(tmp_path, lambda: [Uses(make, use)])
    whole = cut.uninterrupted(save_freq=3)
    resumed = cut.chain(Kill(14), save_freq=3)
    assert resumed.differences(whole) == []


def test_an_optimizer_in_a_callback_is_kept_if_it_is_built(tmp_path):
    def make():
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.mine = keras.Variable([0.5])
        optimizer.build([optimizer.mine])
        return [optimizer, optimizer.mine]

    cut = script(tmp_path, lambda: [Uses(make, lambda pair, *rest: stepped(pair[0], *rest))])
    whole = cut.uninterrupted(save_freq=3)
    assert cut.chain(Kill(14), save_freq=3).differences(whole) == []


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_model_without_hidden_state_is_no_alarm(tmp_path):
    net = model()
    backup = keras_ratchet.BackupAndRestore(tmp_path / "b", save_freq=3)
    net.fit(*arrays(), batch_size=4, epochs=2, verbose=0, callbacks=[backup])
