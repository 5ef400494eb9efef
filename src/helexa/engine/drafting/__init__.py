"""Drafts: tokens that may come next, verified by the model several at a time."""
