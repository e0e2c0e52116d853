"""A save walks over the attributes of the model once, and sees what has changed since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_ratchet
from keras_ratchet._engine.capture import model_state as walks
from keras_ratchet._engine.capture.model_state import named_extras
from keras_ratchet._engine.resume.resumer import Resumer
from keras_ratchet._engine.saving import checkpoint_store


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets an element for each walk."""
    seen: list[str] = []
    original = walks.layers_of

    def layers_of(model: Any) -> list[Any]:
        seen.append("walk")
        return original(model)

    monkeypatch.setattr(walks, "layers_of", layers_of)
    return seen


def compiled() -> keras.Model:
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    net.compile("adam", "mse")
    return net


def counting(monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, walked: list[str]) -> list[int]:
    """Let a method note how many walks each of its calls takes."""
    found: list[int] = []
    original = getattr(kind, name)

    def method(*arguments: Any, **named: Any) -> Any:
        before = len(walked)
        result = original(*arguments, **named)
        found.append(len(walked) - before)
        return result

    monkeypatch.setattr(kind, name, method)
    return found


@pytest.mark.parametrize("which", ["snapshot", "file"])
def test_a_save_takes_one_walk_at_most(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[str]
) -> None:
    backup = keras_ratchet.BackupAndRestore(tmp_path / "b", save_freq=1)
    files = keras_ratchet.ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True)
    kind, name = (Resumer, "capture") if which == "snapshot" else (checkpoint_store, "freeze_model")
    found = counting(monkeypatch, kind, name, counted)
    x, y = np.zeros((8, 4), "float32"), np.zeros((8, 1), "float32")
    callback = backup if which == "snapshot" else files
    options: dict[str, Any] = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    compiled().fit(x, y, callbacks=[callback], **options)
    assert found
    assert set(found) <= {0, 1}


class Holder:
    """An object of the user's own."""

    def __init__(self) -> None:
        self.thing: Any = None


def test_what_an_attribute_gets_later_is_found_whatever_it_was_before() -> None:
    net = compiled()
    layer: Any = net.layers[0]
    layer.note, layer.holder = None, Holder()
    assert named_extras(net) == {}
    layer.holder.thing = keras.Variable(np.ones(2), name="late")
    assert len(named_extras(net)) == 1
    layer.holder.thing = keras.initializers.Zeros()
    assert named_extras(net) == {}
    layer.holder.thing = [keras.random.SeedGenerator(1), Holder()]
    layer.holder.thing[1].thing = {"a": keras.Variable(np.ones(2), name="later")}
    assert len(named_extras(net)) == 2
