"""Decode steps that are launched before the tokens of the one before are read."""
