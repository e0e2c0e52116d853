"""Whether a model file can be loaded: tried with Keras in a child process.

The parent imports no Keras, and a crash or a hang of the child takes nothing with it. The child
uses no accelerator, so it takes none of the memory in which somebody trains.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from keras_ratchet._formats.custom_objects import (
    Recorded,
    known_as,
    layers_that_run_code,
    recorded,
)
from keras_ratchet._formats.readers import missing_weights, open_weights, read_config
from keras_ratchet.errors import LoadError

_CHILD = "keras_ratchet._formats.load_child"
_NO_DEVICES = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_STAYS_S = 10.0  # how long a child may outlive its limit if its parent was killed
_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        path: The file.
        status: "loads", "fails", "crashed", "hung"; "weights" for a file that has no model in it,
            "gone" for one that was deleted or replaced before it was read.
        problem: Why, and the cure, in a sentence; "" if it loads.
        custom: What it names that is not Keras's own.
        missing: Those of it that were not found.
        code: Kinds of layers for which Keras would run code of the file.
        backend: The backend that was used; "" if none was.
        took_s: How long it took to import Keras and to load it, in seconds.
    """

    path: str
    status: str
    problem: str = ""
    custom: tuple[Recorded, ...] = ()
    missing: tuple[Recorded, ...] = ()
    code: tuple[str, ...] = ()
    backend: str = ""
    took_s: float = 0.0

    def __bool__(self) -> bool:
        return self.status in ("loads", "weights")


def without_model(path: str) -> Outcome | None:
    """Return the outcome for a file that Keras needs not be asked about, or None.

    Args:
        path: A `.keras`, `.weights.h5` or `.h5` file.
    """
    try:
        if not path.endswith(".weights.h5") and read_config(path) is not None:
            return None
        partial = missing_weights(path)
        with open_weights(path) as weights:
            number = sum(not weight.of_optimizer for weight in weights)
    except LoadError as error:
        status = "fails" if os.path.lexists(path) else "gone"
        return Outcome(path, status, str(error))
    less = "" if partial is None else f", and {len(partial)} more belong to the base"
    return Outcome(
        path,
        "weights",
        f"no model is in it, only {number} weights{less}, whose layout can be read: build the "
        "model, then keras_ratchet.load_weights(model, path)",
    )


class LoadTrial:
    """One file that is being loaded in a child process.

    Args:
        path: A `.keras` or `.h5` file with a whole model.
        backend: Backend of the child where `KERAS_BACKEND` is not set; "" for Keras's choice.
        custom: Modules that the child imports first.
        hopes: Whether modules that cannot be imported are passed over.
        limit_s: After how many seconds it counts as hung.
        nice: How much lower than this process's its priority is.
    """

    def __init__(
        self,
        path: str,
        backend: str = "",
        custom: Sequence[str] = (),
        *,
        hopes: bool = False,
        limit_s: float,
        nice: int = 0,
    ) -> None:
        self.path = path
        self._started = time.monotonic()
        self._until = self._started + limit_s
        given = {
            "path": path,
            "custom": list(custom),
            "hopes": hopes,
            "nice": nice,
            "limit_s": limit_s + _STAYS_S,
        }
        self._answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `_close`
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _CHILD, json.dumps(given)],
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=self._said,
            env=_environment(backend, bool(custom)),
            start_new_session=True,  # a Ctrl-C is for the parent, which ends the child
        )

    def poll(self) -> Outcome | None:
        """Return the outcome once it is known; None before."""
        if self._process.poll() is None:
            if time.monotonic() < self._until:
                return None
            return self._given_up()
        outcome = self._outcome(self._process.returncode)
        self._close()
        return outcome

    def wait(self, limit_s: float = math.inf) -> Outcome:
        """Wait for the outcome; an exception here ends the child.

        Args:
            limit_s: After how many seconds from now it counts as hung, if that is earlier.
        """
        left = min(self._until - time.monotonic(), limit_s)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(left, 0.0))
            outcome = self.poll()
            return self._given_up() if outcome is None else outcome
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _given_up(self) -> Outcome:
        self.kill()
        lasted_s = time.monotonic() - self._started
        problem = f"loading it has not ended after {lasted_s:.0f} s"
        return self._described("hung", problem, {})

    def _close(self) -> None:
        self._answer.close()
        self._said.close()

    def _outcome(self, code: int) -> Outcome:
        self._answer.seek(0)
        try:
            answer = json.loads(self._answer.read())
        except ValueError:
            return self._described("crashed", f"{_ending(code)}: {_last_line(self._said)}", {})
        if answer["problem"] and not os.path.lexists(self.path):
            return Outcome(self.path, "gone", "it was deleted before it was loaded")
        problem = answer["problem"]
        return self._described("fails" if problem else "loads", problem, answer)

    def _described(self, status: str, problem: str, answer: dict[str, Any]) -> Outcome:
        """Return an outcome whose problem names the cure."""
        if answer.get("custom") is None:  # Keras was never asked: what the file itself says
            config = _config_of(self.path)
            custom = tuple(each for each in recorded(config) if each.is_certain)
            code, missing = tuple(layers_that_run_code(config)), custom[:0]
        else:
            custom = tuple(Recorded(*each) for each in answer["custom"])
            missing = tuple(Recorded(*each) for each in answer["missing"])
            code = tuple(answer["code"])
        return Outcome(
            self.path,
            status,
            f"{_cure(missing, code)}{problem}" if problem else "",
            custom,
            missing,
            code,
            answer.get("backend", ""),
            answer.get("took_s", 0.0),
        )


def _cure(missing: Sequence[Recorded], code: Sequence[str]) -> str:
    """Return what to do about the problem, as the start of its text; "" if it is not known."""
    parts = []
    if missing:
        names = known_as(missing)
        parts.append(f"it needs {names}: import what registers it, or pass custom_objects. ")
    if code:
        kinds = " and ".join(code)
        parts.append(f"it has a {kinds}, which Keras loads only with safe_mode=False. ")
    return "".join(parts)


def _config_of(path: str) -> Any:
    with contextlib.suppress(LoadError):
        return read_config(path)
    return None


def _environment(backend: str, is_custom: bool = False) -> dict[str, str]:
    """Return the variables of the child: no accelerator, and modules from where ours are.

    Modules in the present directory, which may be anybody's, are found only if modules were asked
    for.
    """
    paths = [path for path in sys.path if path]
    paths += [os.getcwd()] if is_custom else []
    given = {"PYTHONPATH": os.pathsep.join(paths)}
    if backend and not os.environ.get("KERAS_BACKEND"):
        given["KERAS_BACKEND"] = backend
    dropped = ("RATCHET_DOCTOR", "RATCHET_RUN", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, **_NO_DEVICES, **given}


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"loading it ended the process with {signal.Signals(-code).name}"
    return f"loading it ended the process with exit code {code}"


def _last_line(said: IO[bytes]) -> str:
    said.seek(0, os.SEEK_END)
    said.seek(max(said.tell() - _TAIL_BYTES, 0))
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it has said nothing"
