"""Scripts made at random: killed and resumed they end as they do without, or it is said why not.

The short form: the same cases on every machine. `make hunt MINUTES=30` is the long one.
"""

import itertools

import keras
import numpy as np
import pytest
from hunt import expected, grammar, running

from keras_ratchet._engine.resume.train_state import TrainState

BACKEND = keras.backend.backend()
NUMBER = {"torch": 24, "tensorflow": 8, "jax": 8}[BACKEND]
SEED = "short"
CASES = list(itertools.islice(filter(grammar.is_possible, grammar.cases(SEED, BACKEND)), NUMBER))


@pytest.mark.parametrize("number", range(NUMBER))
def test_nothing_differs_in_silence(number):
    case = CASES[number]
    finding = running.examine(case)
    if finding.is_bad and expected.item_of(case, BACKEND) is None:
        pytest.fail(f"{running.shrink(finding)}\nfound as {running.as_json(finding)}")


# -- planted defects: the hunt has to see them ---------------------------------------------------


def _no_slots(state):
    for name, array in state.variables.items():
        if name.startswith("optimizer/") and array.dtype.kind == "f":
            state.variables[name] = np.zeros_like(array)


def _other_streams(state):
    for part in (state.rng, state.epoch_rng):
        part["numpy"] = np.random.RandomState(99).get_state(legacy=False)
        part["backend"] = {}
        part.pop("torch_data", None)


def _no_cursor(state):
    state.cursor = {}


def _no_callbacks(state):
    state.callbacks = {name: s for name, s in state.callbacks.items() if "History" in name}


DEFECTS = {
    "the optimizer's slots are lost": (_no_slots, ()),
    "the order of a PyDataset is lost": (_no_cursor, ("data: PyDataset",)),
    "what callbacks know is lost": (_no_callbacks, ("callback: counts",)),
}
if BACKEND != "tensorflow":
    DEFECTS["the random streams of the data are lost"] = (_other_streams, ())


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name, monkeypatch):
    change, features = DEFECTS[name]
    original = TrainState.unpack.__func__

    def unpack(cls, *arguments):
        state = original(cls, *arguments)
        change(state)
        return state

    case = grammar.Case((*features, "save: 2 batches"), (("batch", 9, False),))
    assert running.examine(case).kind == "exact"
    monkeypatch.setattr(TrainState, "unpack", classmethod(unpack))
    finding = running.examine(case)
    assert finding.kind == "silent", finding
    assert finding.differences


def test_a_finding_is_shrunk_to_the_features_that_it_needs(monkeypatch):
    original = TrainState.unpack.__func__

    def unpack(cls, *arguments):
        state = original(cls, *arguments)
        _no_cursor(state)
        return state

    monkeypatch.setattr(TrainState, "unpack", classmethod(unpack))
    finding = running.examine(grammar.Case(("data: PyDataset", "frozen layer")))
    assert running.shrink(finding).case == grammar.Case(("data: PyDataset",))


def test_the_same_seed_gives_the_same_cases():
    first, second = (list(itertools.islice(grammar.cases("x", BACKEND), 30)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(grammar.cases("y", BACKEND), 30))
