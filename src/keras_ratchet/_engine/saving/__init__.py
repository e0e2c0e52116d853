"""Checkpoint files: decided, captured, written."""
