"""From trainings to what is known of them: the same, parted where and why, what was lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from keras_ratchet._doctor import (
    causes,
    comparing,
    costs,
    files,
    kills,
    parting,
    processes,
    scratch,
)
from keras_ratchet._doctor.marks import Training
from keras_ratchet._doctor.outcome import (
    DIFFERS,
    EQUAL,
    NOT_COMPARED,
    NOT_SAVED,
    Comparison,
    Kill,
    PartOutcome,
)
from keras_ratchet._doctor.trial import problem_of

_TRAINING = ("model", "optimizers", "metrics", "history")
_TOO = "differs between two whole runs, too"


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares trainings with whole run 1.

    Attributes:
        whole: It.
        unlike: Names, by part, that differ between two whole runs although these train the same:
            times, mostly. They are not compared, nor are files that one of the runs has not, and
            whose names are like theirs.
    """

    whole: Training
    unlike: Mapping[str, set[str]] = field(default_factory=dict)

    def compare(self, other: Training) -> Comparison:
        """Return how a killed and resumed training differs from the whole one."""
        parts = [self._without_unlike(part) for part in _compare(self.whole, other)]
        evidence = self._evidence(other, parts)
        return Comparison(tuple(parts), evidence.parting, tuple(causes.of_kill(evidence)))

    def _without_unlike(self, part: PartOutcome) -> PartOutcome:
        known = self.unlike.get(part.part, set())
        families = {files.family(name) for name in known}
        found = tuple(
            d
            for d in part.differences
            if d.name not in known
            and not (d.what in files.ONLY and files.family(d.name) in families)
        )
        if found or not known:
            return replace(part, differences=found, note=_note(known))
        compared = part.compared - max(len(known), len(part.differences))
        status = EQUAL if compared > 0 else NOT_COMPARED
        return replace(part, status=status, compared=compared, differences=(), note=_note(known))

    def _evidence(self, other: Training, parts: list[PartOutcome]) -> causes.Evidence:
        evidence = evidence_of(self.whole, other, parts)
        found = evidence.parting
        if found is None:
            return evidence
        restored = parting.restored_otherwise(self.whole, other)
        unrestored = tuple(name for name in restored if name in found.variables)
        again = {mark.place for start in other.starts[1:] for mark in start.of("step")}
        return replace(
            evidence,
            restored_otherwise=unrestored,
            before_resume=not again or found.place < min(again),
        )


def _note(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return f"{causes.named(ordered)} {_TOO}" if ordered else ""


def _compare(whole: Training, other: Training) -> list[PartOutcome]:
    return [*comparing.compare_ends(whole, other), *files.compare_files(whole, other)]


def evidence_of(whole: Training, other: Training, parts: list[PartOutcome]) -> causes.Evidence:
    """Return what is known about two trainings."""
    begins = list(whole.begins().values())
    started = whole.starts[0].first("started")
    return causes.Evidence(
        parting=parting.part_of(whole, other),
        other_data=parting.first_other_data(whole, other),
        parts=parts,
        writers=writers_of(whole),
        says=list(dict.fromkeys([*whole.said(), *other.said()])),
        shown=begins[0].data.get("paths") if begins else None,
        backend=str(started.data.get("backend", "")) if started else "",
    )


def judge_of(one: Training, two: Training) -> tuple[Comparison, bool, Judge]:
    """Compare two whole runs.

    Returns:
        The comparison, whether they trained the same, and who judges the other trainings.
    """
    parts = [p for p in _compare(one, two) if p.part != comparing.LOST]
    evidence = evidence_of(one, two, parts)
    is_trained_alike = all(p.status == EQUAL for p in parts if p.part in _TRAINING)
    is_reproducible = evidence.parting is None and is_trained_alike
    if not is_reproducible:
        found = causes.of_whole_runs(evidence) or causes.without_parting(parts)
        parts = [replace(p, status=DIFFERS) if p.status == NOT_SAVED else p for p in parts]
        return Comparison(tuple(parts), evidence.parting, tuple(found)), False, Judge(one)
    unlike = {p.part: {d.name for d in p.differences} for p in parts if p.differences}
    parts = [_accepted(part) for part in parts]
    return Comparison(tuple(parts)), True, Judge(one, unlike)


def _accepted(part: PartOutcome) -> PartOutcome:
    """Return a part of two whole runs that train the same: what differs is not compared."""
    if not part.differences:
        return part
    return replace(part, status=NOT_COMPARED, note=_note(d.name for d in part.differences))


def kill_of(training: Training, number: int, planned: str, judge: Judge) -> Kill:
    """Return what became of a kill."""
    first, last = training.starts[0], training.starts[-1]
    steps = first.of("step")
    fit, epoch, batch = steps[-1].place if steps else (0, -1, -1)
    begun = [m.data.get("resumed") for m in last.of("fit_begin") if m.place[0] == fit]
    resumed = begun[0] if begun else None
    lost_steps, lost_s = costs.lost_by_kill(training)
    problem = problem_of(last)
    return Kill(
        number=number,
        planned=planned,
        hit=kills.hit(first.marks),
        epoch=epoch + 1,
        batch=batch + 1,
        resumed=(int(resumed["epoch"]), int(resumed["batch"])) if resumed else None,
        lost_steps=lost_steps,
        lost_s=lost_s,
        seconds=sum(start.seconds for start in training.starts),
        comparison=None if problem else judge.compare(training),
        problem=problem,
        output=processes.last_lines(last.directory) if problem else "",
    )


def writers_of(training: Training) -> dict[str, tuple[str, ...]]:
    """Return the lines of the script that write each file, by its name."""
    found: dict[str, dict[str, None]] = {}
    for mark in training.marks:
        if mark.kind == "write":
            data = mark.data
            path = os.path.realpath(str(data.get("path")))  # a link may lead out of the directory
            name = os.path.relpath(path, training.work)
            found.setdefault(name, {})[str(data.get("by"))] = None
    return {name: tuple(lines) for name, lines in found.items()}


def notes_on(training: Training, plan: scratch.Plan) -> list[str]:
    """Return what people should know of how a script was examined."""
    notes = []
    if plan.snapshots:
        names = causes.named(plan.snapshots)
        notes.append(f"Left out of the copies, as a run would resume from them: {names}.")
    if training.in_place:
        notes.append("--in-place: the files that the script itself writes were not compared.")
    elsewhere = sorted(
        name
        for name in writers_of(training)
        if name.startswith("..") and not _is_scratch(os.path.join(training.work, name), training)
    )
    if elsewhere and not training.in_place:
        names = causes.named([os.path.normpath(os.path.join(training.work, n)) for n in elsewhere])
        notes.append(
            f"The script writes outside of its directory, where all runs share it: {names}"
        )
    return notes


def _is_scratch(path: str, training: Training) -> bool:
    path = os.path.normpath(path)
    temporary = os.path.join(tempfile.gettempdir(), "ratchet-")
    return path.startswith((os.path.dirname(training.outside), temporary))


def problems_with(training: Training, plan: scratch.Plan) -> list[str]:
    """Return what is wrong besides what was compared."""
    return [
        f"The script has changed {name} through the link in its scratch directory: links, and "
        f"files of more than {scratch.MAX_COPIED_BYTES // 1_000_000} MB, are not copied."
        for name in plan.changed()
    ]
