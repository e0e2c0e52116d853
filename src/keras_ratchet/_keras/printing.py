"""How Keras prints with `verbose=1`.

| name | checked on |
|---|---|
| `io_utils.print_msg` | 3.12.0 to nightly |
"""

from __future__ import annotations


def print_message(message: str) -> None:
    """Print as Keras's own callbacks do with `verbose=1`."""
    from keras.src.utils import io_utils

    io_utils.print_msg(message)
