"""Python's garbage collector, spared what the libraries have loaded.

A full pass over the objects of Keras, torch and TensorFlow takes 0.3 to 1.5 s, and
`keras.backend.clear_session` asks for one each time.
"""

import gc
import sys

_MANY = 50  # modules: fewer are not worth a pass of their own
_seen = [0]  # modules at the last call


def spare(always=False):
    """Exempt all living objects from collection if many modules were loaded since the last call."""
    if always or len(sys.modules) >= _seen[0] + _MANY:
        gc.collect()
        gc.freeze()
        _seen[0] = len(sys.modules)
