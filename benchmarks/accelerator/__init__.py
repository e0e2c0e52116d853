"""Saves and exact resume with weights on an accelerator; see benchmarks/gpu.py."""
