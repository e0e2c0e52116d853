"""Loads one model file with Keras: the program of the child process that `load_trial` starts.

    python -m keras_ratchet._formats.load_child '{"path": ..., "custom": [...], ...}'

It prints one object in JSON; whatever else is printed meanwhile goes to stderr.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, NoReturn

from keras_ratchet._formats.custom_objects import Recorded, layers_that_run_code, recorded
from keras_ratchet._formats.readers import read_config

_LONGEST = 300
_KERAS_S = (
    "keras",
    "layers",
    "models",
    "activations",
    "losses",
    "metrics",
    "optimizers",
    "initializers",
    "regularizers",
    "constraints",
    "dtype_policies",
    "ops",
    "random",
)


def main(arguments: str) -> NoReturn:
    """Load the file, print the outcome, and end at once: what ends a backend may hang."""
    given = json.loads(arguments)
    answer = os.dup(1)
    os.dup2(2, 1)
    faulthandler.dump_traceback_later(given["limit_s"], exit=True)  # if nobody waits any more
    if given["nice"]:
        with contextlib.suppress(AttributeError, OSError):  # Windows has no nice
            os.nice(given["nice"])
    started = time.monotonic()
    outcome = try_to_load(given["path"], given["custom"], given["hopes"])
    outcome["took_s"] = round(time.monotonic() - started, 3)
    os.write(answer, json.dumps(outcome).encode())
    os._exit(0)


def try_to_load(path: str, modules: Iterable[str], hopes: bool) -> dict[str, Any]:
    """Return what became of loading a file.

    Args:
        path: A `.keras` or `.h5` file with a whole model.
        modules: Modules with the classes and functions of the user, which are imported first.
        hopes: Whether those that cannot be imported are passed over.

    Returns:
        `problem`, empty if it was loaded; `custom`, what the file names that is not Keras's;
        `missing`, those of it that were not found.
    """
    try:
        import keras  # noqa: PLC0415  this module's constants are read by those who have no Keras

        ours = _objects_of(modules, hopes)
    except Exception as error:
        return {"problem": _said(error)}
    config = read_config(path)
    custom = [each for each in recorded(config) if not _is_of_keras(each)]
    code = layers_that_run_code(config)
    known = {**ours, **keras.saving.get_custom_objects()}
    missing = [each for each in custom if each.registered not in known]
    try:
        _load(path, ours)
        problem = ""
    except Exception as error:
        problem = _said(error)
    return {
        "problem": problem,
        "custom": [_as_list(each) for each in custom],
        "missing": [_as_list(each) for each in missing],
        "code": code,
        "backend": keras.backend.backend(),
    }


def _load(path: str, objects: dict[str, Any]) -> None:
    """Load a file as `keras_ratchet.load_model` does."""
    import keras  # noqa: PLC0415

    from keras_ratchet._keras.legacy_h5 import compile_from_file  # noqa: PLC0415

    if not path.endswith(".h5"):
        keras.models.load_model(path, custom_objects=objects, safe_mode=True)
        return
    model = keras.models.load_model(path, custom_objects=objects, safe_mode=True, compile=False)
    try:
        compile_from_file(model, path, objects)
    except (ValueError, TypeError, KeyError):  # an old file, which Keras can compile
        keras.models.load_model(path, custom_objects=objects, safe_mode=True)


def _objects_of(modules: Iterable[str], hopes: bool) -> dict[str, Any]:
    """Return the classes and functions that modules define, by name."""
    found: dict[str, Any] = {}
    for name in modules:
        try:
            members = vars(importlib.import_module(name))
        except Exception:
            if not hopes:
                raise
            continue
        kinds = {k: v for k, v in members.items() if inspect.isclass(v) or inspect.isfunction(v)}
        found |= {key: value for key, value in kinds.items() if not key.startswith("_")}
    return found


def _is_of_keras(each: Recorded) -> bool:
    """Return whether a name that may be Keras's own is."""
    import keras  # noqa: PLC0415

    places = [keras, *(getattr(keras, name, None) for name in _KERAS_S)]
    return not each.is_certain and any(hasattr(place, each.name) for place in places)


def _as_list(each: Recorded) -> list[Any]:
    return [each.name, each.registered, each.module]


def _said(error: Exception) -> str:
    """Return what an error says, in one line of bounded length; Keras puts the cause last."""
    cause = str(error).rpartition("Exception encountered:")[2].partition("Full object config")[0]
    text = " ".join(f"{type(error).__name__}: {cause}".split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


if __name__ == "__main__":
    main(sys.argv[1])
