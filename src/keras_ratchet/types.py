"""The records that the parts of the package hand to one another. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from keras_ratchet import _html

StopKind = Literal[
    "patience",
    "nan",
    "not finite",
    "goal",
    "diverged",
    "epochs",
    "steps",
    "seconds",
    "generalization loss",
    "progress quotient",
    "up strips",
    "significance",
    "rollback",
    "signal",
    "deadline",
]
SaveKind = Literal["improved", "worse", "nan", "missing", "always", "batches", "seconds", "busy"]
IncidentKind = Literal["not finite", "spike"]
Kind = (
    StopKind
    | SaveKind
    | IncidentKind
    | Literal["waiting", "plateau", "cooldown", "fine", "good", "refused", "fits", "too late"]
)


@dataclass(frozen=True, slots=True)
class Position:
    """How much training is *done*.

    Attributes:
        epoch: Completed epochs.
        batch: Completed batches of the epoch after those.
        step: Completed batches in all, or None where nobody counted them. It follows from the
            other two, so positions are equal without it.
    """

    epoch: int = 0
    batch: int = 0
    step: int | None = field(default=None, compare=False)

    @classmethod
    def counted(cls, epoch: int, batch: int, steps: int | None) -> Position:
        """Return a position in epochs of `steps` batches each; None if that is unknown.

        Example:
            >>> Position.counted(2, 3, 100)
            Position(epoch=2, batch=3, step=203)
        """
        return cls(epoch, batch, None if steps is None else epoch * steps + batch)


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything a decision may look at.

    Attributes:
        position: How much training is done.
        metrics: The logs of this moment as plain floats; arrays are left out.
        end_of_epoch: Whether an epoch has just ended.
        time_s: Seconds of training so far (of this run and those before it), if known.
        batches: Metrics of the validation just done, batch by batch, if a criterion needs them.
    """

    position: Position
    metrics: Mapping[str, float] = field(default_factory=dict)
    end_of_epoch: bool = True
    time_s: float | None = None
    batches: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Index, from 0, of the epoch that this moment belongs to."""
        return self.position.epoch - 1 if self.end_of_epoch else self.position.epoch


@dataclass(frozen=True, slots=True)
class Verdict:
    """A yes or no with the sentence that explains it.

    Attributes:
        yes: The answer; `bool(verdict)` is the same.
        kind: One word for programs: a `Kind`, or the word of a criterion of your own.
        reason: The sentence.
        values: The numbers behind the decision.
        kinds: `kind` alone; or the kinds of all parts that decided, of which `kind` is the first.
    """

    yes: bool
    kind: Kind | str
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)
    kinds: tuple[Kind | str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", self.kinds or (self.kind,))  # the class is frozen

    def __bool__(self) -> bool:
        return self.yes


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why training stopped.

    Attributes:
        kind: One word for programs, such as "patience", "nan" or "signal": a `StopKind`, or the
            word of a criterion of your own.
        sentence: The same for people.
        values: The numbers behind the decision.
        epoch: Index, from 0, of the epoch after which training stopped.
        kinds: `kind` alone; or those of all criteria that asked to stop, of which `kind` is the
            first.
    """

    kind: StopKind | str
    sentence: str
    values: Mapping[str, float]
    epoch: int
    kinds: tuple[StopKind | str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", self.kinds or (self.kind,))  # the class is frozen

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        return _html.stop_reason(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the reason as plain data; several kinds are joined with "+"."""
        return {
            "kind": "+".join(self.kinds),
            "sentence": self.sentence,
            "values": dict(self.values),
            "epoch": self.epoch,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> StopReason | None:
        """Return the reason that `to_dict` described; None stays None."""
        if data is None:
            return None
        kinds = tuple(data["kind"].split("+"))
        return cls(kinds[0], data["sentence"], data["values"], data["epoch"], kinds)


@dataclass(frozen=True, slots=True)
class AverageTrial:
    """One average of weights that was scored.

    Attributes:
        members: Names of the weights that it was the mean of.
        value: Its value of the metric.
        accepted: Whether it took the place of what was best until then.
        reason: Why, or why not.
    """

    members: tuple[str, ...]
    value: float
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AverageRecord:
    """What became of averaging weights: which average the model ended with, and why.

    Attributes:
        kind: "soup" or "mean".
        metric: Name of the metric that decided.
        best: Its value for the best weights alone.
        value: Its value for the weights that the model has now; never worse than `best`.
        members: Names of the weights that those are the mean of, the best first.
        indices: The places of the members among the candidates, which go from best to worst.
        trials: Every average that was scored, in order.
        reason: The outcome in a sentence.
    """

    kind: str
    metric: str
    best: float
    value: float
    members: tuple[str, ...]
    indices: tuple[int, ...]
    trials: tuple[AverageTrial, ...]
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether the model has an average rather than the best weights alone."""
        return len(self.members) > 1

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> AverageRecord | None:
        """Return the record that `dataclasses.asdict` described; None stays None."""
        if data is None:
            return None
        trials = tuple(AverageTrial(**trial) for trial in data["trials"])
        return cls(**{**data, "trials": trials})

    def __str__(self) -> str:
        return self.reason

    def _repr_html_(self) -> str:
        return _html.average_record(self)


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What is known about one checkpoint.

    Attributes:
        name: File or directory name.
        path: Where it is.
        has_manifest: Whether it has a manifest; without one most of what follows is unknown.
        is_directory: Whether it is a snapshot directory rather than a single file.
        position: How much training was done.
        metrics: The logs of that moment.
        ranking: Names of the metrics that rank it and their modes, the first one first.
        reason: Why it was saved.
        series: The file name template it was saved under.
        run: Which run saved it; "" if unknown. A resumed run stays the same one. Of a snapshot:
            which branch it is of, if it is of one.
        saved_at: Seconds since 1970, UTC.
        size_bytes: Size of its files.
        versions: Of keras, backend, python and keras_ratchet.
        fingerprint: Digest of the model's weight names, shapes and dtypes.
        pinned: Whether it is protected from retention.
        metadata: What `metadata=` has added: plain JSON data.
    """

    name: str
    path: str
    has_manifest: bool = False
    is_directory: bool = False
    position: Position = field(default_factory=Position)
    metrics: Mapping[str, float] = field(default_factory=dict)
    ranking: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    series: str = ""
    run: str = ""
    saved_at: float = 0.0
    size_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    pinned: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        return _html.checkpoint(self)


class Optimizer(Protocol):
    """A Keras optimizer, as far as this package uses its public members.

    A torch optimizer of a hand-written loop is none.

    Attributes:
        built: Whether its own variables exist.
        variables: All its variables, those of optimizers inside it too.
        iterations: Variable that counts the updates.
        learning_rate: Its rate now: a variable, or what a schedule gives for `iterations`.
    """

    built: bool
    variables: Any
    iterations: Any
    learning_rate: Any

    def build(self, variables: Any, /) -> Any:
        """Create the variables that belong to these of the model."""

    def set_weights(self, weights: Any, /) -> Any:
        """Set all variables, in the order of `variables`."""


class Model(Protocol):
    """A Keras model, as far as this package uses its public members.

    In a hand-written loop it need not be compiled; then `optimizer` and `metrics` may be missing.

    Attributes:
        name: Its name.
        built: Whether its variables exist.
        layers: Its layers, one level deep.
        variables: All its variables, seeds and metrics included.
        weights: Those that a weights file holds.
        trainable_variables: Those that training changes.
        metrics: Its losses and metrics.
        optimizer: What `compile` was given.
        steps_per_execution: Batches in one call of `train_function`.
        train_function: What `fit` calls for each step, once it was made.
        stop_training: Set to True to end `fit` after this epoch.
        stop_evaluating: Set to True to end an evaluation after this batch.
    """

    name: str
    built: bool
    layers: list[Any]
    variables: list[Any]
    weights: list[Any]
    trainable_variables: list[Any]
    metrics: list[Any]
    optimizer: Optimizer
    steps_per_execution: int
    train_function: Any
    stop_training: bool
    stop_evaluating: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for inputs."""

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        """Set optimizer, loss and metrics."""

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and return the history."""

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Return loss and metrics on a dataset."""

    def make_train_function(self, force: bool = False) -> Any:
        """Make `train_function`."""

    def get_weights(self) -> list[Any]:
        """Return copies of the weights as NumPy arrays."""

    def set_weights(self, weights: Any, /) -> Any:
        """Set the weights, in the order of `weights`."""

    def load_weights(self, filepath: Any, **kwargs: Any) -> Any:
        """Set the weights to those in a file."""

    def reset_metrics(self) -> Any:
        """Forget what the metrics have counted."""


class CallbackList(Protocol):
    """Keras's `CallbackList`, which calls the hooks of its callbacks in turn.

    Attributes:
        callbacks: The callbacks, in order; may be changed.
    """

    callbacks: list[Any]

    def on_train_begin(self, logs: Any = None) -> Any:
        """Call this hook of all callbacks."""

    def on_train_end(self, logs: Any = None) -> Any:
        """Call this hook of all callbacks."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> Any:
        """Call this hook of all callbacks."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> Any:
        """Call this hook of all callbacks."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> Any:
        """Call this hook of all callbacks."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> Any:
        """Call this hook of all callbacks."""


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state can be captured and restored."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state as plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Restore a state that `state_dict` returned."""


@runtime_checkable
class Seekable(Stateful, Protocol):
    """Data that can resume in the middle of an epoch without drawing what is done."""

    def state_at(self, batch: int) -> Mapping[str, Any]:
        """Return the state after `batch` batches of the current epoch were trained on."""

    def seek(self, state: Mapping[str, Any], batch: int) -> None:
        """Restore a state; these batches are asked for again and thrown away."""
