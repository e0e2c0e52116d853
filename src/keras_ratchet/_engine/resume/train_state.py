"""TrainState: everything that an exact resume needs, captured from a run and restored.

| part | what | when it is restored |
|---|---|---|
| `model/*` | trainable and other variables of the model, SeedGenerators among them | run start |
| `optimizer/*` | slots, iterations, rates, averages, loss scale of all optimizers | run start |
| `torch_optimizers` | those of torch in the model's attributes | run start |
| `built_for` | for which variables each optimizer was built, in its order | run start |
| `metrics/*` | running sums of the metrics | first epoch's start, after Keras's reset |
| `trainable` | which layers and variables are trainable, at three moments | see `FlagsWatch` |
| `extra/*` | state of the model that is no Keras variable of its own | run start |
| `attributes` | plain attributes of the model and its layers that have changed | run start |
| `rng` | streams now: Python, NumPy, the backend, Keras's global seeds | see `epoch_rng` |
| `epoch_rng` | the same at the start of the epoch | first epoch's start; `rng` at its batch |
| `callbacks` | states of all callbacks, History included | run start and first epoch's start |
| `loop` | what a hand-written loop adds: its torch optimizer | run start |
| `cursor` | state of data sources that have one | first epoch's start |
| `logs` | the last batch's logs | returned by the skipped steps |
| `extra` | what is compared at a resume, and how far the run is | before anything is touched |

What differs between the ranks of a run is stored once for each: see `rank_states`.

Variables are named by place (see `model_state.Places`): their own names differ between two builds
of one model, and their order changes with what is trainable. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends.slices import Slices
from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
from keras_ratchet._engine.resume import rank_states, slice_files
from keras_ratchet._engine.resume.state_codec import decode, encode
from keras_ratchet.errors import LoadError, ResumeError
from keras_ratchet.types import Position

_PARTS = {  # and their keys in the file
    **{part: part for part in ("rng", "epoch_rng", "callbacks", "cursor", "loop", "logs")},
    "extra": "facts",
    **{part: part for part in ("torch_optimizers", "built_for", "trainable", "attributes")},
}

UNCHANGED = "unchanged"  # in the file: the arrays that another one of the snapshot has


@dataclass(slots=True)
class TrainState:
    """One moment of a run, as arrays and plain data.

    Until `materialize` is called, variables may be in the buffers that captured them.

    Attributes:
        alike: Names of the variables that are trained, and so have to be the same on all ranks.
        world_size: How many ranks the run has.
        differs: In which parts of a state that was saved its ranks differ.
        slices: Arrays that are split over the ranks; known once they have joined.
        candidates: Names of the variables that may not have changed since an older snapshot.
        unchanged: Digests of those that have not, whose values are in an older snapshot.
    """

    position: Position
    variables: dict[str, NDArray[Any]]
    rng: dict[str, Any] = field(default_factory=dict)
    epoch_rng: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    cursor: dict[str, Any] = field(default_factory=dict)
    loop: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    torch_optimizers: dict[str, Any] = field(default_factory=dict)
    built_for: dict[str, list[str]] = field(default_factory=dict)
    trainable: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    elapsed_s: float = 0.0
    finished: str = ""
    alike: Collection[str] = ()
    world_size: int = 1
    differs: Collection[str] = ()
    captured: Callable[[], Mapping[str, NDArray[Any]]] | None = None
    slices: dict[str, Slices] = field(default_factory=dict)
    candidates: Collection[str] = ()
    unchanged: Mapping[str, str] = field(default_factory=dict)
    _packed: rank_states.Packed | None = None

    @property
    def done(self) -> str:
        """How many epochs, and batches of the next one, are done, in words."""
        epoch, batch = self.position.epoch, self.position.batch
        return f"{epoch} epoch{'s' * (epoch != 1)} and {batch} batch{'es' * (batch != 1)}"

    def materialize(self) -> None:
        """Read the captured values into `variables`; those already there win."""
        if self.captured is not None:
            self.variables = {**self.captured(), **self.variables}
            self.captured = None

    def join(self, ranks: Any) -> rank_states.Joined:
        """Make rank 0's state one of all ranks; return how they differ. All ranks call it.

        Args:
            ranks: The coordinator.
        """
        self.materialize()
        packed = self.pack()
        self.slices = slice_files.split_off(packed[1])
        joined = rank_states.join(packed, ranks)
        self._packed = joined.put_into(packed, ranks.world_size)
        return joined

    def pack(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the state as data for strict JSON and named arrays."""
        if self._packed is not None:
            return self._packed
        arrays = dict(self.variables)
        data = {
            "position": asdict(self.position),
            "elapsed_s": self.elapsed_s,
            "finished": self.finished,
            "variables": [*self.variables, *self.unchanged],
        }
        for part, key in _PARTS.items():
            data[key] = encode(getattr(self, part), arrays, key)
        return data, arrays

    @classmethod
    def unpack(
        cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], rank: int = 0
    ) -> TrainState:
        """Return the state that `pack` described.

        Args:
            data: What it returned.
            arrays: Likewise.
            rank: Whose state; of a rank that was not there, that of rank 0.

        Raises:
            LoadError: If the data is of another shape.
        """
        world_size = rank_states.world_size(data)
        differs = rank_states.differing_parts(data)
        data, arrays = rank_states.of_rank(data, arrays, rank)
        try:
            decoded = {part: decode(data.get(key, {}), arrays) for part, key in _PARTS.items()}
            return cls(
                position=Position(**data["position"]),
                variables={name: arrays[name] for name in data["variables"]},
                elapsed_s=float(data["elapsed_s"]),
                finished=str(data["finished"]),
                world_size=world_size,
                differs=differs,
                unchanged={str(n): str(d) for n, d in data.get(UNCHANGED, {}).items()},
                **decoded,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LoadError(
                f"the training state cannot be read: {error!r}", see="unreadable"
            ) from error


@dataclass(frozen=True, slots=True)
class BeforeValidation:
    """The metrics of an epoch whose batches are all done, and the random streams then.

    `fit` has drawn the next epoch's iterator by now, so these streams belong to the start of the
    validation and not to the end of the last batch. A state that is captured during the validation
    gets both of them, and so is one of the validation's start.
    """

    metrics: Mapping[str, NDArray[Any]]
    streams: dict[str, Any]


def capture_in_buffers(
    named: Mapping[str, Any], buffers: VariableBuffers, background: bool
) -> Callable[[], Mapping[str, NDArray[Any]]]:
    """Capture the values of variables; return a function that returns them by name.

    Args:
        named: The variables, by name.
        buffers: Captures them.
        background: Whether training continues before they are read.
    """
    names = list(named)
    values = buffers.capture(list(named.values()), background)
    return lambda: dict(zip(names, values.arrays(), strict=True))


def capture_variables(named: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return owned copies of the values of variables, by name."""
    backend = _backends.current()
    return {name: backend.view(variable).copy() for name, variable in named.items()}


def restore_variables(named: Mapping[str, Any], saved: Mapping[str, NDArray[Any]]) -> None:
    """Restore the values of all variables that were saved.

    Raises:
        ResumeError: If a shape differs; then no variable has been touched.
    """
    if problems := shape_differences(named, saved):
        raise ResumeError(f"The saved run does not fit the model: {'; '.join(problems)}.")
    backend = _backends.current()
    for name, variable in named.items():
        if name in saved:
            value = saved[name]
            dtype = backend.view(variable).dtype
            backend.assign(variable, value if value.dtype == dtype else value.astype(dtype))


def shape_differences(named: Mapping[str, Any], saved: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return a sentence for each variable that has another shape than the one that was saved."""
    return [
        f"{name} ({getattr(variable, 'path', variable.name)}) has shape "
        f"{tuple(variable.shape)}, but {saved[name].shape} was saved"
        for name, variable in named.items()
        if name in saved and tuple(saved[name].shape) != tuple(variable.shape)
    ]
