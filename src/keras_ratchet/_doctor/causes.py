"""Why two trainings differ: from evidence to a sentence, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_ratchet._doctor.comparing import CLOSURES, LOST
from keras_ratchet._doctor.files import OTHER_FILES
from keras_ratchet._doctor.marks import Place
from keras_ratchet._doctor.outcome import (
    DIFFERS,
    NOT_SAVED,
    Cause,
    Difference,
    Parting,
    PartOutcome,
)

_SEED = "Call keras.utils.set_random_seed(...) before the model and the data are made."
_STATE = (
    "Keep it in an attribute of the callback, and give the callback state_dict() and "
    "load_state_dict(), which BackupAndRestore saves and restores; or compute it from the step."
)
_DATA = (
    "Use data whose order is a function of seed and epoch: keras_ratchet.ResumableDataset(...), or "
    "keras_ratchet.resumable(...) around your source (docs/resume.md)."
)
_NOISE = (
    "Draw augmentation and noise from a seeded generator that depends on the epoch and the index, "
    "from layers with a seed, or from one that is saved (docs/resume.md)."
)
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about two trainings that are not the same.

    Attributes:
        parting: Where they part first; None if no step differs.
        other_data: The first step with other data, and "order", "content" or "unknown".
        restored_otherwise: Variables that a resume has not restored.
        parts: Each part, compared.
        writers: Which lines write a file, by its name.
        says: What this package has warned of.
        shown: Readable names of variables.
        backend: The backend.
        before_resume: Whether they part before the resume: the kill is not the reason.
    """

    parting: Parting | None = None
    other_data: tuple[Place, str] | None = None
    restored_otherwise: tuple[str, ...] = ()
    parts: Sequence[PartOutcome] = ()
    writers: dict[str, tuple[str, ...]] | None = None
    says: Sequence[str] = ()
    shown: dict[str, str] | None = None
    backend: str = ""
    before_resume: bool = False


def where(place: Place) -> str:
    """Return a place for people, who count from 1.

    Example:
        >>> where((0, 1, 6)), where((0, -1, -1)), where((1, 0, 0))
        ('epoch 2, batch 7', 'before the first step', 'fit 2, epoch 1, batch 1')
    """
    fit, epoch, batch = place
    text = "before the first step" if batch < 0 else f"epoch {epoch + 1}, batch {batch + 1}"
    return f"fit {fit + 1}, {text}" if fit > 0 else text


def at(place: Place) -> str:
    """Return where that is, as the end of a sentence.

    Example:
        >>> at((0, 1, 6)), at((0, -1, -1))
        ('in epoch 2, batch 7', 'before the first step')
    """
    return where(place) if place[2] < 0 and place[0] == 0 else f"in {where(place)}"


