"""The OpenAI surfaces: requests into calls, events into chunks and whole answers."""
