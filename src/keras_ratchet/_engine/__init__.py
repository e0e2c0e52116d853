"""DO: the only place where decisions meet effects."""
