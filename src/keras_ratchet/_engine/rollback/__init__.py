"""Rollback: recovery points in host memory, and the way back to them."""
