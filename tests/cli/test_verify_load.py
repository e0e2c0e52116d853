"""`ratchet verify --load`: what Keras says, in a child process that can take nothing with it."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.checkpoints import facts, flip_bit, save, snapshot
from support.models import dense
from support.weight_files import save_model

from keras_ratchet._formats import load_child, load_trial

LAYERS = """
import keras

@keras.saving.register_keras_serializable("mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

class Plain(keras.layers.Layer):
    def call(self, x):
        return x

def far(true, predicted):
    return keras.ops.mean(keras.ops.abs(true - predicted))
"""


@pytest.fixture
def custom(tmp_path, monkeypatch):
    """The path of a model with layers and a loss of a module `my_layers`, and that module."""
    import keras

    (tmp_path / "my_layers.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    import my_layers

    model = keras.Sequential([keras.Input((2,)), my_layers.Twice(), my_layers.Plain()])
    model.compile("sgd", my_layers.far, metrics=["mae"])
    path = str(tmp_path / "custom.keras")
    model.save(path)
    yield path
    sys.modules.pop("my_layers")
    keras.saving.get_custom_objects().pop("mine>Twice", None)


def test_what_cannot_be_loaded_is_named_with_what_it_needs(ratchet, tmp_path, custom):
    """In one directory: a model, a damaged one, weights, a snapshot, and one of custom objects."""
    import keras

    run = tmp_path / "run"
    run.mkdir()
    save_model(dense(optimizer="adam"), str(run / "good.keras"), facts(1))
    save_model(dense(optimizer="adam"), str(run / "bad.keras"), facts(2))
    flip_bit(run / "bad.keras", 200)
    dense().save_weights(run / "some.weights.h5")
    snapshot(run, 3)
    lambdas = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)])
    lambdas.save(run / "lambda.keras")
    (tmp_path / "custom.keras").rename(run / "custom.keras")
    found = {d["path"].rpartition("/")[2]: d for d in ratchet.json("verify", run, "--load", code=1)}
    loads = {name: d["load"]["status"] for name, d in found.items()}
    assert loads == {
        "good.keras": "loads",
        "bad.keras": "fails",
        "some.weights.h5": "weights",
        "epoch-00003-batch-0000000": "snapshot",
        "lambda.keras": "fails",
        "custom.keras": "fails",
    }
    assert found["bad.keras"]["status"] == "corrupt"
    named = [
        (each["registered"], each["module"]) for each in found["custom.keras"]["load"]["missing"]
    ]
    assert named == [("mine>Twice", "my_layers"), ("Plain", "my_layers"), ("far", "")]
    assert (
        "it needs mine>Twice of my_layers, Plain of my_layers, far:"
        in found["custom.keras"]["load"]["problem"]
    )
    assert found["lambda.keras"]["load"]["code"] == ["Lambda"]
    assert "safe_mode=False" in found["lambda.keras"]["load"]["problem"]
    assert "the script that saved it" in found["epoch-00003-batch-0000000"]["load"]["problem"]


def test_modules_with_custom_objects_are_imported_when_asked_for(ratchet, custom):
    shown = ratchet("verify", custom, "--load", "--custom", "my_layers").stdout
    assert (
        "with mine>Twice of my_layers, Plain of my_layers, far)" in shown
        and "1 loaded, 0 not" in shown
    )
    missing = ratchet("verify", custom, "--load", "--custom", "no_such_module", code=1).stdout
    assert "No module named 'no_such_module'" in missing
    ratchet("verify", custom, "--custom", "my_layers", code=2)


def test_legacy_h5_files_are_loaded_too(ratchet, tmp_path):
    dense(optimizer="adam").save(tmp_path / "old.h5")
    assert "loads" in ratchet("verify", tmp_path / "old.h5", "--load").stdout


@pytest.mark.parametrize(
    ("code", "status", "problem"),
    [
        ("import time; time.sleep(60)", "hung", "has not ended after 1 s"),
        ("import os; os.abort()", "crashed", "SIGABRT"),
        ("import sys; print('why', file=sys.stderr); sys.exit(3)", "crashed", "exit code 3: why"),
        ("print('no JSON')", "crashed", "exit code 0"),
    ],
)
def test_a_crash_or_a_hang_of_the_child_is_an_outcome(code, status, problem, custom, monkeypatch):
    Path(custom).with_name("bad_child.py").write_text(code)
    monkeypatch.setattr(load_trial, "_CHILD", "bad_child")
    outcome = load_trial.LoadTrial(custom, limit_s=1.0 if status == "hung" else 60.0).wait()
    assert not outcome and outcome.status == status and problem in outcome.problem
    assert [each.registered for each in outcome.custom] == ["mine>Twice", "Plain"]


def test_the_child_takes_the_backend_of_the_manifest_and_no_accelerator(monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND")
    assert load_trial._environment("jax")["KERAS_BACKEND"] == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    given = load_trial._environment("jax")
    assert given["KERAS_BACKEND"] == "torch"
    assert (given["CUDA_VISIBLE_DEVICES"], given["JAX_PLATFORMS"]) == ("", "cpu")


def test_a_file_that_is_gone_or_no_keras_file_is_told_without_keras(tmp_path):
    assert load_trial.without_model(str(tmp_path / "none.keras")).status == "gone"
    path = save(tmp_path, "a.keras", facts(1))
    assert load_trial.without_model(path).status == "fails"


def test_the_command_itself_imports_no_keras(custom):
    code = (
        "import sys; from keras_ratchet.cli import main; "
        "main(sys.argv[1:], standalone_mode=False); assert 'keras' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "verify", custom, "--load", "--custom", "my_layers"]
    subprocess.run(command, check=True, timeout=120, cwd=custom.rpartition("/")[0])


def test_names_that_are_keras_s_are_not_taken_for_custom_ones():
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation=keras.ops.tanh)])
    model.compile(
        "adam", keras.losses.mean_squared_error, metrics=[keras.metrics.mean_absolute_error]
    )
    from keras_ratchet._formats.custom_objects import recorded

    config = keras.saving.serialize_keras_object(model)
    found = [each for each in recorded(config) if not load_child._is_of_keras(each)]
    assert found == []
