"""Studies: one file for each command, with its request and what it runs."""
