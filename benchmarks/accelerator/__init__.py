"""Saves and exact resume where the weights lie on an accelerator; see benchmarks/gpu.py."""
