"""Whole experiments as plain functions; each command is one of them."""
