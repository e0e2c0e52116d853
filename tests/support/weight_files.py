"""Model files for tests: saved with a manifest, and read weight by weight, without a run."""

from keras_ratchet._formats.readers import open_weights


def save_model(model, path, manifest, whole=False):
    """Save a model, or its weights, here and now; return the manifest."""
    from keras_ratchet._engine.capture.finite import FiniteWatch
    from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
    from keras_ratchet._engine.saving.model_file import freeze_model, write_model_file
    from keras_ratchet._engine.saving.provenance import state_bytes
    from keras_ratchet._formats import format_of

    buffers = VariableBuffers()
    frozen = freeze_model(
        model,
        format_of(path, "model" if whole else "weights"),
        lambda sources, _: buffers.capture(sources, background=False),
        FiniteWatch(),
    )
    return write_model_file(frozen, path, manifest, state_bytes(model))


def read_weights(path):
    """Yield (readable name, array) of each weight of a file, one at a time."""
    with open_weights(path) as weights:
        for weight in weights:
            yield weight.name, weight.read()