def named(names: Sequence[str], shown: dict[str, str] | None = None) -> str:
    """Return the first few names.

    Example:
        >>> named(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    readable = [(shown or {}).get(name, name) for name in names]
    rest = len(readable) - _MOST_NAMED
    return ", ".join(readable[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def of_whole_runs(evidence: Evidence) -> list[Cause]:
    """Return why two whole runs are not the same; empty if they are."""
    parting = evidence.parting
    if parting is None:
        return []
    causes = []
    at_begin = parting.place[2] < 0
    if at_begin and parting.variables:
        causes.append(_initial_values(evidence, parting))
    causes += _data_of_whole_runs(evidence)
    return causes or [_without_data(evidence, parting)]


def _without_data(evidence: Evidence, parting: Parting) -> Cause:
    """Return why two whole runs part that begin the same and see the same data."""
    if parting.streams:
        sentence = (
            f"The random stream of {named(parting.streams)} is not seeded: it differs between two "
            f"whole runs, whose data are {_same(parting)} (up to {where(parting.place)})."
        )
        return Cause("unseeded stream", sentence, _SEED, "runs")
    if parting.rate:
        sentence = (
            f"The learning rate differs from {where(parting.place)} on, with the same data and "
            "random streams: something sets it that depends on time or chance."
        )
        return Cause("learning rate", sentence, about="runs")
    if parting.data == "same":
        sentence = (
            "Initial values, data, random streams and learning rate are the same up to "
            f"{where(parting.place)}, and {named(parting.variables, evidence.shown)} still differ: "
            "the computation itself is not deterministic."
        )
        return Cause("nondeterministic kernels", sentence, _deterministic(evidence.backend), "runs")
    return _unknown(parting)


def _initial_values(evidence: Evidence, parting: Parting) -> Cause:
    sentence = (
        f"The initial values of {named(parting.variables, evidence.shown)} differ before the first "
        "step: the initialisation is not seeded."
    )
    return Cause("unseeded initialisation", sentence, _SEED, "runs")


def _same(parting: Parting) -> str:
    return "the same" if parting.data == "same" else "not visible"


def _data_of_whole_runs(evidence: Evidence) -> list[Cause]:
    if evidence.other_data is None:
        return []
    place, how = evidence.other_data
    if how == "order":
        sentence = (
            f"The order of the data differs, first {at(place)}: the epoch has the same "
            "samples in another order. Shuffling is not seeded, or workers race."
        )
        return [Cause("nondeterministic data order", sentence, f"{_SEED} {_DATA}", "runs")]
    if how == "content":
        sentence = (
            f"The data differ, first {at(place)}: the epoch has other samples. Augmentation "
            "or noise in the data is not seeded."
        )
        return [Cause("unseeded augmentation", sentence, _NOISE, "runs")]
    return []


def _deterministic(backend: str) -> str:
    calls = {
        "torch": "torch.use_deterministic_algorithms(True)",
        "tensorflow": "tf.config.experimental.enable_op_determinism()",
        "jax": "XLA_FLAGS=--xla_gpu_deterministic_ops=true",
    }
    ask = calls.get(backend)
    return f"Ask {backend} for deterministic kernels: {ask}." if ask else ""


def _unknown(parting: Parting) -> Cause:
    hidden = "; the batches cannot be seen here" if parting.data == "unknown" else ""
    sentence = f"They part {at(parting.place)}, and the cause is unknown{hidden}."
    return Cause("unknown", sentence, about="runs")


def of_kill(evidence: Evidence) -> list[Cause]:
    """Return why a killed and resumed run is not the whole one; empty if it is."""
    by_part = {part.part: part for part in evidence.parts}
    unsaved = [*_closures(by_part), *_lost(by_part)]
    training = _of_training(evidence, unsaved)
    causes = [*training, *unsaved, *_files(by_part, evidence)]
    return causes or _callbacks(by_part) or without_parting(evidence.parts)


def _callbacks(parts: dict[str, PartOutcome]) -> list[Cause]:
    """Return that callbacks have another state, although all that they saw is the same."""
    part = parts.get("callbacks")
    worst = part.worst if part is not None and part.status == DIFFERS else None
    if worst is None:
        return []
    sentence = (
        f"No step differs, but the state of callbacks does: {worst.name} is {worst.what}. It was "
        "not restored."
    )
    return [Cause("callbacks not restored", sentence, about="callbacks")]


def without_parting(parts: Sequence[PartOutcome]) -> list[Cause]:
    """Return that something differs although no step does; empty if nothing does."""
    unlike = [part for part in parts if part.status == DIFFERS]
    if not unlike:
        return []
    worst = unlike[0].worst
    what = f" ({worst.name}{f': {worst.what}' if worst.what else ''})" if worst else ""
    sentence = f"No step differs, but {named([p.part for p in unlike])}{what}; cause unknown."
    return [Cause("unknown", sentence)]


def _of_training(evidence: Evidence, unsaved: Sequence[Cause]) -> list[Cause]:
    """Return why the steps after the resume are others."""
    parting = evidence.parting
    if parting is None:
        return []
    if evidence.before_resume:
        return of_whole_runs(evidence)
    if evidence.restored_otherwise:
        names = named(evidence.restored_otherwise, evidence.shown)
        sentence = (
            f"{names} had another value after the resume than in the whole run: not restored."
        )
        return [Cause("variable not restored", sentence, about="variables")]
    found = _streams_after_resume(parting)
    if evidence.other_data is not None and evidence.other_data[0] <= parting.place:
        return [*found, _data_after_resume(evidence, *evidence.other_data)]
    if unsaved or found:
        return found
    if parting.rate:
        sentence = f"The learning rate is another one after the resume, {at(parting.place)}."
        return [Cause("learning rate", sentence, _STATE, "resume")]
    names = named(parting.variables, evidence.shown)
    sentence = (
        f"{names} differ from {where(parting.place)} on, with the data "
        f"{'the same' if parting.data == 'same' else 'not visible'}, random streams and learning "
        "rate the same; the cause is unknown."
    )
    return [Cause("unknown", sentence, about=names)]


def _streams_after_resume(parting: Parting) -> list[Cause]:
    if not parting.streams:
        return []
    sentence = (
        f"The random stream of {named(parting.streams)} is another one after the resume, "
        f"{at(parting.place)}."
    )
    return [Cause("random stream not restored", sentence, about="streams")]


def _data_after_resume(evidence: Evidence, place: Place, how: str) -> Cause:
    warned = [text for text in evidence.says if "data" in text.lower()]
    said = f" This was said at the start: {warned[0]}" if warned else ""
    if how == "content":
        sentence = (
            f"The data after the resume are others, first {at(place)}: samples that the "
            f"whole run never saw, as from augmentation or noise whose state is not saved.{said}"
        )
        return Cause("augmentation not resumed", sentence, _NOISE, "data")
    sentence = (
        f"The data after the resume come in another order, first {at(place)}: the position "
        f"in the data, or the shuffling, was not restored.{said}"
    )
    return Cause("data order not resumed", sentence, _DATA, "data")


def _closures(parts: dict[str, PartOutcome]) -> list[Cause]:
    part = parts.get(CLOSURES)
    if part is None or part.status != NOT_SAVED:
        return []
    return [
        Cause(
            "state in a closure", f"{d.name}: state that nothing saves ({d.what}).", _STATE, d.name
        )
        for d in part.differences
    ]


def _lost(parts: dict[str, PartOutcome]) -> list[Cause]:
    part = parts.get(LOST)
    if part is None or not part.differences:
        return []
    names = named([d.name for d in part.differences])
    sentence = f"{names} changes while the run trains, and is not saved."
    return [Cause("attribute of a callback", sentence, _STATE)]


def _files(parts: dict[str, PartOutcome], evidence: Evidence) -> list[Cause]:
    part = parts.get(OTHER_FILES)
    if part is None or part.status != DIFFERS:
        return []
    by_itself = [  # with other values, the same lines differ, too
        d for d in part.differences if evidence.parting is None or " lines instead of " in d.what
    ]
    return [_file(d, (evidence.writers or {}).get(d.name, ())) for d in by_itself]


def _file(difference: Difference, writers: Sequence[str]) -> Cause:
    by = f", written by {named(writers)}," if writers else ""
    sentence = f"The file {difference.name}{by} differs: {difference.what}."
    cure = (
        "What was written after the last save is written again after a resume. Use "
        "keras.callbacks.CSVLogger(..., append=True), whose log BackupAndRestore cuts to the "
        "resumed position, or write each line under its step, so that the second one replaces "
        "the first."
    )
    return Cause("a file is written", sentence, cure, difference.name)
