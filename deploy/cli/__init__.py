"""The `neurodial` command line."""
