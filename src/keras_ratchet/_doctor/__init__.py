"""TRY: a script is run whole, killed and run again, and what comes out is compared. No Keras."""
