"""Whole experiments, one file per command."""
