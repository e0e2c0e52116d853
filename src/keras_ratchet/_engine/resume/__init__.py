"""The state of a run: captured, stored, compared, restored."""
