"""Recovery points in host memory, and the return to them."""
