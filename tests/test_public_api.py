"""The public names and signatures, written down: a change here is a change for users."""

import inspect

import keras
import pytest
from support.versions import KERAS

import keras_ratchet

PUBLIC = [
    "BackupAndRestore",
    "EarlyStopping",
    "ModelCheckpoint",
    "MonitorCallback",
    "ReduceLROnPlateau",
    "Rollback",
    "TerminateOnNaN",
    "Run",
    "Coordinator",
    "guard",
    "load_model",
    "load_weights",
    "soup",
    "mean",
    "refit",
    "checkpoints",
    "verify",
    "follow",
    "KeepBest",
    "KeepLast",
    "KeepEvery",
    "KeepNewer",
    "StopReason",
    "CheckpointInfo",
    "AverageRecord",
    "data",
    "errors",
    "plots",
    "policy",
]

POLICY = [
    "Criterion",
    "Patience",
    "Reaches",
    "Diverges",
    "NotFinite",
    "AfterEpochs",
    "AfterSteps",
    "AfterSeconds",
    "Smoothed",
    "Monitor",
    "Moment",
    "Position",
    "Verdict",
    "undecided",
]

EXPERIMENTAL = ["GeneralizationLoss", "ProgressQuotient", "UpStrips", "SignificantImprovement"]


def test_the_public_names_are_these():
    assert sorted(keras_ratchet.__all__) == sorted(PUBLIC)
    assert all(getattr(keras_ratchet, name).__doc__ for name in keras_ratchet.__all__)
    with pytest.raises(AttributeError, match="Nonsense"):
        keras_ratchet.Nonsense  # noqa: B018


DROP_INS = [
    "EarlyStopping",
    "ModelCheckpoint",
    "BackupAndRestore",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]


LATER = {("TerminateOnNaN", "raise_error")} if KERAS < (3, 13) else set()  # Keras's own, since then


@pytest.mark.parametrize("name", DROP_INS)
def test_keras_arguments_keep_their_positions_and_defaults(name):
    theirs = dict(inspect.signature(getattr(keras.callbacks, name)).parameters)
    theirs.pop("kwargs", None)  # what ReduceLROnPlateau takes and forgets
    ours = inspect.signature(getattr(keras_ratchet, name)).parameters
    pairs = zip(theirs.values(), ours.values(), strict=False)
    assert all((a.name, a.default) == (b.name, b.default) for a, b in pairs)
    added = [p for p in list(ours.values())[len(theirs) :] if (name, p.name) not in LATER]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in added)


RECORDS = ["Coordinator", "StopReason", "CheckpointInfo", "AverageRecord"]
MODULES = ["data", "errors", "plots", "policy"]


@pytest.mark.parametrize("name", [n for n in PUBLIC if n not in RECORDS + MODULES])
def test_each_argument_and_each_own_name_is_documented(name):
    thing = getattr(keras_ratchet, name)
    for parameter in inspect.signature(thing).parameters:
        assert f"{parameter}:" in thing.__doc__, f"{name}: {parameter} is not documented"


@pytest.mark.parametrize("names", [POLICY, EXPERIMENTAL], ids=["policy", "experimental"])
def test_the_names_of_policy_are_these_and_documented(names):
    from keras_ratchet import policy
    from keras_ratchet.policy import experimental

    module = policy if names is POLICY else experimental
    assert sorted(module.__all__) == sorted(names)
    for name in names:
        thing = getattr(module, name)
        assert thing.__doc__ and f"`{name}`" in module.__doc__, name
        if inspect.isclass(thing) and issubclass(thing, policy.Criterion):
            for parameter in inspect.signature(thing).parameters:
                assert f"{parameter}:" in thing.__doc__, f"{name}: {parameter}"


def test_criteria_are_there_without_keras():
    import subprocess
    import sys

    code = (
        "import sys, keras_ratchet; rule = keras_ratchet.policy.Patience(3); "
        "from keras_ratchet.policy import Moment, Position; "
        "rule.check(rule.initial(), Moment(Position(1), {'val_loss': 1.0})); "
        "assert not {'keras', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_error_is_of_our_family_and_in_the_tree():
    from keras_ratchet import errors

    kinds = [e for e in vars(errors).values() if inspect.isclass(e)]
    assert all(issubclass(kind, errors.RatchetError) for kind in kinds)
    assert all(kind.__name__ in errors.__doc__ for kind in kinds)


def test_the_version_is_the_installed_one():
    import importlib.metadata

    assert keras_ratchet.__version__ == importlib.metadata.version("keras-ratchet")


def test_the_wheel_is_what_is_tested_and_has_every_file_of_the_package():
    """`make test-wheel` says where the wheel was installed and what it was built from."""
    import os
    from pathlib import Path

    def files(package):
        names = [p.relative_to(package) for p in package.rglob("*") if p.is_file()]
        return {n: (package / n).read_bytes() for n in names if "__pycache__" not in n.parts}

    wheel, source = os.environ.get("RATCHET_WHEEL"), os.environ.get("RATCHET_SOURCE")
    if wheel:
        package = Path(keras_ratchet.__file__).parent
        assert package == Path(wheel, "keras_ratchet")
        assert files(package) == files(Path(source, "keras_ratchet"))
