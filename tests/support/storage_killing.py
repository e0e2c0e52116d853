"""SIGKILL inside saves, retention steps and deletes of real files: what is there afterwards?

`python -m support.storage_killing SETTINGS` never imports Keras. For each kill it forks a child
that goes round in a loop on one directory: it saves over a file, takes a retention step, deletes
a file, commits a snapshot and deletes the oldest one. It writes `B kind n` to a pipe before each
of these and `E kind n` after it. The parent waits for `B` of the kind that it wants, sleeps a
random part of the time that the kind usually takes, kills the child, and reads the rest of the
pipe: without `E` the kill fell inside. Then it examines the directory, does what the next start
does, and examines it again.
"""

import collections
import dataclasses
import json
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

from support import forking

from keras_ratchet._storage import single_file, snapshot_directory
from keras_ratchet._storage.listing import checkpoints, delete_unless_changed
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.verify import verify
from keras_ratchet.policy.retention import KeepBest, KeepLast, Ranking, plan
from keras_ratchet.types import Position

ROOT = "checkpoints"
RANKING = Ranking((("val_loss", "min"),))
KEEP = KeepLast(2) | KeepBest(1)
CHUNK_BYTES = 1 << 18
KINDS = ("save", "step", "delete", "commit", "remove")


@dataclass(frozen=True)
class Settings:
    """How many kills of each kind to collect, in what time, and the seed of their instants."""

    kills: dict
    limit_s: float
    seed: int = 0


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        kind: What it fell into, "" if it fell between two operations.
        number: The operation's number.
        leftovers: Names of our drafts and trash that it left.
        losses: What was lost, or is damaged, right after the kill.
        losses_later: The same after the next start.
        leftovers_later: What the next start did not remove.
    """

    kind: str
    number: int
    leftovers: list
    losses: list
    losses_later: list
    leftovers_later: list


def run(kills, directory, limit_s, seed=0):
    """Collect kills in a process of its own; return them."""
    settings = dataclasses.asdict(Settings(kills, limit_s, seed))
    records = forking.run_module("support.storage_killing", settings, directory, limit_s + 60)
    return [Kill(**record) for record in records]


def payload(version):
    """Return 1 to 5 MB, different in every block for each version."""
    megabytes = (1, 5, 2, 1, 2)[version % 5]
    return b"%15d\n" % version * (megabytes << 16)


def facts(version):
    # every seventh one is the best so far; the others are worse than any of those
    loss = 1 / version if version % 7 == 0 else 1.0 + 1 / version
    return Manifest(
        files={},
        position=Position(epoch=version),
        metrics={"val_loss": loss},
        ranking=RANKING.metrics,
        series="ckpt-{epoch}.keras",
        saved_at=float(version),
    )


def fill(file, version):
    data = memoryview(payload(version))
    for start in range(0, len(data), CHUNK_BYTES):
        file.write(data[start : start + CHUNK_BYTES])


def save(name, version):
    path = os.path.join(ROOT, name)
    single_file.save_file(
        path, lambda draft: draft.write(lambda file: fill(file, version)), facts(version)
    )


def step(version):
    """Save one more file, then drop those that no rule keeps."""
    save(f"ckpt-{version}.keras", version)
    found = [info for info in checkpoints(ROOT) if info.name.startswith("ckpt-")]
    for decision in plan(found, KEEP, RANKING, now_s=float(version)):
        if not decision.keep:
            delete_unless_changed(decision.checkpoint)


def commit(version):
    with snapshot_directory.SnapshotDraft(ROOT, f"step-{version}") as draft:
        draft.write("state.bin", lambda file: fill(file, version))
        draft.write("state.json", lambda file: file.write(b"%d" % version))
        draft.commit(facts(version))


def remove():
    """Delete all snapshots but the newest."""
    by_number = sorted(snapshot_directory.list_snapshots(ROOT), key=lambda item: _number(item[0]))
    for _, path in by_number[:-1]:
        snapshot_directory.delete_snapshot(path)


def _number(name):
    return int("".join(c for c in name if c.isdigit()))


def is_ours(name):
    return name in {"best.keras", "extra.keras"} or name.startswith("ckpt-")


def next_start():
    """Take the lock and clean up; return the lock."""
    lock = FileLock(single_file.series_lock_path(ROOT, "all"), "it")
    lock.acquire()
    single_file.sweep(ROOT, is_ours)
    snapshot_directory.sweep_snapshots(ROOT)
    return lock


def work(version, begin, say):
    """Go round, from this version and operation on, until killed."""
    next_start()
    order = [*KINDS[KINDS.index(begin) :], *KINDS[: KINDS.index(begin)]]
    while True:
        save("extra.keras", version)
        operations = {
            "save": lambda version=version: save("best.keras", version),
            "step": lambda version=version: step(version),
            "delete": lambda: single_file.delete_file(os.path.join(ROOT, "extra.keras")),
            "commit": lambda version=version: commit(version),
            "remove": remove,
        }
        for kind in order:
            say(f"B {kind} {version}")
            operations[kind]()
            say(f"E {kind} {version}")
        version += 1


@dataclass
class Killer:
    """Kills children, and knows what they have reported."""

    random: random.Random
    begun: dict = field(default_factory=dict)
    ended: dict = field(default_factory=collections.Counter)
    durations_s: dict = field(default_factory=lambda: collections.defaultdict(list))
    steps: set = field(default_factory=set)
    version: int = 0
    inside: str = ""

    def kill(self, wanted):
        """Let a child work and kill it in an operation of this kind, if it can be hit."""
        self.version += 1
        self.inside = ""
        first = self.version
        begin = "commit" if wanted == "remove" else wanted  # of two snapshots one is removed
        child = forking.Child(lambda say: work(first, begin, say), limit_s=120)
        victim = self.version + self.random.randrange(2)
        since = 0.0
        for line in iter(child.line, None):
            event, kind, number = line.split()
            since = self._note(event, kind, int(number), since)
            if (event, kind, int(number)) == ("B", wanted, victim):
                usual_s = statistics.median(self.durations_s[kind][-9:] or [0.02])
                time.sleep(self.random.uniform(0, 1) * usual_s)
                child.kill()
        child.end()
        assert child.code == -9, f"the child ended with {child.code}"
        return self._examine()

    def _note(self, event, kind, number, since):
        self.version = max(self.version, number)
        if event == "B":
            self.begun[kind], self.inside = number, kind
            return time.monotonic()
        self.ended[kind], self.inside = number, ""
        if kind == "step":
            self.steps.add(number)
        self.durations_s[kind].append(time.monotonic() - since)
        return since

    def _examine(self):
        leftovers, losses = temporary(), self._losses()
        next_start().release()
        return Kill(
            self.inside,
            self.begun.get(self.inside, 0),
            leftovers,
            losses,
            self._losses(),
            [*temporary(), *stale_manifests()],
        )

    def _losses(self):
        """Return what is damaged, and what is not as it was reported."""
        found = {info.name: info.position.epoch for info in checkpoints(ROOT)}
        steps = [_number(name) for name in found if name.startswith("ckpt-")]
        snapshots = [_number(name) for name in found if name.startswith("step-")]
        best = [number for number in self.steps if number % 7 == 0]
        facts = {
            "best.keras is older": found.get("best.keras", 0) >= self.ended["save"],
            "the newest step is gone": max(steps, default=0) >= self.ended["step"],
            "the best step is gone": not best or max(n for n in steps if n % 7 == 0) >= max(best),
            "the newest snapshot is gone": max(snapshots, default=0) >= self.ended["commit"],
            "a deleted file is back": found.get("extra.keras", sys.maxsize) > self.ended["delete"],
            "a deleted snapshot is back": not snapshots or min(snapshots) >= self.ended["remove"],
        }
        lost = [problem for problem, holds in facts.items() if not holds]
        return lost + [problem for name in found for problem in damage(name)]


def damage(name):
    """Return what is wrong with a checkpoint."""
    path = os.path.join(ROOT, name)
    outcome = verify(path)
    if not outcome:
        return [f"{name} is {outcome.status}: {outcome.problem}"]
    data_path = os.path.join(path, "state.bin") if os.path.isdir(path) else path
    with open(data_path, "rb") as file:
        data = file.read()
    version = int(data[:16])
    if data != payload(version):
        return [f"{name} is a mixture"]
    if not name.startswith(("best", "extra")) and version != _number(name):
        return [f"{name} holds version {version}"]
    return []


def temporary():
    names = [*os.listdir(ROOT), *os.listdir(os.path.join(ROOT, single_file.METADATA))]
    return [name for name in names if name.startswith((".draft-", ".trash-"))]


def stale_manifests():
    """Return what is wrong in `.ratchet`: a file has one manifest, and a manifest has a file."""
    problems = []
    for name, paths in single_file.named_manifests(ROOT).items():
        if len(paths) != 1 or not os.path.exists(os.path.join(ROOT, name)):
            problems.append(f"{len(paths)} manifests of {name}")
    return problems


def main(settings):
    """Write one record per kill to `records.jsonl`."""
    os.makedirs(os.path.join(ROOT, single_file.METADATA), exist_ok=True)
    killer = Killer(random.Random(settings.seed))
    missing = collections.Counter(settings.kills)
    deadline = time.monotonic() + settings.limit_s
    with open("records.jsonl", "a", buffering=1, encoding="utf-8") as records:
        while missing:
            if time.monotonic() > deadline:
                raise TimeoutError(f"still missing: {dict(missing)}")
            wanted, _ = missing.most_common(1)[0]
            kill = killer.kill(wanted)
            missing[kill.kind] -= 1
            missing = +missing
            records.write(json.dumps(dataclasses.asdict(kill)) + "\n")


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
