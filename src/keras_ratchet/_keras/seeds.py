"""Keras's global seeds.

| name | for | checked on |
|---|---|---|
| `global_state.get_global_attribute` | what Keras keeps by name | 3.12 to 3.16 |
| `seed_generator.global_seed_generator` | the generator, made if there is none | 3.12 to 3.16 |
| `seed_generator.GLOBAL_SEED_GENERATOR` | its key | 3.13 to 3.16 |
| `seed_generator['global_seed_generator']` | its key before | 3.12 to 3.16 |
| `rng_utils.GLOBAL_RANDOM_SEED` | key of what `set_random_seed` was given | 3.12 to 3.16 |
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


def has_global_seed() -> bool:
    """Return whether `keras.utils.set_random_seed` was called."""
    from keras.src.backend.common import global_state
    from keras.src.utils import rng_utils

    return global_state.get_global_attribute(rng_utils.GLOBAL_RANDOM_SEED) is not None
