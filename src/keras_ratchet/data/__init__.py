"""Data for which resume is exact: whatever the source, the backend and the number of workers.

| name | what it is |
|---|---|
| `ResumableDataset` | arrays in an order that is a pure function of seed and epoch |
| `resumable` | makes a resumable dataset of a loader, an iterator or a generator |
"""

from keras_ratchet.data.resumable_dataset import ResumableDataset
from keras_ratchet.data.wrapper import resumable

__all__ = ["ResumableDataset", "resumable"]
