"""What is done to checkpoints on a disk that fails, and what must hold afterwards.

A scenario prepares a directory, acts on it, and names the states that the directory goes
through, in their order: which checkpoints there are, with which bytes. Whatever fails at
whatever instant, the directory must be in one of these states, each checkpoint must verify, and
no state older than the last one that was reported may come back.
"""

import contextlib
import errno
import functools
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from support.faults import CRASHES, LOST, MODES, Crash, FaultDisk, reboot

from keras_ratchet._storage import atomic, disk, single_file, snapshot_directory
from keras_ratchet._storage.earlier_runs import preserve
from keras_ratchet._storage.listing import checkpoints, pin
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.verify import verify
from keras_ratchet.policy.retention import KeepLast, Ranking, plan
from keras_ratchet.types import Position

FOREIGN = {
    "notes.txt": b"mine",
    ".draft-mine": b"mine",
    ".draft-chapter-2.keras": b"mine",
    ".draft-0123abcd-thesis.odt": b"mine",
    ".trash-0123abcd-photo.jpg": b"mine",
    ".ratchet/notes.json": b"mine",
    ".ratchet/thesis.0123456789abcdef0123456789abcdef.json": b"mine",
    "plots/loss.png": b"mine",
}


@functools.cache
def content(version):
    """Return the bytes of a checkpoint; no two versions share a part."""
    return b"".join(f"version {version} part {part:03d}\n".encode() for part in range(60))


def facts(version):
    """Return a manifest without files; versions are saved one second apart."""
    metrics = {"val_loss": 1 / version}
    return Manifest(
        files={},
        position=Position(epoch=version),
        metrics=metrics,
        ranking=(("val_loss", "min"),),
        reason=f"epoch {version} ended",
        series="ckpt-{epoch}.keras",
        saved_at=1e9 + version,
    )


def scribble(file, version):
    """Write content as HDF5 does: set the length, write the parts out of order, read back."""
    data = content(version)
    third = len(data) // 3
    file.truncate(len(data))
    for start in (third, 2 * third, 0):
        file.seek(start)
        file.write(data[start : start + third] if start < 2 * third else data[start:])
    file.seek(0)
    assert file.read(third) == data[:third]


def save(root, name, version):
    """Save a single-file checkpoint."""
    single_file.save_file(
        os.path.join(root, name),
        lambda draft: draft.write(lambda file: scribble(file, version)),
        facts(version),
    )


def commit(root, name, version):
    """Commit a snapshot directory of two files."""
    with snapshot_directory.SnapshotDraft(root, name) as draft:
        draft.write("state.bin", lambda file: scribble(file, version))
        draft.write("state.json", lambda file: file.write(content(version)[:40]))
        draft.commit(facts(version))


def is_ours(name):
    return re.fullmatch(r"best(\.before-[0-9]+)?\.keras|ckpt-[0-9]+\.keras", name) is not None


class Scenario:
    """A single-file scenario; `states` hold version by name."""

    states = ()
    inside_hdf5 = False

    def prepare(self, root):
        """Bring the directory into its first state."""

    def act(self, root, reported):
        """Go through the states; `reported(n)` tells that state n has been reached for good."""

    def next_start(self, root):
        """Do what a new process does first."""
        single_file.sweep(root, is_ours)

    def next_save(self, root):
        save(root, "ckpt-99.keras", 99)

    def actual(self, root):
        """Return the version of each checkpoint that is there, "?" where it is none of ours."""
        names = [n for n in os.listdir(root) if is_ours(n)]
        versions = {content(v): v for v in range(1, 100)}
        return {n: versions.get(Path(root, n).read_bytes(), "?") for n in names}

    def expected_files(self, state):
        """Return patterns of the files that may be there in a state, by their paths."""
        patterns = [
            rf"{re.escape(n)}|\.ratchet/{re.escape(n)}\.[0-9a-f]{{32}}\.json" for n in state
        ]
        return [*patterns, *(re.escape(name) for name in FOREIGN)]


class FirstSave(Scenario):
    states = ({}, {"best.keras": 1})

    def act(self, root, reported):
        save(root, "best.keras", 1)
        reported(1)


