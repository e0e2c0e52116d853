"""A model that trains with several optimizers resumes with all of them."""

import keras
import numpy as np
import pytest
from support.resuming import Kill, Script, arrays

from keras_ratchet._engine import optimizers

BACKEND = keras.backend.backend()
KILLS = {"between": Kill(20), "within": Kill(15)}
needs_own_steps = pytest.mark.skipif(
    BACKEND == "jax", reason="needs steps with optimizers of theirs"
)


def gradients(loss_of, variables):
    """Return a loss and its gradients, as a train_step does on this backend."""
    if BACKEND == "torch":
        for variable in variables:
            variable.value.grad = None
        loss = loss_of()
        loss.backward()
        return loss.detach(), [variable.value.grad for variable in variables]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = loss_of()
    return loss, tape.gradient(loss, [v.value for v in variables])


def apply(optimizer, grads, variables):
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(grads, variables)
    else:
        optimizer.apply(grads, variables)


def net(units=4, inputs=4):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units)])


class Gan(keras.Model):
    """The recipe of keras.io: two networks, two optimizers, and a default one that is not used."""

    def __init__(self):
        super().__init__()
        self.discriminator, self.generator = net(1), net()
        self.d_tracker, self.g_tracker = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")
        self.built = True

    @property
    def metrics(self):
        return [self.d_tracker, self.g_tracker]

    def compile(self, d_optimizer, g_optimizer):
        super().compile(jit_compile=False)
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def optimized(self):
        return {"discriminator": self.d_optimizer, "generator": self.g_optimizer}

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        fake = keras.random.normal((4, 4), seed=7)
        for name, optimizer in self.optimized().items():
            variables = getattr(self, name).trainable_weights
            loss_of = self.real_or_not if name == "discriminator" else self.fooled
            loss, grads = gradients(lambda f=loss_of: f(x, fake), variables)
            apply(optimizer, grads, variables)
            (self.d_tracker if name == "discriminator" else self.g_tracker).update_state(loss)
        return {m.name: m.result() for m in self.metrics}

    def real_or_not(self, x, fake):
        real = self.discriminator(x)
        return keras.ops.mean((real - 1) ** 2 + self.discriminator(self.generator(fake)) ** 2)

    def fooled(self, x, fake):
        return keras.ops.mean((self.discriminator(self.generator(fake)) - 1) ** 2)


class InDict(Gan):
    """An actor and a critic, whose optimizers lie in a dict and in a list in it."""

    def compile(self, d_optimizer, g_optimizer):
        keras.Model.compile(self, jit_compile=False)
        self.optimizers = {"actor": d_optimizer, "others": [g_optimizer]}

    def optimized(self):
        return {
            "discriminator": self.optimizers["actor"],
            "generator": self.optimizers["others"][0],
        }


class Agent:
    """A plain object that holds the optimizers."""


class InObject(Gan):
    def compile(self, d_optimizer, g_optimizer):
        keras.Model.compile(self, jit_compile=False)
        self.agent = Agent()
        self.agent.first, self.agent.second = d_optimizer, (g_optimizer,)

    def optimized(self):
        return {"discriminator": self.agent.first, "generator": self.agent.second[0]}


def made(kind):
    def make():
        model = kind()
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(2e-2, momentum=0.9))
        model.compile(keras.optimizers.Adam(1e-2), scaled)
        return model

    return make


def data():
    return {"x": arrays()[0], "batch_size": 4}


def script(tmp_path, kind, **backup):
    return Script(
        str(tmp_path / "b"),
        data,
        made(kind),
        backup={"save_freq": 5, **backup},
        also=optimizers.all_variables,
    )


@needs_own_steps
@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
@pytest.mark.parametrize("kind", [Gan, InDict, InObject])
def test_a_gan_resumes_with_both_its_optimizers(tmp_path, kind, kill):
    run = script(tmp_path, kind)
    whole = run.uninterrupted()
    again = run.chain(kill)
    assert len(whole.optimizer) >= 14  # slots too
    assert again.differences(whole) == []


@needs_own_steps
def test_without_the_slots_it_would_be_another_run(tmp_path, monkeypatch):
    run = script(tmp_path, Gan)
    whole = run.uninterrupted()
    monkeypatch.setattr(optimizers, "named_variables", lambda model: {})
    assert "weights" in run.chain(Kill(20)).differences(whole)


class WithTorch(Gan):
    """Optimizes with torch's own optimizer and schedule, as PyTorch users do in a train_step."""

    def compile(self, d_optimizer, g_optimizer):
        import torch

        keras.Model.compile(self, jit_compile=False)
        mine = [v.value for v in self.discriminator.trainable_weights]
        self.torch_one = torch.optim.AdamW(mine, lr=1e-2)
        self.schedules = [torch.optim.lr_scheduler.StepLR(self.torch_one, step_size=7, gamma=0.5)]
        self.g_optimizer = g_optimizer

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        fake = keras.random.normal((4, 4), seed=7)
        self.torch_one.zero_grad()
        loss = self.real_or_not(x, fake)
        loss.backward()
        self.torch_one.step()
        self.schedules[0].step()
        self.d_tracker.update_state(loss.detach())
        return {m.name: m.result() for m in self.metrics}


@pytest.mark.skipif(BACKEND != "torch", reason="torch's optimizers train on torch")
@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
def test_an_optimizer_of_torch_in_an_attribute_resumes(tmp_path, kill):
    run = script(tmp_path, WithTorch)
    whole = run.uninterrupted()
    assert run.chain(kill).differences(whole) == []


class Distiller(keras.Model):
    """A student with the compiled optimizer, and a temperature with one of its own."""

    def __init__(self):
        super().__init__()
        self.teacher, self.student = net(), net()
        self.temperature = self.add_weight(shape=(), initializer="ones", name="temperature")
        self.teacher.trainable = False

    def call(self, x):
        return self.student(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((self.teacher(x) * self.temperature - y_pred) ** 2)


def test_a_distiller_of_which_only_a_part_is_trained_resumes(tmp_path):
    def make():
        model = Distiller()
        model(np.ones((1, 4), "float32"))
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        return model

    run = Script(str(tmp_path / "b"), data, make, backup={"save_freq": 5})
    whole = run.uninterrupted()
    assert run.chain(Kill(15)).differences(whole) == []


def test_optimizers_are_found_wherever_they_lie_and_named_by_it():
    model = Distiller()
    model.compile(keras.optimizers.Adam())
    model.mine = keras.optimizers.SGD()
    model.table = {"a": keras.optimizers.SGD(), "b": [keras.optimizers.SGD(), {"c": model.mine}]}
    model.student.own = keras.optimizers.SGD()
    model.agent = Agent()
    model.agent.first = keras.optimizers.SGD()
    model.scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    found = optimizers.optimizers_of(model)
    assert next(iter(found)) == "optimizer"
    assert {"mine", "table.a", "table.b.0", "agent.first", "scaled"} < set(found)
    assert len(found) == 7
