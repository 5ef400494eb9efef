"""Tokens in, tokens out: models, caches, scheduling and sampling on torch."""
