"""`python -m keras_ratchet`."""

from keras_ratchet.cli import main

if __name__ == "__main__":
    main(prog_name="ratchet")
