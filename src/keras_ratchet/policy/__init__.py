"""DECIDE: pure rules. No clock, disk, environment, randomness, logging, NumPy or Keras."""
