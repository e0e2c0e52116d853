"""The runs of the study: each is trained twice (without and with its validation data), replayed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from stopping import tasks
from stopping.networks import NETWORKS, Network
from stopping.replay import Replay
from stopping.rules import BUDGET, RULES
from stopping.training import trainer

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """The runs of one network on one data set."""

    task: str
    network: Network
    seeds: int

    def rows(self, budget: int = BUDGET) -> Iterator[Row]:
        """Yield the outcome of each rule in each run, with the best test loss of the run."""
        for seed in range(self.seeds):
            replay = record(self.task, self.network, seed, budget)
            oracle = float(replay.record.test["loss"].min())
            part = tasks.load(self.task).part
            run = {"task": self.task, "part": part, "network": self.network.name, "seed": seed}
            for outcome in replay.outcomes(RULES):
                yield {**run, "oracle": oracle, **asdict(outcome)}


def record(name: str, network: Network, seed: int, budget: int) -> Replay:
    """Train on a task and return what can be replayed."""
    task = tasks.load(name)
    split = tasks.split(task, seed, network.noisy)
    one = trainer(network, task.x.shape[1], task.classes)
    run, joined = (one.record(data, seed, budget) for data in (split, split.joined()))
    return Replay(run, joined, split, one)


def jobs(long: bool, seeds: int) -> list[Job]:
    """Return what there is to do: all networks on each data set, or two of them in the short form.

    Those two are the small one and the one with dropout, or the large one with and without noise,
    in turn.
    """
    pairs = itertools.cycle([NETWORKS[0::2], NETWORKS[1::2]])
    return [
        Job(name, network, seeds)
        for name, pair in zip(tasks.names("A", "B"), pairs)
        for network in (NETWORKS if long else pair)
    ]
