"""Keras's private names, one topic a file: each with its table of versions and its canary."""
