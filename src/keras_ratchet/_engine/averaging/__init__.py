"""Averages of weights during and after a run."""