class SaveOver(Scenario):
    states = ({"best.keras": 1}, {"best.keras": 2}, {"best.keras": 3})

    def prepare(self, root):
        save(root, "best.keras", 1)

    def act(self, root, reported):
        save(root, "best.keras", 2)
        reported(1)
        save(root, "best.keras", 3)
        reported(2)


class SaveSameBytes(Scenario):
    """The manifest of the file is replaced by one that says something else of the same bytes."""

    states = ({"best.keras": 1}, {"best.keras": 1})

    def prepare(self, root):
        save(root, "best.keras", 1)

    def act(self, root, reported):
        single_file.save_file(
            os.path.join(root, "best.keras"),
            lambda draft: draft.write(lambda file: scribble(file, 1)),
            facts(2),
        )
        reported(1)


class SetAside(Scenario):
    """A new run takes the place of an earlier one's file, which is kept; then it saves again."""

    states = (
        {"best.keras": 1},
        {"best.keras": 1, "best.before-01.keras": 1},
        {"best.keras": 2, "best.before-01.keras": 1},
        {"best.keras": 3, "best.before-01.keras": 1},
    )

    def prepare(self, root):
        save(root, "best.keras", 1)

    def act(self, root, reported):
        for version in (2, 3):
            self.save_as_new_run(os.path.join(root, "best.keras"), version)
            reported(version)

    def save_as_new_run(self, path, version):
        def fill(draft):
            draft.write(lambda file: scribble(file, version))
            preserve(draft.target, "new run")

        single_file.save_file(path, fill, replace(facts(version), run="new run"))


class SetAsideWithoutLinks(SetAside):
    """The same on a file system where a file has one name only."""

    def act(self, root, reported):
        disk.current.link = self.refuse
        super().act(root, reported)

    def refuse(self, source, target):
        raise OSError(errno.EPERM, "no hard links here")


class SaveInNewDirectory(Scenario):
    """The directory of the checkpoints is made by the act itself."""

    states = ({}, {"best.keras": 1})

    def act(self, root, reported):
        below = os.path.join(root, "runs", "a")
        disk.make_directories(below)
        atomic.probe(below)
        save(below, "best.keras", 1)
        reported(1)

    def next_start(self, root):
        single_file.sweep(os.path.join(root, "runs", "a"), is_ours)

    def next_save(self, root):
        disk.make_directories(os.path.join(root, "runs", "a"))
        save(os.path.join(root, "runs", "a"), "ckpt-99.keras", 99)

    def actual(self, root):
        below = os.path.join(root, "runs", "a")
        return super().actual(below) if os.path.isdir(below) else {}

    def expected_files(self, state):
        return [rf"(runs/a/)?({pattern})" for pattern in super().expected_files(state)]


class SaveInUnsyncedDirectory(SaveInNewDirectory):
    """The directory is there, but a killed process or the user made it a moment ago."""

    def prepare(self, root):
        os.mkdir(os.path.join(root, "runs"))

    def act(self, root, reported):
        disk.current.mkdir(os.path.join(root, "runs", "a"))
        super().act(root, reported)


class Delete(Scenario):
    states = ({"best.keras": 1, "ckpt-2.keras": 2}, {"best.keras": 1})

    def prepare(self, root):
        save(root, "best.keras", 1)
        save(root, "ckpt-2.keras", 2)
        pin(os.path.join(root, "ckpt-2.keras"))

    def act(self, root, reported):
        single_file.delete_file(os.path.join(root, "ckpt-2.keras"))
        reported(1)

    def expected_files(self, state):
        pins = [rf"\.ratchet/{re.escape(name)}\.pin" for name in state]
        return [*super().expected_files(state), *pins]


