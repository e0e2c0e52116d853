"""One snapshot of all ranks: the state of rank 0, and of each other rank what differs from it.

Each rank packs its state, as it would be written. Digests (16 bytes for each array and for each
entry of `state.json`) tell what is the same everywhere: on most engines nearly all of it. Only the
rest is sent to rank 0 and written, as `ranks` in `state.json` and `ranks/<rank>/...` among the
arrays. So rank 0 needs memory for one state and for what differs on each other rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from keras_ratchet.errors import LoadError, RankError

Arrays = Mapping[str, NDArray[Any]]
Packed = tuple[dict[str, Any], dict[str, NDArray[Any]]]
RANKS = "ranks"
_OF_FIRST = ("elapsed_s", RANKS)  # rank 0's are the run's
_TAG = "$"


@dataclass(slots=True)
class Joined:
    """What the ranks know of each other's states at one moment.

    Attributes:
        digests: Of each rank: the digest of every array; empty if nothing differs.
        others: On rank 0: what differs on each other rank, by rank.
    """

    digests: list[dict[str, bytes]] = field(default_factory=list)
    others: dict[int, tuple[list[Any], dict[str, NDArray[Any]]]] = field(default_factory=dict)

    def put_into(self, packed: Packed, world_size: int) -> Packed:
        """Return rank 0's packed state with those of the other ranks in it."""
        data, arrays = dict(packed[0]), dict(packed[1])
        data[RANKS] = {"world_size": world_size}
        for rank, (entries, own) in self.others.items():
            arrays |= {_stored(rank, name): array for name, array in own.items()}
            data[RANKS][str(rank)] = {"entries": entries, "arrays": list(own)}
        return data, arrays


def join(packed: Packed, ranks: Any) -> Joined:
    """Compare the states of all ranks, and give rank 0 what differs from its own.

    Args:
        packed: This rank's.
        ranks: The coordinator.

    Raises:
        RankError: If the ranks are not at the same place of the run.
    """
    data, arrays = packed
    entries = _entries(data)
    digests = {name: digest(array) for name, array in arrays.items()}
    texts = {at: json.dumps(value, sort_keys=True) for at, value in entries.items()}
    marks = {at: xxhash.xxh3_128_digest(text.encode()) for at, text in texts.items()}
    whole = xxhash.xxh3_128_digest(repr((sorted(digests.items()), sorted(marks.items()))).encode())
    places = ranks.gather((data["position"], whole), "digest of the state")
    _check_places([position for position, _ in places])
    if len({mark for _, mark in places}) == 1:
        return Joined()
    everywhere = ranks.gather((digests, marks), "digests of all variables")
    first = everywhere[0]
    own: tuple[list[Any], dict[str, NDArray[Any]]] = [], {}
    if ranks.rank:
        changed = [[*at, entries[at]] for at in entries if marks[at] != first[1].get(at)]
        absent = [list(at) for at in first[1] if at not in marks]
        kept = {n: np.array(a) for n, a in arrays.items() if digests[n] != first[0].get(n)}
        own = [*absent, *changed], kept
    parts = ranks.collect(own, "state of the ranks") or ()
    others = {rank: part for rank, part in enumerate(parts) if any(part)}
    return Joined([each for each, _ in everywhere], others)


def digest(array: NDArray[Any]) -> bytes:
    """Return 16 bytes that tell an array from others; it is read, not copied."""
    dense = np.ascontiguousarray(array)
    hasher = xxhash.xxh3_128(f"{dense.dtype}{dense.shape}".encode())
    hasher.update(dense.view(np.uint8).reshape(-1).data if dense.ndim else dense.tobytes())
    return hasher.digest()


def world_size(data: Mapping[str, Any]) -> int:
    """Return how many ranks saved a state."""
    return int(data.get(RANKS, {}).get("world_size", 1))


def of_rank(data: Mapping[str, Any], arrays: Arrays, rank: int) -> tuple[dict[str, Any], Arrays]:
    """Return the packed state of one rank; of a rank that was not there, that of rank 0.

    Args:
        data: What `put_into` returned.
        arrays: Likewise.
        rank: The rank.

    Raises:
        LoadError: If the data is of another shape.
    """
    merged = {part: value for part, value in data.items() if part != RANKS}
    own = data.get(RANKS, {}).get(str(rank))
    if own is None:
        return merged, arrays
    try:
        for part, key, *value in own["entries"]:
            _put(merged, part, key, value)
        return merged, {**arrays, **{n: arrays[_stored(rank, n)] for n in own["arrays"]}}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LoadError(
            f"the state of rank {rank} cannot be read: {error!r}", see="unreadable"
        ) from error


def differing_parts(data: Mapping[str, Any]) -> set[str]:
    """Return the names of the parts of `state.json` in which ranks differ."""
    ranks = [part for rank, part in data.get(RANKS, {}).items() if rank != "world_size"]
    entries = {part for own in ranks for part, *_ in own["entries"]}
    return entries | {name.partition("/")[0] for own in ranks for name in own["arrays"]}


def _stored(rank: int, name: str) -> str:
    return f"{RANKS}/{rank}/{name}"


def _entries(data: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return all that the state consists of but arrays, in the pieces that are compared.

    The key is the part and what is in it; "" for a part that has no parts of its own.
    """
    found: dict[tuple[str, str], Any] = {}
    for part, value in data.items():
        if part in _OF_FIRST:
            continue
        if isinstance(value, dict) and _TAG not in value and "" not in value:
            found |= {(part, key): inner for key, inner in value.items()}
        else:
            found[part, ""] = value
    return found


def _put(data: dict[str, Any], part: str, key: str, value: list[Any]) -> None:
    """Replace one entry, or remove it; what is removed comes first."""
    if key == "":
        data[part] = value[0] if value else {}
    elif value:
        data[part] = {**data[part], key: value[0]}
    else:
        data[part] = {name: inner for name, inner in data[part].items() if name != key}


def _check_places(positions: list[Any]) -> None:
    for rank, position in enumerate(positions):
        if position != positions[0]:
            raise RankError(
                f"Rank 0 saves at {positions[0]}, rank {rank} at {position}. Give each rank the "
                "same number of batches, and let no rank stop by itself.",
                see="ranks-differ",
            )
