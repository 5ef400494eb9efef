"""Paged KV blocks and the prefix tree that owns them."""