class Sweep(Scenario):
    """Everything that a crash can leave lies there already."""

    states = ({"best.keras": 2, "ckpt-1.keras": 1},)

    def prepare(self, root):
        save(root, "ckpt-1.keras", 1)
        save(root, "best.keras", 1)
        old = [p for p in Path(root, ".ratchet").iterdir() if p.name.startswith("best.keras.")]
        aside = {p: p.read_bytes() for p in old}
        save(root, "best.keras", 2)
        for path, data in aside.items():
            path.write_bytes(data)
        side = Path(root, ".ratchet")
        Path(root, ".draft-0123abcd-best.keras").write_bytes(b"half")
        Path(root, ".trash-0123abcd-ckpt-7.keras").write_bytes(content(7))
        Path(root, ".draft-0123abcd-probe").write_bytes(b"")
        Path(side, f"ckpt-7.keras.{'0' * 32}.json").write_bytes(b"{}")
        Path(side, f".draft-0123abcd-best.keras.{'0' * 32}.json").write_bytes(b"{")
        Path(side, "ckpt-7.keras.pin").touch()
        Path(side, ".draft-0123abcd-ckpt-1.keras.pin").touch()

    def act(self, root, reported):
        single_file.sweep(root, is_ours)
        reported(0)


class RetentionStep(Scenario):
    states = (
        {"ckpt-1.keras": 1, "ckpt-2.keras": 2},
        {"ckpt-1.keras": 1, "ckpt-2.keras": 2, "ckpt-3.keras": 3},
        {"ckpt-2.keras": 2, "ckpt-3.keras": 3},
    )

    def prepare(self, root):
        save(root, "ckpt-1.keras", 1)
        save(root, "ckpt-2.keras", 2)

    def act(self, root, reported):
        save(root, "ckpt-3.keras", 3)
        reported(1)
        retain(root)
        reported(2)


def retain(root):
    """Drop what KeepLast(2) does not keep, as `CheckpointStore` does."""
    ranking = Ranking((("val_loss", "min"),))
    for decision in plan(checkpoints(root), KeepLast(2), ranking, now_s=2e9):
        if not decision.keep and verify(decision.checkpoint.path):
            single_file.delete_file(decision.checkpoint.path)


class SnapshotScenario(Scenario):
    """A scenario of snapshot directories."""

    def next_start(self, root):
        snapshot_directory.sweep_snapshots(root)

    def next_save(self, root):
        commit(root, "step-99", 99)

    def actual(self, root):
        return {
            name: _version(Path(path)) for name, path in snapshot_directory.list_snapshots(root)
        }

    def expected_files(self, state):
        names = "(state.bin|state.json|manifest.json)"
        patterns = [rf"{re.escape(name)}/{names}" for name in state]
        return [*patterns, *(re.escape(name) for name in FOREIGN)]


def _version(path):
    parts = [path / "state.bin", path / "state.json"]
    found = [part.read_bytes() if part.exists() else None for part in parts]
    matching = [v for v in range(1, 100) if found == [content(v), content(v)[:40]]]
    return matching[0] if matching else "?"


class SnapshotCommit(SnapshotScenario):
    states = ({"step-1": 1}, {"step-1": 1, "step-2": 2})

    def prepare(self, root):
        commit(root, "step-1", 1)

    def act(self, root, reported):
        commit(root, "step-2", 2)
        reported(1)


class SnapshotLink(SnapshotScenario):
    """Snapshots share a file; then the one that it was written for goes."""

    states = (
        {"step-1": 1},
        {"step-1": 1, "step-2": 2},
        {"step-2": 2},
        {"step-2": 2, "step-3": 3},
    )

    def prepare(self, root):
        self.commit(root, "step-1", 1, None)

    def act(self, root, reported):
        self.commit(root, "step-2", 2, "step-1")
        reported(1)
        snapshot_directory.delete_snapshot(os.path.join(root, "step-1"))
        reported(2)
        self.commit(root, "step-3", 3, "step-2")
        reported(3)

    def commit(self, root, name, version, source):
        with snapshot_directory.SnapshotDraft(root, name) as draft:
            draft.write("state.bin", lambda file: scribble(file, version))
            draft.write("state.json", lambda file: file.write(content(version)[:40]))
            if source is None:
                draft.write("base.bin", lambda file: file.write(b"base"))
            else:
                older = os.path.join(root, source)
                entry = snapshot_directory.snapshot_manifest(older).files["base.bin"]
                path = os.path.join(older, "base.bin")
                with open(path, "rb", buffering=0) as opened:
                    draft.link("base.bin", path, entry, opened)
            draft.commit(facts(version))

    def expected_files(self, state):
        return [*super().expected_files(state), *(rf"{name}/base\.bin" for name in state)]


