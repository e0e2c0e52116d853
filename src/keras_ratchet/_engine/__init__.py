"""DO: where decisions meet models and disks."""
