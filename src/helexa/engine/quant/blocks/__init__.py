"""GGUF's block formats: a few consecutive numbers share a scale and lie together in some bytes."""
