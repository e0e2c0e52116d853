"""Values out of a model, and back into it."""
