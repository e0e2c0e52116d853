"""Rules that are offered to be compared with, not because they are better."""
