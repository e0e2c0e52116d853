"""The versions of Keras on which the tests of exact resume have passed.

| minor version | run with |
|---|---|
| 3.12 | 3.12.0 |
| 3.13 | 3.13.2 |
| 3.14 | 3.14.1 |
| 3.15 | 3.15.1 |
| 3.16 | keras-nightly 3.16.0.dev2026102704 |

`make next-keras` runs them on the newest keras-nightly, `tests/keras/test_meanings.py` among
them: these look at what is trained on, and not at names.
"""

from __future__ import annotations

_PROVED = ("3.12", "3.13", "3.14", "3.15", "3.16")


def unproved() -> str:
    """Return why exactness is not proved on this Keras, or nothing if it is."""
    import keras

    if ".".join(keras.__version__.split(".")[:2]) in _PROVED:
        return ""
    return (
        f"exactness is not proved on Keras {keras.__version__}, only on {_PROVED[0]} to "
        f"{_PROVED[-1]}. Another order of batches would go unseen."
    )