class SnapshotLinkWithoutLinks(SnapshotLink):
    """The same where a file has one name only."""

    def act(self, root, reported):
        disk.current.link = SetAsideWithoutLinks.refuse.__get__(self)
        super().act(root, reported)


class SnapshotDelete(SnapshotScenario):
    states = ({"step-1": 1, "step-2": 2}, {"step-2": 2})

    def prepare(self, root):
        commit(root, "step-1", 1)
        commit(root, "step-2", 2)
        pin(os.path.join(root, "step-1"))

    def act(self, root, reported):
        snapshot_directory.delete_snapshot(os.path.join(root, "step-1"))
        reported(1)

    def expected_files(self, state):
        return [*super().expected_files(state), *(rf"\.ratchet/{name}\.pin" for name in state)]


class SnapshotSweep(SnapshotScenario):
    states = ({"step-1": 1},)

    def prepare(self, root):
        commit(root, "step-1", 1)
        commit(root, "step-7", 7)
        os.rename(os.path.join(root, "step-7"), os.path.join(root, ".trash-0123abcd-step-7"))
        for name in ("state.bin", "state.json"):
            path = Path(root, ".draft-0123abcd-step-2", name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"half")

    def act(self, root, reported):
        snapshot_directory.sweep_snapshots(root)
        reported(0)


class SnapshotRotation(SnapshotScenario):
    """A commit, then the oldest goes."""

    states = (
        {"step-1": 1, "step-2": 2},
        {"step-1": 1, "step-2": 2, "step-3": 3},
        {"step-2": 2, "step-3": 3},
    )

    def prepare(self, root):
        commit(root, "step-1", 1)
        commit(root, "step-2", 2)

    def act(self, root, reported):
        commit(root, "step-3", 3)
        reported(1)
        snapshot_directory.delete_snapshot(os.path.join(root, "step-1"))
        reported(2)


SCENARIOS = (
    FirstSave(),
    SaveOver(),
    SaveSameBytes(),
    SetAside(),
    SetAsideWithoutLinks(),
    SaveInNewDirectory(),
    SaveInUnsyncedDirectory(),
    Delete(),
    Sweep(),
    RetentionStep(),
    SnapshotCommit(),
    SnapshotLink(),
    SnapshotLinkWithoutLinks(),
    SnapshotDelete(),
    SnapshotSweep(),
    SnapshotRotation(),
)


