"""One training in two processes, killed again and again and run again: with what does it end?

`python -m support.rank_chains SETTINGS` imports Keras once and starts no backend. Each run of the
training is two forked children, each a rank of its own. One of them or both are killed, by
themselves at a chosen place or by the parent at a random instant; the last run is left alone. What
the other rank then does is timed.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass

from support import forking, processes, rank

import keras_ratchet

RUN_LIMIT_S = 300.0  # many times what a run takes: a bound, not an expectation
SURVIVOR_LIMIT_S = 90.0


@dataclass(frozen=True)
class Chain:
    """What to do.

    Attributes:
        name: Of the chain, and of its directory.
        save_freq: Of the snapshots.
        background: Whether every save is written in the background.
        kills: (victim, place, epoch) for each run that is cut; the victim is 0, 1 or "all". For
            places see `rank_training.Reports`.
        random_kills: How many kills come from outside, at random instants.
        seed: Of these instants.
        slow_disk: Whether each write takes 10 ms longer, so that random kills come inside saves.
        without: What is left out, for a negative control: "ranks' states".
    """

    name: str
    save_freq: str | int = 4
    background: bool = False
    kills: tuple = ()
    random_kills: int = 0
    seed: int = 0
    slow_disk: bool = False
    without: str = ""


def run(engine, chains, directory, limit_s):
    """Run chains in a process of its own; return the record of each by its name."""
    settings = {"engine": engine, "chains": [dataclasses.asdict(chain) for chain in chains]}
    env = processes.base_environment(engine)
    records = forking.run_module("support.rank_chains", settings, directory, limit_s, env)
    return {record.pop("name"): record for record in records}


class Rank:
    """One forked rank.

    Args:
        chain: What it takes part in.
        index: Its index.
        port: Of rank 0.
        place: Where it ends itself, or "".
        epoch: Of that place.
    """

    def __init__(self, chain, index, port, place="", epoch=-1):
        self.index = index
        self._log = f"rank-{index}.log"
        self._child = forking.Child(
            lambda say: _train(chain, index, port, say, (place, epoch)), RUN_LIMIT_S
        )
        self.lines = []

    def wait_for(self, count=0, text=None):
        """Wait for a number of lines, or for a line; return whether it came."""
        while len(self.lines) < count or (text and text not in self.lines[-1:]):
            line = self._child.line()
            if line is None:
                return False
            self.lines.append(line)
        return True

    def kill(self):
        """Send SIGKILL, unless somebody has waited for it."""
        self._child.kill()

    def end(self):
        """Wait for its end; return its exit code, or -signal."""
        self.lines += self._child.end()
        return self._child.code

    def output(self):
        """Return what it has written."""
        with open(self._log, encoding="utf-8", errors="replace") as file:
            return file.read()


def _train(chain, index, port, say, end):
    log = os.open(f"rank-{index}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    _prepare(chain)
    from support import rank_training

    reports = rank_training.Reports(say, *end)
    rank.join()  # until then it is the engine, and not the training, that waits for a rank
    reports.at("start")
    train = rank_training.loop if os.environ["RATCHET_ENGINE"] == "torch" else rank_training.fit
    found = train(index, chain.save_freq, reports)
    say(json.dumps(found))
    rank.part()


def _prepare(chain):
    from keras_ratchet._distributed import watchdog
    from keras_ratchet._engine.saving import background
    from keras_ratchet._storage import disk

    class SlowDisk(disk.Disk):
        def write(self, fd, data):
            time.sleep(0.01)
            return super().write(fd, data)

    if chain.slow_disk:
        disk.current = SlowDisk()
    watchdog.GRACE_S = (
        3.0  # what it is otherwise is measured elsewhere; here it is waited for often
    )
    if chain.background:
        background.INLINE_MAX_BYTES = -1
    if chain.without == "ranks' states":
        from keras_ratchet._engine.resume import train_state

        train_state.rank_states.of_rank = lambda data, arrays, index: (data, arrays)


def follow(chain):
    """Run one chain; return what its last run ended with, and how the others went."""
    os.mkdir(chain.name)
    os.chdir(chain.name)
    instants = random.Random(chain.seed)
    cuts = [_cut(chain, *kill) for kill in chain.kills]
    for _ in range(chain.random_kills):
        cuts.append(_cut(chain, instants.choice([0, 1, "all"]), "random", instants=instants))
    port = processes.free_port()
    last = [Rank(chain, index, port) for index in (0, 1)]
    codes = [one.end() for one in last]
    outputs = "".join(one.output()[-3000:] for one in last)
    record = {"name": chain.name, "cuts": cuts, "codes": codes, "torn": _torn(), "output": outputs}
    record["ends"] = [json.loads(one.lines[-1]) for one in last] if codes == [0, 0] else []
    os.chdir("..")
    return record


def _cut(chain, victim, place, epoch=-1, instants=None):
    """Run the training, and cut it; return how it went."""
    port = processes.free_port()
    victims = (0, 1) if victim == "all" else (victim,)
    told = place == "save" and victim == 1  # by rank 0, which writes
    ranks = []
    for index in (0, 1):
        own = ("told save" if told and index == 0 else place) if index in victims or told else ""
        ranks.append(Rank(chain, index, port, own if own != "random" else "", epoch))
    if told:
        ranks[0].wait_for(text="saving")
        ranks[1].kill()
    elif instants:
        from support import rank_training

        share = 2 * rank_training.MOMENTS // (chain.random_kills + 1)  # the last one comes before
        ranks[victims[-1]].wait_for(1 + instants.randrange(share))  # the end, for the most part
        time.sleep(instants.uniform(0, 0.02))
        for index in victims:
            ranks[index].kill()
    codes = {index: ranks[index].end() for index in victims}
    since_s = time.monotonic()
    codes |= _survivors([one for one in ranks if one.index not in victims])
    return {
        "victim": victim,
        "place": place,
        "epoch": epoch,
        "killed": [index for index in victims if codes[index] == -signal.SIGKILL],
        "codes": [codes[0], codes[1]],
        "survivor_s": time.monotonic() - since_s,
        "torn": _torn(),
        "drafts": _drafts(),
        "said": "".join(one.output()[-1500:] for one in ranks if one.index not in victims),
    }


def _survivors(ranks):
    """Wait for the others; return their codes. One that does not end ends itself, and is hung."""
    return {one.index: one.end() for one in ranks}


def _torn():
    """Return the problems of the files on the disk that count."""
    problems = []
    if os.path.exists("best.weights.h5"):
        found = keras_ratchet.verify("best.weights.h5")
        problems += [] if found else [str(found)]
    for snapshot in keras_ratchet.checkpoints("backup") if os.path.isdir("backup") else []:
        found = keras_ratchet.verify(snapshot.path)
        problems += [] if found else [str(found)]
    return problems


def _drafts():
    """Return how many unfinished files and snapshots a killed run left."""
    names = os.listdir("backup") if os.path.isdir("backup") else []
    return sum("draft" in name for name in [*names, *os.listdir(".")])


def main(settings):
    """Write one record per chain to `records.jsonl`."""
    os.environ["RATCHET_ENGINE"] = settings["engine"]
    forking.warm()
    with open("records.jsonl", "a", buffering=1, encoding="utf-8") as records:
        for chain in settings["chains"]:
            records.write(json.dumps(follow(Chain(**chain))) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
