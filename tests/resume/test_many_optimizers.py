"""A model that trains with several optimizers resumes with all of them."""

import keras
import numpy as np
import pytest
from support.many_optimizers import Agent, Gan, InDict, InObject, WithTorch, made, net
from support.resuming import Kill, Script, arrays

from keras_ratchet._engine.capture import optimizers

BACKEND = keras.backend.backend()
KILLS = {"between": Kill(20), "within": Kill(17)}
needs_own_steps = pytest.mark.skipif(
    BACKEND == "jax", reason="needs steps with optimizers of theirs"
)


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
    monkeypatch.setattr(optimizers, "grouped_variables", lambda model: [])
    assert "weights" in run.chain(Kill(20)).differences(whole)


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
    assert run.chain(Kill(17)).differences(whole) == []


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
