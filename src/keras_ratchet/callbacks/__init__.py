"""KERAS: hooks in, calls out."""
