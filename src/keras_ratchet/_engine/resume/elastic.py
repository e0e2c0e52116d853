"""A run that goes on with another number of ranks than saved it.

| what | rank that saved, too | rank that is new |
|---|---|---|
| weights, optimizer | those of all | those of all |
| statistics of BatchNormalization, callbacks | its own | rank 0's |
| random streams | its own | the script's, if the script gives each rank its own; else rank 0's |
| running metrics of the epoch | its own | none yet (on jax: those of all) |
| an optimizer's state that differs by rank | refused | refused |

In the middle of an epoch, an index sampler like torch's DistributedSampler deals one order of the
samples to the ranks in turn. So after `b` batches of `B` samples on `W` ranks the first `b * B * W`
are done, whoever trains the rest. Where that is no whole number of batches now, the samples that
are left over are left out: none comes twice. A source with a state of its own goes on at the same
batch of each rank. With other data the epoch starts anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_ratchet._engine.capture import rng
from keras_ratchet._engine.resume.state_codec import fingerprint
from keras_ratchet._engine.resume.train_state import TrainState, capture_variables
from keras_ratchet._warn import warn
from keras_ratchet.errors import ResumeError
from keras_ratchet.types import Position

_OF_EACH_RANK = ("batch_size", "batches_per_epoch")


def dealt_by(source: Any) -> dict[str, Any] | None:
    """Return how a source deals its samples to ranks, as plain data; None if that is unknown.

    Args:
        source: A torch DataLoader, or anything else.
    """
    batches = getattr(source, "batch_sampler", None)
    sampler = getattr(batches, "sampler", None) or getattr(source, "sampler", None)
    found = {
        "ranks": getattr(sampler, "num_replicas", None),
        "batch": getattr(batches, "batch_size", None) or getattr(source, "batch_size", None),
        "seed": getattr(sampler, "seed", None),
        "shuffle": getattr(sampler, "shuffle", None),
    }
    if not isinstance(found["ranks"], int) or not isinstance(found["batch"], int):
        return None
    try:
        found["samples"] = len(getattr(sampler, "dataset", None))  # type: ignore[arg-type]
    except TypeError:
        return None
    return found


def batches_done(
    saved: Mapping[str, Any] | None, now: Mapping[str, Any] | None, batch: int
) -> int | None:
    """Return after how many batches of each rank no sample comes twice; None if unknown.

    Args:
        saved: What `dealt_by` returned when the run was saved.
        now: What it returns now.
        batch: Batches that were done then.
    """
    same = ("seed", "shuffle", "samples")
    if not saved or not now or any(saved[name] != now[name] for name in same):
        return None
    samples = batch * int(saved["batch"]) * int(saved["ranks"])
    return math.ceil(samples / (int(now["batch"]) * int(now["ranks"])))


@dataclass(slots=True)
class Change:
    """Another number of ranks, and how the run goes on with it.

    Args:
        path: The snapshot.
        state: What was saved.
        ranks: The coordinator.

    Attributes:
        is_told: Whether the warning was given.
    """

    path: str
    state: TrainState
    ranks: Any
    is_told: bool = False

    def adapt(self, facts: Mapping[str, Any], source: Any, is_stateful: bool) -> TrainState:
        """Return the state for this number of ranks. All ranks call it.

        Args:
            facts: What this run is compared by.
            source: The training data, if it is known already.
            is_stateful: Whether it has a state of its own.

        Raises:
            ResumeError: If an optimizer's state belongs to the number of ranks.
        """
        state = self.state
        if split := {"loop", "torch_optimizers"}.intersection(state.differs):
            raise ResumeError(
                f"The snapshot {self.path!r} was saved by {state.world_size} ranks, each with its "
                f"own part of an optimizer's state ({', '.join(sorted(split))}), so "
                f"{self.ranks.world_size} cannot go on from it. Start {state.world_size} "
                "processes, or save with an optimizer whose state is the same on all ranks.",
                see="world-size",
            )
        if state.position.batch and facts.get("data") == "loop" and source is None:
            return self._of_this_rank(state, facts)  # `skip` tells, when the loop shows its data
        done = self._done(facts, source, is_stateful)
        self.tell(done)
        if done is None:
            state = _from_epochs_start(state)
        else:
            steps = facts.get("batches_per_epoch")
            state = replace(state, position=Position.counted(state.position.epoch, done, steps))
        return self._of_this_rank(state, facts)

    def _done(self, facts: Mapping[str, Any], source: Any, is_stateful: bool) -> int | None:
        """Return how many batches of the epoch this run skips; None if it starts anew."""
        batch, steps = self.state.position.batch, facts.get("batches_per_epoch")
        if not batch:
            return 0
        if self.state.extra.get("in_validation") and steps:
            return int(steps)
        done = self.skip(source)
        if done is None and is_stateful:
            done = batch
        return done if done is None or not steps else min(done, int(steps))

    def skip(self, source: Any) -> int | None:
        """Return how many batches of a source are done; None if it does not tell."""
        return batches_done(
            self.state.extra.get("dealt_by"), dealt_by(source), self.state.position.batch
        )

    def skip_in_loop(self, source: Any, skip: int) -> int:
        """Return how many batches a hand-written loop skips, which shows its data only now.

        Args:
            source: The data.
            skip: What it would skip with as many ranks as before.
        """
        if self.is_told:
            return skip
        done = self.skip(source)
        self.tell(done)
        return done or 0

    def tell(self, done: int | None) -> None:
        """Give the warning.

        Args:
            done: How many batches of the epoch are skipped; None if it starts anew.
        """
        self.is_told = True
        if self.ranks.rank:
            return
        before, now = self.state.world_size, self.ranks.world_size
        position = self.state.position
        parts = [
            f"The snapshot {self.path!r} was saved by {before} rank{'s' * (before > 1)}, and "
            f"{now} go{'es' * (now == 1)} on from it: with its weights, optimizers, callbacks and "
            "position, but not bit by bit, since another number of batches makes one step."
        ]
        if position.batch:
            parts.append(self._about_epoch(done))
        if now > before:
            parts.append(
                f"Ranks from {before} on take BatchNormalization's statistics and callbacks' "
                "states of rank 0, and random streams as the script seeds them."
            )
        elif before > now:
            parts.append(
                "What the ranks that are gone had of their own (streams, statistics) is dropped."
            )
        warn(" ".join(parts))

    def _about_epoch(self, done: int | None) -> str:
        epoch = self.state.position.epoch + 1
        if done is None:
            return (
                f"Epoch {epoch} starts anew, so that samples of its first "
                f"{self.state.position.batch} batches come again: this data does not tell which "
                "were done (a DataLoader with a DistributedSampler does)."
            )
        if self.state.extra.get("dealt_by"):
            return (
                f"Epoch {epoch} goes on after {done} batches of each rank; no sample comes twice."
            )
        return (
            f"Epoch {epoch} goes on after {done} batches of each rank; of data that is dealt to "
            "ranks, some samples may come twice in this epoch and some not at all."
        )

    def _of_this_rank(self, state: TrainState, facts: Mapping[str, Any]) -> TrainState:
        extra = {**state.extra, **{n: facts[n] for n in _OF_EACH_RANK if n in facts}}
        cursor = {name: value for name, value in state.cursor.items() if name != "batches"}
        state = replace(state, extra=extra, cursor=cursor)
        if self.ranks.world_size > self.state.world_size:
            own = self._streams_of_its_own()
            if self.ranks.rank >= self.state.world_size:
                return replace(
                    state, rng={**state.rng, **own}, epoch_rng={**state.epoch_rng, **own}
                )
        return state

    def _streams_of_its_own(self) -> dict[str, Any]:
        """Return the random streams that the script has given each rank another state."""
        present = rng.capture()
        marks = self.ranks.gather(
            {name: fingerprint(stream)[0] for name, stream in present.items()}, "random streams"
        )
        return {n: s for n, s in present.items() if len({own.get(n) for own in marks}) > 1}


def fresh_metrics(state: TrainState, ranks: Any, metrics: Mapping[str, Any]) -> TrainState:
    """Return a state in which a rank that is new has counted nothing yet, where ranks count apart.

    Args:
        state: The state.
        ranks: The coordinator.
        metrics: The metrics' variables, by place.
    """
    if ranks.rank < state.world_size or keras.backend.backend() == "jax":
        return state
    return replace(state, variables={**state.variables, **capture_variables(metrics)})


def _from_epochs_start(state: TrainState) -> TrainState:
    position = Position.counted(state.position.epoch, 0, None)
    extra = {name: value for name, value in state.extra.items() if name != "in_validation"}
    return replace(state, position=position, rng=state.epoch_rng, logs={}, extra=extra)
