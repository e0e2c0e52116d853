"""Checkpoints on object stores, through fsspec: put, listed, fetched, verified, deleted."""