class Run:
    """One scenario with one fault; `violations` says what did not hold."""

    def __init__(self, scenario, directory, mode=None, at=0, first=()):
        self.scenario, self.mode, self.at, self.first = scenario, mode, at, first
        self.root = os.path.join(directory, "checkpoints")
        self.violations = []
        self.reported = 0
        self.disk = None

    def go(self):
        """Prepare, act, and check; return self."""
        shutil.rmtree(self.root, ignore_errors=True)
        for name, data in FOREIGN.items():
            path = Path(self.root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with in_place(FaultDisk(self.root)):
            self.scenario.prepare(self.root)
        hdf5 = self.scenario.inside_hdf5
        self.disk = FaultDisk(self.root, self.mode, self.at, hdf5, self.first)
        with in_place(self.disk):
            self._act()
        if self.disk.loses_power:
            self.disk.lose_power()
        reboot(self.root)
        with in_place(FaultDisk(self.root)):
            self._check()
        return self

    def _act(self):
        try:
            self.scenario.act(self.root, self._report)
        except Crash:
            if self.mode not in CRASHES:
                self._violated("a crash that nobody ordered")
        except OSError:
            if self.mode in CRASHES or self.mode is None:
                self._violated("an error that nobody ordered")
        else:
            if self.reported != len(self.scenario.states) - 1:
                self._violated("ended without an error and without a report")

    def _report(self, number):
        self.reported = number

    def _check(self):
        self._check_state("at once")
        self.scenario.next_start(self.root)
        state = self._check_state("after the next start")
        self._check_files(state)
        self.scenario.next_save(self.root)
        actual = self.scenario.actual(self.root)
        if 99 not in actual.values() or not state.items() <= actual.items():
            self._violated(f"the next save does not work: {actual}")

    def _check_state(self, when):
        """Check which checkpoints there are, and that each of them verifies."""
        actual = self.scenario.actual(self.root)
        if actual not in self.scenario.states[self.reported :]:
            self._violated(f"{when} there is {actual} though state {self.reported} was reported")
        for info in checkpoints(self._place()):
            if info.name in actual and not (outcome := verify(info.path)):
                self._violated(f"{when} {info.name} is {outcome.status}: {outcome.problem}")
        return actual

    def _place(self):
        below = os.path.join(self.root, "runs", "a")
        return below if os.path.isdir(below) else self.root

    def _check_files(self, state):
        """Check that no file is left over, and that nobody else's file was touched."""
        patterns = self.scenario.expected_files(state)
        found = [p for p in Path(self.root).rglob("*") if p.is_file()]
        names = [str(p.relative_to(self.root)) for p in found]
        for name in names:
            if not any(re.fullmatch(pattern, name) for pattern in patterns):
                self._violated(f"{name} is left over")
        manifests = [re.sub(r"\.[0-9a-f]{32}\.json$", "", n) for n in names if n.endswith(".json")]
        if len(set(manifests)) != len(manifests):
            self._violated("a file has two manifests")
        for directory in Path(self.root).rglob(".[dt]ra*"):
            if directory.is_dir():
                self._violated(f"{directory.name} is left over")
        for name, data in FOREIGN.items():
            if name not in names or Path(self.root, name).read_bytes() != data:
                self._violated(f"{name} is not ours and was touched")

    def _violated(self, what):
        at = f" at call {self.at}" if self.at else ""
        calls = self.disk.calls
        if 0 < self.at <= len(calls):
            verb, name = calls[self.at - 1]
            at = f"{at} ({verb} {name})"
        self.violations.append(f"{type(self.scenario).__name__}, {self.mode}{at}: {what}")


class RunTwice(Run):
    """A scenario that is ended by a crash; then the power fails at, or after, the next start."""

    def __init__(self, scenario, directory, mode, at, second_at):
        super().__init__(scenario, directory, "crash", at)
        self._second_mode, self._second_at = mode, second_at

    def _act(self):
        super()._act()
        self.disk.restart()
        reboot(self.root)
        self.disk.arm(self._second_mode, self._second_at)
        with contextlib.suppress(Crash):
            self.scenario.next_start(self.root)
        self.mode = f"crash and {self._second_mode} (call {self._second_at} of the next start)"


@contextlib.contextmanager
def in_place(other):
    """Put a disk in the place of the real one."""
    before, disk.current = disk.current, other
    try:
        yield other
    finally:
        disk.current = before


def all_runs(scenario, directory, modes=MODES, is_chosen=lambda number, verb: True, first=()):
    """Yield an undisturbed run, then one for each mode and each call.

    After the last call power is lost once more.

    Args:
        scenario: What is done.
        directory: Where.
        modes: Which of `MODES`.
        is_chosen: Says of a call's number and verb whether it is to fail.
        first: Which of several syncs that overlap are done first.
    """
    undisturbed = Run(scenario, directory, first=first).go()
    yield undisturbed
    verbs = [verb for verb, _ in undisturbed.disk.calls] + ["end"]
    chosen = [number for number, verb in enumerate(verbs, 1) if is_chosen(number, verb)]
    for mode in modes:
        for at in chosen:
            run = Run(scenario, directory, mode, at, first).go()
            if run.disk.struck or run.disk.loses_power:
                yield run


def all_runs_with_two_faults(scenario, directory):
    """Yield a run for each crash, and each power loss at or right after the next start."""
    calls = len(Run(scenario, directory).go().disk.calls)
    for mode in LOST:
        for at in range(1, calls + 1):
            second_at = 1
            while True:
                run = RunTwice(scenario, directory, mode, at, second_at).go()
                yield run
                if not run.disk.struck:
                    break
                second_at += 1


def violations(scenario, directory, modes=MODES):
    """Return what did not hold in any of the runs of a scenario."""
    return [what for run in all_runs(scenario, directory, modes) for what in run.violations]
