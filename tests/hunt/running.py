"""One case: run whole, run with kills and resumed, compared; shrunk if they differ in silence."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from dataclasses import dataclass, field, replace

import h5py
import keras
import numpy as np
from hunt import grammar
from support import background_saves
from support.resuming import Killed, end_workers, scramble, seed_all

import keras_ratchet

# Warnings that say that a resume will not be exact, or what it has lost.
ABOUT_RESUME = re.compile(r"exact|interrupted|resum|lost|cannot be saved|was saved", re.I)
EPOCHS = 3


class Kill(keras.callbacks.Callback):
    """Ends the process at a point, counted from its start; by a signal after a batch if wanted."""

    def __init__(self, kind, count, by_signal=False):
        super().__init__()
        self.kind, self.left, self.by_signal = kind, count, by_signal

    def _hit(self, kind):
        if kind == self.kind:
            self.left -= 1
            if self.left == 0 and self.by_signal and kind == "batch":
                os.kill(os.getpid(), signal.SIGUSR1)
            elif self.left <= 0 and not (self.by_signal and kind == "batch"):
                raise Killed

    def on_train_batch_begin(self, batch, logs=None):
        self._hit("batch begin")

    def on_train_batch_end(self, batch, logs=None):
        self._hit("batch")

    def on_epoch_begin(self, epoch, logs=None):
        self._hit("epoch begin")

    def on_epoch_end(self, epoch, logs=None):
        self._hit("epoch end")

    def on_test_batch_end(self, batch, logs=None):
        self._hit("test batch")

    def on_train_end(self, logs=None):
        self._hit("end")


class Trained(keras.callbacks.Callback):
    """Notes when the first batch is trained, so that what was said before is known."""

    def __init__(self, said):
        super().__init__()
        self.said, self.at_start = said, None

    def on_train_batch_end(self, batch, logs=None):
        if self.at_start is None:
            self.at_start = len(self.said)


@dataclass
class Process:
    """What one process of a script did: an outcome, or killed; and what our package said."""

    outcome: dict | None
    said: list = field(default_factory=list)
    error: Exception | None = None


@dataclass
class Finding:
    """What came out of a case.

    `kind` is "exact", "warned" (it differs, and was said), "false alarm" (it is exact, though the
    opposite was said), "silent" (it differs), "refused" (an error of ours at the resume), "broken"
    (another error at the resume), "moody" (two whole runs differ) or "impossible".
    """

    case: object
    kind: str
    differences: tuple = ()
    said: tuple = ()
    error: str = ""

    @property
    def is_bad(self):
        return self.kind in ("silent", "broken")

    def __str__(self):
        tail = "; ".join([*self.differences, *self.said, self.error][:6])
        return f"{self.kind}: {self.case}: {tail}"


@contextlib.contextmanager
def _listening():
    """Record what our package warns of, whatever the filters say."""
    said = []
    originals = {name: getattr(warnings, name) for name in ("warn", "warn_explicit")}

    def listen(message, *arguments, **how):
        if sys._getframe(1).f_globals.get("__name__", "").startswith("keras_ratchet"):
            said.append(str(message))

    try:
        for name in originals:
            setattr(warnings, name, listen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        for name, original in originals.items():
            setattr(warnings, name, original)


def run(plan, directories, kill=None, backup=True):
    """Run a script once, as a process would that begins with nothing."""
    scramble()
    seed_all(5)
    with _listening() as said, np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        made = []
        trained = Trained(said)
        try:
            outcome = _train(plan, directories, kill, made if backup else None, trained)
            return Process(outcome, said)
        except Killed:
            return Process(None, said)
        except Exception as error:
            error.at_start = trained.at_start is None
            return Process(None, said, error)
        finally:
            background_saves.settle()
            for callback in made:  # a dead process holds no lock
                if isinstance(callback, keras_ratchet.BackupAndRestore):
                    callback._store.end()
            end_workers()


def _train(plan, directories, kill, made, trained):
    backups, files = directories
    net = plan.model()
    killer = None if kill is None else Kill(*kill[:2], by_signal="signals" in plan.backup)
    histories, states = [], []
    for stage, (where, arguments) in enumerate(_fits(plan)):
        data = plan.data()
        callbacks = plan.all_callbacks(files)
        mine = [trained, *callbacks]
        if made is not None:
            how = {"delete_checkpoint": False, **plan.backup}
            made.append(keras_ratchet.BackupAndRestore(os.path.join(backups, where), **how))
            at = plan.backup_at
            mine.insert(len(mine) if at is None else at, made[-1])
        if killer is not None:
            mine.insert(0 if kill[2] else len(mine), killer)
        if stage and plan.script.startswith("two"):
            plan.compile_again(net)
        fit = {"verbose": 0, "epochs": EPOCHS, **data, **plan.fit, **arguments}
        history = net.fit(**fit, callbacks=mine)
        if killer is not None and killer.left <= 0:  # by a signal, and `fit` returned
            raise Killed
        histories.append({"epoch": history.epoch, **history.history})
        states += [_attributes(c) for c in callbacks]
    return _outcome(net, histories, states, files)


def _fits(plan):
    """Return for each `fit` of the script its directory and arguments."""
    if plan.script == "one epoch a fit":
        return [("b", {"initial_epoch": i, "epochs": i + 1}) for i in range(EPOCHS)]
    if plan.script == "one epoch a fit, epochs=1":
        return [("b", {"initial_epoch": 0, "epochs": 1}) for _ in range(EPOCHS)]
    if plan.script == "two stages":
        return [("b", {"epochs": 2}), ("b", {"initial_epoch": 2, "epochs": 4})]
    if plan.script == "two directories":
        return [("b", {"epochs": 2}), ("c", {"initial_epoch": 2, "epochs": 4})]
    return [("b", {})]


# -- what is compared ------------------------------------------------------------------------------


def _outcome(net, histories, states, files):
    found = {"history": repr(histories), "callbacks": repr(states)}
    for variable in net.variables:
        found[f"variable {variable.path}"] = _bits(variable)
    for name, optimizer in _optimizers(net):
        for i, variable in enumerate(optimizer.variables):
            found[f"{name} {i} {variable.path}"] = _bits(variable)
    for i, metric in enumerate(net.metrics):
        found[f"metric {metric.name}"] = repr([_bits(v) for v in metric.variables])
        for name, value in vars(metric).items():
            if isinstance(value, keras.random.SeedGenerator):
                found[f"metric {i}.{name}"] = _bits(value.state)
    for layer in net._flatten_layers():
        if hasattr(layer, "factor") or hasattr(layer, "seen"):
            found[f"attribute of {layer.name}"] = repr(
                vars(layer).get("factor", vars(layer).get("seen"))
            )
        if type(layer).__name__ == "TorchModuleWrapper":
            for name, value in layer.module.state_dict().items():
                found[f"torch {name}"] = _bits(value.detach().numpy())
    own = getattr(net, "torch_optimizer", None)
    if own is not None:
        found["torch optimizer"] = repr(
            [{k: np.array(v).tobytes() for k, v in s.items()} for s in own.state.values()]
        )
    return found | _files(files)


def _optimizers(net):
    yield "optimizer", net.optimizer
    for i, optimizer in enumerate(net.others() if hasattr(net, "others") else ()):
        yield f"optimizer {i + 2}", optimizer


def _bits(value):
    array = np.ascontiguousarray(keras.ops.convert_to_numpy(value))
    return f"{array.dtype}{array.shape}", array.tobytes()


ATTRIBUTES = (
    "step", "last", "kinds",
    "wait", "stopped_epoch", "best", "best_value", "best_epoch", "cooldown_counter", "reductions",
    "rollbacks", "stop_reason", "seen", "losses", "done", "records",
)  # fmt: skip


def _attributes(callback):
    """Return what a callback has decided."""
    return {name: getattr(callback, name) for name in ATTRIBUTES if hasattr(callback, name)} | {
        "is": type(callback).__name__
    }


def _files(directory):
    found = {}
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith(".csv"):
            with open(path, "rb") as file:
                found[f"file {name}"] = file.read()
        elif name.endswith((".keras", ".h5")):
            found[f"file {name}"] = repr(sorted(_arrays(path).items()))
    return found


def _arrays(path):
    if path.endswith(".keras"):
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member:
            return _datasets(io.BytesIO(member.read()))
    return _datasets(path)


def _datasets(path):
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def differences(one, other):
    """Return the names of what is not equal, bit for bit."""
    names = {n for n in {*one, *other} if one.get(n) != other.get(n)}
    return tuple(sorted(names))


# -- one case --------------------------------------------------------------------------------------


def _in_new_directories(function, *arguments, **how):
    root = tempfile.mkdtemp(prefix="hunt-")
    try:
        for name in ("backups", "files"):
            os.mkdir(os.path.join(root, name))
        directories = os.path.join(root, "backups"), os.path.join(root, "files")
        return function(*arguments, directories, **how)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def whole(case):
    """Run a case without a kill."""
    plan = case.plan()
    return _in_new_directories(run, plan, backup=plan.reference_has_backup)


def _chain(case, directories):
    """Run and be killed, again and again; return all processes."""
    processes = []
    for kill in (*case.kills, None):
        processes.append(run(case.plan(), directories, kill))
        if processes[-1].outcome is not None or processes[-1].error is not None:
            break
    return processes


def examine(case):
    """Return the Finding of a case."""
    reference = whole(case)
    if reference.outcome is None:
        return Finding(case, "impossible", error=_told(reference.error))
    processes = _in_new_directories(_chain, case)
    last = processes[-1]
    said = tuple(
        dict.fromkeys(
            text for p in (reference, *processes) for text in p.said if ABOUT_RESUME.search(text)
        )
    )
    if last.error is not None:
        return _of_error(case, last, said)
    found = differences(reference.outcome, last.outcome)
    if not found and said and case.kills != grammar.MIDDLE:
        return examine(replace(case, kills=grammar.MIDDLE))  # does it differ after an epoch?
    if not found:
        return Finding(case, "false alarm" if said else "exact", said=said)
    again = whole(case)
    if again.outcome is None or differences(reference.outcome, again.outcome):
        return Finding(case, "moody", found)
    return Finding(case, "warned" if said else "silent", found, said)


def _of_error(case, process, said):
    ours = isinstance(process.error, keras_ratchet.errors.RatchetError)
    return Finding(case, "refused" if ours else "broken", said=said, error=_told(process.error))


def _told(error):
    if error is None:
        return "killed"
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = re.sub(r"\s+", " ", str(error))[:300]
    return f"{type(error).__name__}: {text} ({os.path.basename(place.filename)}:{place.lineno})"


def shrink(finding):
    """Return a finding of the same kind with as few features and kills as can be found."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(finding.case):
            other = examine(smaller)
            if other.kind == finding.kind:
                finding, changed = other, True
                break
    return finding


def _smaller(case):
    for kill in case.kills if len(case.kills) > 1 else ():
        yield replace(case, kills=(kill,))
    for name in case.features:
        yield case.without(name)
    if case.kills != grammar.MIDDLE:
        yield replace(case, kills=grammar.MIDDLE)


def as_json(finding):
    """Return a finding as one line, which `--case` reads again."""
    return json.dumps({"features": finding.case.features, "kills": finding.case.kills})
