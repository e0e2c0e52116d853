"""Keras's global seed generator.

| name | checked on |
|---|---|
| `global_state`'s `global_seed_generator`, `GLOBAL_SEED_GENERATOR` | 3.12.0 to nightly |
"""

from __future__ import annotations

from typing import Any


def global_seed_state(create: bool = False) -> Any:
    """Return the state variable of Keras's global seed generator, or None if there is none yet."""
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator

    if create:
        return seed_generator.global_seed_generator().state
    name = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")
    generator = global_state.get_global_attribute(name)
    return None if generator is None else generator.state
