"""Anthropic's messages and OpenAI's chat, each said in the other's words: pure functions."""
