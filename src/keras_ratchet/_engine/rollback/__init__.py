"""Rollback: recovery points in host memory, and restoring them."""
