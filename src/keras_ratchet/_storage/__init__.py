"""BYTES: files that cannot be torn. Never Keras."""
