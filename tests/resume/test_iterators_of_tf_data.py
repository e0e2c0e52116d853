"""A shuffled `tf.data` draws an order for each iterator: a resumed run goes on at the right one.

How many iterators `fit` makes in an epoch depends on what it knows of the length, and on tensorflow
only the first epoch is one of unknown length. So the kills are in the second and the third.
"""

import functools

import pytest
from support.resuming import BATCH, PER_EPOCH, Kill, Script, arrays, model
from support.runs import warnings_like

tf = pytest.importorskip("tensorflow")


def shuffled():
    return tf.data.Dataset.from_tensor_slices(arrays()).shuffle(16, seed=3)


def known():
    return shuffled().batch(BATCH)


def unknown():
    return shuffled().filter(lambda x, y: True).batch(BATCH)


def varying():
    """Batches whose number depends on the order."""
    return shuffled().take_while(lambda x, y: x[0] < 1.2).batch(BATCH)


def parts(length=None):
    rows = shuffled() if length is None else shuffled().filter(lambda x, y: True)
    return {"x": rows.take(28).batch(BATCH), "validation_data": rows.skip(28).batch(BATCH)}


def own(dataset, **fit):
    return {"x": dataset, "validation_data": dataset, **fit}


CASES = {
    "unknown length": lambda: {"x": unknown()},
    "varying length": lambda: {"x": varying()},
    "varying length, that of training": lambda: own(varying()),
    "rest of one shuffle": parts,
    "rest of one shuffle of unknown length": lambda: parts("unknown"),
    "part of training": lambda: {"x": known(), "validation_data": unknown()},
    "that of training, every other epoch": lambda: own(known(), validation_freq=2),
    "steps of a whole pass": lambda: {"x": known(), "steps_per_epoch": PER_EPOCH},
}


def chains(directory, data, **more):
    """Return how a run ends that was killed twice, and one that was not."""
    make = functools.partial(model, **more)
    epochs = {"epochs": 4}  # in one of them the second kill comes, however short they are
    places = (str(directory / name) for name in ("whole", "killed"))
    whole, killed = (Script(place, data, make, fit=epochs) for place in places)
    return killed.chain(Kill(14), Kill(23), save_freq=2), whole.uninterrupted(save_freq="epoch")


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_each_epoch_gets_the_order_that_it_had(name, at_once, tmp_path, backend):
    if at_once > 1 and backend == "torch":
        pytest.skip("Keras makes one step at a time on torch")
    if at_once > 1 and name not in ("varying length", "rest of one shuffle"):
        pytest.skip("two kinds are enough")
    with warnings_like("not be exact") as count:
        killed, whole = chains(tmp_path, CASES[name], steps_per_execution=at_once)
    assert killed.differences(whole) == []
    assert count() == 0


def test_an_order_that_is_drawn_before_the_validation_is_said(tmp_path, backend):
    def data():
        return own(known(), steps_per_epoch=PER_EPOCH)

    with warnings_like(r"With steps_per_epoch .* both draw from one shuffle\(\)") as count:
        killed, whole = chains(tmp_path, data)
    assert bool(count()) == bool(killed.differences(whole)) == (backend == "tensorflow")
