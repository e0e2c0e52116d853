"""WATCH: a script is started, watched and started again. No Keras."""
